"""A remedy names only flags that the command has to which it is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import secateur
from secateur.cli.app import app

SOURCE = Path(secateur.__file__).parent
_FLAG = re.compile(r"--[a-z][a-z0-9-]*")
_GENERAL = {"--debug", "--help", "--version"}  # which are taken anywhere
_FOREIGN = {"--upgrade"}  # of pip
RUNS = ("prune", "run", "demo")
NAMED = ("prune", "plan", "sensitivity", "explain", "evaluate", "measure")  # take --model
DECIDE = ("prune", "plan")
SAID_BY: dict[str, tuple[str, ...]] = {
    "artifact/folder.py": RUNS,
    "artifact/dense_network.py": ("explain", "evaluate", "measure", "bench", "export", "encode"),
    "cli/bench.py": ("bench",),
    "cli/compare.py": ("compare",),
    "cli/encode.py": ("encode", "decode"),
    "cli/network_flags.py": ("export",),
    "encoding/encoded.py": ("encode", "decode"),
    "cli/exports.py": ("export", "prune"),
    "cli/folders.py": RUNS,
    "cli/carrying_out.py": ("prune",),
    "cli/plan.py": ("plan",),
    "cli/prune.py": ("prune",),
    "cli/sensitivity.py": ("sensitivity",),
    "cli/subject.py": ("explain", "evaluate", "measure"),
    "compare/run_all.py": ("compare",),
    "compare/outputs.py": ("compare",),
    "core/method.py": DECIDE,
    "core/metric.py": (*DECIDE, "export"),
    "core/selection/goals.py": DECIDE,
    "core/graph/outputs.py": ("prune", "plan", "sensitivity", "explain"),
    "core/problem.py": DECIDE,
    "core/surgery/proof.py": DECIDE,
    "core/surgery/verification.py": DECIDE,
    "data/batch_checks.py": NAMED,
    "data/dataset.py": NAMED,
    "data/image_pairs.py": NAMED,
    "data/inputs.py": DECIDE,
    "data/masks.py": NAMED,
    "data/unlabelled_folder.py": DECIDE,
    "data/known_sets.py": NAMED,
    "export/int8.py": ("export",),
    "methods/accuracy_reduction.py": DECIDE,
    "methods/apoz.py": DECIDE,
    "methods/fine_pruning.py": DECIDE,
    "methods/grain.py": DECIDE,
    "methods/reconstruction.py": DECIDE,
    "methods/retrieval_edges.py": DECIDE,
    "methods/taylor.py": DECIDE,
    "methods/weak_subnetwork.py": DECIDE,
    "models/sources.py": ("run", "compare"),
    "models/weights.py": NAMED,
    "reconstruction/passes.py": DECIDE,
    "repair/repairs.py": DECIDE,
    "rules.py": NAMED,
    "run/fine_tuned.py": ("prune",),
    "run/preflight.py": ("prune", "plan", "sensitivity", "explain"),
    "run/budget_target.py": DECIDE,
    "run/calibration_images.py": NAMED,
    "run/time_budget.py": ("prune",),
    "run/budget_search.py": DECIDE,
    "run/subject.py": NAMED,
    "run/sources.py": (*RUNS, "compare"),
    "run/latency_aware_methods.py": ("prune",),
    "run/work_folder.py": (*RUNS, "compare"),
    "search/racing/held_out_images.py": DECIDE,
    "search/racing/evaluation.py": DECIDE,
    "search/competition.py": DECIDE,
    "search/task_examples.py": DECIDE,
    "spelling.py": (*RUNS, "compare", "sensitivity"),
    "training/objective.py": ("prune",),
    "training/checkpoint.py": (*RUNS, "compare"),
}
OTHERWISE = {
    ("cli/network.py", "--data"): ("evaluate",),
    ("cli/network.py", "--mean"): ("evaluate",),
    ("cli/network.py", "--std"): ("evaluate",),
    ("cli/network.py", "--format"): ("export",),
    ("cli/network.py", "--force"): ("export",),
    ("cli/network.py", "--device"): ("measure", "bench"),
    ("cli/prune.py", "--out"): RUNS,
    ("cli/subject.py", "--calibrate"): DECIDE,
    ("core/method.py", "--keeps"): ("magnitude", "filter_std"),  # a setting of methods
    ("methods/apoz.py", "--near"): ("apoz",),
    ("methods/retrieval_edges.py", "--criterion"): ("retrieval_edges",),
    ("methods/retrieval_edges.py", "--ratio"): ("retrieval_edges",),
    ("run/budget_target.py", "--epochs"): ("prune",),
    ("run/budget_target.py", "--lr"): ("prune",),
    ("run/latency_aware_methods.py", "--forecast"): ("plan",),
    ("run/preflight.py", "--epochs"): ("prune",),
    ("run/preflight.py", "--weights"): ("prune", "plan", "sensitivity"),
}
_LEFT_OUT = ("cli/app.py", "cli/flags.py", "cli/selection.py", "cli/command.py")  # which make flags, and examples


@cache
def flags_of(command: str) -> frozenset[str]:
    """Return the flags of a command, or the settings of a method as such."""
    group: Any = typer.main.get_command(app)
    known = command in group.commands
    return flags_of_command(command, ()) if known else flags_of_command("prune", ("--method", command))


def flags_of_command(command: str, words: tuple[str, ...]) -> frozenset[str]:
    group: Any = typer.main.get_command(app)
    context = group.commands[command].make_context(command, list(words), resilient_parsing=True)
    options = [(*it.opts, *it.secondary_opts) for it in context.command.params if it.param_type_name == "option"]
    return frozenset(name for names in options for name in names)


def named(path: Path) -> Iterator[str]:
    """Yield the flags that the texts of a file name, but for those in docstrings."""
    text = path.read_text()
    if "--" not in text and "setting" not in text:  # most files, and quicker said than by their trees
        return
    tree = ast.parse(text)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, kinds) and _documented(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield from _FLAG.findall(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setting", "setting_as"):
            for name in (it.value for it in ast.walk(node.args[0]) if isinstance(it, ast.Constant)):
                yield f"--{name.replace('_', '-')}"


def _documented(node: Any) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr)


FOUND = sorted(
    {
        (path.relative_to(SOURCE).as_posix(), flag)
        for path in SOURCE.rglob("*.py")
        for flag in named(path)
        if flag not in _GENERAL | _FOREIGN and path.relative_to(SOURCE).as_posix() not in _LEFT_OUT
    }
)


@pytest.mark.parametrize(("file", "flag"), FOUND)
def test_a_flag_that_a_text_names_is_one_of_the_command(file: str, flag: str) -> None:
    commands = OTHERWISE.get((file, flag)) or SAID_BY.get(file)
    assert commands, f"say which commands can say {flag} of {file}"
    assert [command for command in commands if flag not in flags_of(command)] == []


def test_all_of_them_are_looked_at() -> None:
    assert {("data/known_sets.py", "--download"), ("cli/bench.py", "--no-save"), ("core/problem.py", "--data")} <= {
        *FOUND
    }
    assert {*SAID_BY} == {file for file, _ in FOUND if file in SAID_BY}  # no file that names none any more


@pytest.mark.parametrize("command", ["explain", "measure"])
def test_what_takes_a_data_set_can_fetch_it(command: str) -> None:
    assert {"--data", "--download"} <= flags_of(command)
