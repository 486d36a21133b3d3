"""``plan``: what a method would remove, without removing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import Given
from secateur.cli.flags import Flag
from secateur.cli.output import saved
from secateur.cli.selection import OUTPUT, AsJson, Download, Force, Quiet, method_asked, recipe_of, selection_flags
from secateur.cli.tables import say, say_json, table
from secateur.errors import ArtifactError, BranchingError
from secateur.progress import Listener

if TYPE_CHECKING:
    from secateur.core.graph import Graph
    from secateur.core.plan import Plan
    from secateur.events import Tell
    from secateur.recipe import Recipe
    from secateur.run.speed_forecast import Foretold

    _Decided = tuple[Graph, Plan, Foretold | None, Mapping[str, Any]]

SIZES = {"params": "Parameters", "nonzero": "Nonzero parameters", "macs": "MACs", "units": "Units"}


def flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``plan``."""
    return selection_flags(args)


def plan(
    given: Given,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the plan to this file, as JSON.", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option("--forecast", help="Say how fast the network would be: time one of these widths, untrained."),
    ] = False,
    force: Force = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be removed, and how large the network would be.

    Nothing is trained and no network is changed. The whole target is reached in one round. Without --forecast nothing
    is timed, unless a latency is limited, and widths follow the rule.
    """
    from secateur import artifact, run
    from secateur.atomic import refuse_special
    from secateur.core.sizes.size import size
    from secateur.methods import name_of
    from secateur.report import limits
    from secateur.run.fallback import without_fit

    recipe = recipe_of(given)
    if out is not None and out.name in ("", ".."):
        raise ArtifactError(f"'{out}' is no name for a file; name one such as plan.json")
    if out is not None and out.exists() and not force:
        raise ArtifactError(f"{out} exists already; choose another file, or replace it with --force")
    if out is not None:
        try:
            refuse_special(out)
        except OSError as error:
            raise ArtifactError(f"cannot write {out}: {error.strerror or error}; choose another file") from None
    asked = method_asked(given)
    with Listener(quiet or as_json) as tell:
        try:
            graph, decided, foretold, budget = _decide(recipe, download, forecast, tell, asked)
        except BranchingError as error:
            method, _ = without_fit(error, run.method_of(recipe), (), method_asked=asked, repair_asked=True, tell=tell)
            recipe = replace(recipe, method=name_of(method))
            graph, decided, foretold, budget = _decide(recipe, download, forecast, tell, True)
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            artifact.write_file(out, (decided.to_json() + "\n").encode())
            saved(out)
        except OSError as error:
            raise ArtifactError(f"cannot write {out}: {error.strerror or error}; choose another file") from None
    before, after = size(graph), size(graph, decided)
    groups = _groups(graph, decided)
    missing = after.remark(before, recipe.keep if recipe.of == "macs" else None)
    if as_json:
        sizes = {"before": _sizes(before), "after": _sizes(after)}
        promise = {"forecast": foretold.to_dict()} if foretold else {}
        promise |= {"budget": budget} if budget else {}
        promise |= {"uncounted": missing} if missing else {}
        say_json({"plan": _json(decided), "groups": groups, **sizes, **promise, "file": str(out) if out else None})
        return
    rows = [(g["group"], f"{g['kept']} of {g['units']}", _layers(g["layers"])) for g in groups]
    say(table(("Group", "Kept", "Layers that make it"), rows, numbers=(1,)), "")
    say(_size_table(_sizes(before), _sizes(after)), "")
    say(*([limits.sentence(missing)] if missing else []))
    say(*limits.kept({"budget": budget}), *limits.widths({"notes": decided.notes}))
    if foretold:
        say(limits.sentence(foretold.sentence()))
    if out is not None:
        say("", f"Plan: {out}")


def _decide(recipe: Recipe, download: bool, forecast: bool, tell: Tell, asked: bool) -> _Decided:
    """Return the network's graph, the plan that ``prune`` would begin with, what it promises, and its limits."""
    from secateur import run
    from secateur.core.sizes.limits import Limits
    from secateur.core.sizes.size import Target
    from secateur.core.surgery import cut
    from secateur.repair import chosen
    from secateur.run import preflight
    from secateur.run.budget_target import check_budget
    from secateur.run.device_placement import place_for
    from secateur.run.fallback import for_images
    from secateur.run.job import Job
    from secateur.run.latency_aware_methods import check_timing
    from secateur.run.pipeline import Pipeline
    from secateur.run.recipes import runtime_of
    from secateur.run.replanning import carried_out
    from secateur.run.round import Round
    from secateur.run.speed_forecast import foretell

    method = run.method_of(recipe)
    target = None if recipe.keep is None else Target(recipe.keep, recipe.of)
    preflight.check_goals([(method, target)], told_later=recipe.budget is not None)
    recipe = replace(recipe, latency=forecast)
    named, among, threads = runtime_of(recipe)
    subject = run.subject_of(recipe, download=download, tell=tell)
    model, data, images = subject.model, subject.data, subject.images
    repair = chosen(recipe.repair, images=data is not None or images is not None)
    method, repair = for_images(images, data, recipe.calibrate_images, method, repair, method_asked=asked, tell=tell)
    job = Job(
        dense=model,
        inputs=subject.example,
        method=method,
        target=target,
        data=data,
        train=None,
        leave=recipe.leave,
        free_outputs=recipe.free_outputs,
        groups=recipe.groups,
        limits=Limits(recipe.min_units, recipe.multiple),
        seed=recipe.seed,
        latency=recipe.latency,
        repair=repair,
        calibrate=images,
        calibrate_images=recipe.calibrate_images,
        patience=recipe.patience,
        budget=recipe.budget,
        runtime=named,
        among=among,
        threads=threads,
        work=None,
        tell=tell,
        place=place_for(model, recipe.train or recipe.shape),
    )
    preflight.check_weights(model)
    preflight.warn_of_random_weights(model, tell)
    check_budget(recipe.budget, data, recipe.train)
    check_timing([method], recipe.latency, recipe.budget)
    graph = job.graph = job.read(model)
    Pipeline(job).settle(graph)

    def work(graph: Graph) -> tuple[Plan, Foretold | None]:
        decided = Round(job, 1, job.method, job.target, model, graph).decide()
        if not forecast:
            cut(model, graph, decided, job.inputs)
            return decided, None
        assert job.runtime is not None
        return decided, foretell(model, graph, decided, job.inputs, job.runtime, threads=job.threads, tell=tell)

    graph, (decided, foretold) = carried_out(job.graph, work, partial(job.read, model))
    return graph, decided, foretold, job.settled.found if job.settled else {}


def _groups(graph: Graph, decided: Plan) -> list[dict[str, Any]]:
    gone = decided.dropped()
    return [
        {
            "group": group.name,
            "units": group.size,
            "kept": group.size - len(gone.get(group.name, ())),
            "layers": list(group.layers),
        }
        for group in graph.free
    ]


def _sizes(size: Any) -> dict[str, int]:
    return {name: int(getattr(size, name)) for name in SIZES}


def _size_table(before: dict[str, int], after: dict[str, int]) -> Any:
    rows = [
        (label, f"{before[name]:,}", f"{after[name]:,}", f"{100 * after[name] / max(1, before[name]):.1f} %")
        for name, label in SIZES.items()
        if name != "nonzero" or after[name] != after["params"]
    ]
    return table(("On paper", "Before", "After", "Kept"), rows, numbers=(1, 2, 3))


def _layers(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])}, {len(names) - 2} more"


def _json(decided: Plan) -> Any:
    import json

    return json.loads(decided.to_json())
