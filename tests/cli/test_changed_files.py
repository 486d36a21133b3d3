"""A finished result, and work under way, are those of the files that the command names, and need no writing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import Call
from secateur import artifact
from secateur.artifact import locks
from secateur.artifact.store import MEASUREMENT
from secateur.cli.folders import open_work
from secateur.compare import Comparison, distinct, requests
from secateur.recipe import Recipe
from secateur.run.sources import hold

ASKED = ("prune", "--model", "nets.py:small", "--image", "1x28x28", "--weights", "dense.safetensors")
ASKED += ("--method", "magnitude", "--keep", "0.5", "--no-latency", "--export", "", "--out", "small", "--quiet")

FEW = """
model = "nets.py:small"
weights = "dense.safetensors"
data = "mnist5k"
controls = ["uniform"]
seeds = [0, 1]

[target]
keeps = [0.6]
repairs = [[]]

[[method]]
name = "magnitude"

[train]
epochs = 3
"""


def trained(seed: int) -> None:
    torch.manual_seed(seed)
    shapes = {"0": (8, 1, 5, 5), "2": (8, 8, 3, 3), "5": (10, 72)}
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    save_file(weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}, "dense.safetensors")


@pytest.fixture
def done(secateur: Call) -> Call:
    trained(0)
    ended = secateur(*ASKED)
    assert ended.status == 0, ended.err
    return secateur


@contextmanager
def read_only(path: Path, *, wait: bool = False) -> Generator[None]:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    yield


def test_the_same_files_give_the_same_result(done: Call) -> None:
    before = Path("small/weights.safetensors").read_bytes()
    trained(0)  # the same content, written later
    assert "is the finished result of this very recipe" in done(*ASKED).out
    Path("dense.safetensors").unlink()
    assert done(*ASKED).status == 0
    assert Path("small/weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", ["dense.safetensors", "nets.py"])
def test_other_content_under_the_same_name_is_refused(file: str, done: Call) -> None:
    before = Path("small/weights.safetensors").read_bytes()
    if file == "nets.py":
        with Path(file).open("a") as code:
            code.write("# a change\n")
    else:
        trained(1)
    ended = done(*ASKED)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: small is the finished result of this very recipe, but the ")
    assert f"{file}" in ended.err
    assert ended.err.endswith("has changed since; make it anew with --force, or choose another --out\n")
    assert Path("small/weights.safetensors").read_bytes() == before
    assert done(*ASKED, "--force").status == 0
    assert (Path("small/weights.safetensors").read_bytes() == before) == (file == "nets.py")
    assert done(*ASKED).status == 0


def test_a_result_of_before_there_was_a_record_still_counts(done: Call) -> None:
    path = Path("small") / MEASUREMENT
    document = json.loads(path.read_text())
    del document["sources"]
    path.write_text(json.dumps(document))
    artifact.record("small", MEASUREMENT)
    trained(1)
    assert done(*ASKED).status == 0


def test_unfinished_work_of_other_files_is_refused_and_dropped_on_request(done: Call) -> None:
    work, recipe = Path("small.work"), Recipe.read("small/recipe.toml")
    shutil.rmtree("small")
    open_work(work, recipe, False)
    hold(work, recipe)
    (work / "round-1.ckpt").write_text("half of a training")
    trained(1)
    ended = done(*ASKED)
    assert ended.status == 1
    assert "small.work holds an unfinished run of this very recipe, but the weights file" in ended.err
    assert "drop it with --force, or choose another --out" in ended.err
    assert (work / "round-1.ckpt").exists()
    assert done(*ASKED, "--force").status == 0
    assert not work.exists()


def test_a_finished_result_is_shown_where_nothing_can_be_written(done: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "claimed", read_only)
    ended = done(*ASKED)
    assert ended.status == 0, ended.err
    assert "is the finished result of this very recipe" in ended.out
    for more in (["--force"], ["--out", "other"]):
        ended = done(*ASKED, *more)
        assert (ended.status, ended.err.count("\n")) == (1, 1)
        assert "Read-only file system; choose another --out" in ended.err


def test_an_export_names_the_file_that_was_asked_for(
    secateur: Call, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    ended = secateur("export", pruned, "--format", "pt2", "--no-latency", "--quiet")
    assert ended.status == 1
    assert f"cannot write {pruned / 'model.pt2'}: Read-only file system" in ended.err
    assert "partial" not in ended.err


def test_a_comparison_of_other_weights_is_refused(secateur: Call) -> None:
    trained(0)
    Path("few.toml").write_text(FEW.partition("[train]")[0].replace("[0, 1]", "[0]"))
    assert secateur("compare", "few.toml", "--trust", "--quiet").status == 0
    pages = {path: path.read_bytes() for path in Path("out/few").glob("*.*")}
    assert secateur("compare", "few.toml", "--trust", "--quiet").status == 0
    trained(1)
    ended = secateur("compare", "few.toml", "--trust", "--quiet")
    assert ended.status == 1
    assert "but the weights file dense.safetensors has changed since" in ended.err
    assert "choose another --out" in ended.err
    assert {path: path.read_bytes() for path in Path("out/few").glob("*.*")} == pages


def test_a_list_counts_what_it_lists_and_says_which_lines_are_one_run(secateur: Call) -> None:
    Path("few.toml").write_text(FEW)
    listed = secateur("compare", "few.toml", "--list")
    assert "2 runs are left, 6 epochs in all." in listed.out
    assert listed.said.count("magnitude, keep 0.6, repair none, seed") == 2
    assert listed.said.count("the same as uniform") == 2
    rows = json.loads(secateur("compare", "few.toml", "--list", "--json").out)["runs"]
    assert [row["epochs"] for row in rows] == [3, 3]
    assert [row["also"] for row in rows] == [[f"uniform width, keep 0.6, repair none, seed {seed}"] for seed in (0, 1)]
    wanted = requests(Comparison.from_toml(FEW))
    assert [request.label for request in distinct(wanted)] == ["magnitude", "magnitude"]


def test_the_result_of_a_recipe_without_files_says_so(pruned: Path) -> None:
    assert json.loads((pruned / MEASUREMENT).read_text())["sources"] == []
