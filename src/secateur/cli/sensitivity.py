"""``sensitivity``: how the network suffers when one group alone is pruned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import Given
from secateur.cli.ending import going_on
from secateur.cli.flags import Flag, flags_of
from secateur.cli.folders import holding
from secateur.cli.output import saved
from secateur.cli.selection import NETWORK, OUTPUT, AsJson, Download, Quiet, method_flags, recipe_of
from secateur.cli.tables import say, say_json, table
from secateur.errors import ArtifactError, DataError, SettingError
from secateur.progress import Listener

if TYPE_CHECKING:
    from torch import nn

    from secateur.core.selection.sensitivity_curves import Curve
    from secateur.events import Tell
    from secateur.recipe import Recipe

METHOD = "magnitude"
_ASKED = ("method", "leave", "free_outputs", "groups", "patience", "min_units", "multiple", "seed")


@dataclass(frozen=True)
class Looking:
    """How closely is looked.

    Attributes:
        levels: points of each curve.
        images: of the validation split that are looked at; all if there are fewer.
    """

    levels: int = 8
    images: int = 2048

    def __post_init__(self) -> None:
        for name in ("levels", "images"):
            if getattr(self, name) < 1:
                raise SettingError(f"--{name} must be at least 1, not {getattr(self, name)}")


def flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``sensitivity``."""
    from secateur.recipe import Recipe

    network = flags_of(Recipe, "recipe", "Network and data", names=NETWORK, required=("model", "data"))
    asked = flags_of(Recipe, "recipe", "What goes first", names=_ASKED)
    closely = flags_of(Looking, "own", "How closely")
    return [*network, *asked, *closely, *method_flags(args, METHOD, closely)]


def sensitivity(
    given: Given,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for curves and page; by default in out/.", metavar="DIR", rich_help_panel=OUTPUT
        ),
    ] = None,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show how the network suffers when each group alone is pruned.

    Nothing is trained. In its table ~ stands before what is read between two measured points. What was measured is
    kept, so that a command that was killed goes on when it is given again. To prune by these curves, give `secateur
    prune` --allocate sensitivity.
    """
    from secateur.report.summary import subject

    looking, recipe = Looking(**given.of("own")), recipe_of(given, method=METHOD)
    folder = out or Path("out") / f"sensitivity-{recipe.name()}"
    name, work = subject({"model": recipe.model, "data": recipe.data}), folder / "work"
    with holding(folder, work):
        with going_on(work), Listener(quiet or as_json) as tell:
            found, images = _measured(recipe, looking, folder, download, tell)
        files = _written(found, name, recipe.method, images, folder)
        saved(folder)
    if as_json:
        say_json({"curves": [curve.to_dict() for curve in found], "images": images, "files": files})
        return
    _speak(found, images)
    say(f"Curves: {files['curves']}", f"Page: {files['page']}")


def _measured(
    recipe: Recipe, looking: Looking, folder: Path, download: bool, tell: Tell
) -> tuple[tuple[Curve, ...], int]:
    import torch

    from secateur import run
    from secateur.core.method import ScoreMethod
    from secateur.core.problem import Problem
    from secateur.core.sizes.limits import Limits
    from secateur.data import load_calibration
    from secateur.data.lazy_batches import Later
    from secateur.run import preflight
    from secateur.run.device_placement import place_for, there
    from secateur.run.sources import sources
    from secateur.search.racing.evaluation import held_for
    from secateur.search.sensitivity import curves

    code = [each.sha256[:12] for each in sources(recipe) if each.setting == "model"]  # all else is known by its content
    method = run.method_of(recipe)
    if not isinstance(method, ScoreMethod):
        raise SettingError(
            f"{recipe.method} gives units no scores, so nothing goes first; take a method that does, such as {METHOD}"
        )
    subject = run.subject_of(recipe, download=download, tell=tell) if recipe.data else None
    if subject is None or subject.data is None:
        raise DataError("sensitivity is measured on validation images; name a data set with --data")
    model, data, limits = subject.model, subject.data, Limits(recipe.min_units, recipe.multiple)
    preflight.check_weights(model)
    preflight.warn_of_random_weights(model, tell)
    graph = run.graph_of(recipe, model, subject.example, tell=tell)
    batches = data.batches("train", 128, seed=recipe.seed)

    def measured(model: nn.Module) -> tuple[tuple[Curve, ...], int]:
        rng = torch.Generator().manual_seed(recipe.seed * 1000 + 1)  # as in the first round of pruning
        images = Later(lambda: load_calibration(data, seed=recipe.seed).batches)
        problem = Problem(
            model, graph, batches=batches, task=data.task, images=images, limits=limits, rng=rng, tell=tell
        )
        scores = method.scores(problem)
        held = held_for(data.task, data.batches("val"), model, looking.images)
        work = folder / "work" / "-".join(code)
        return curves(model, graph, scores, held, limits=limits, levels=looking.levels, work=work, tell=tell), len(held)

    return there(model, place_for(model), measured, tell)


def _written(found: Sequence[Curve], name: str, method: str, images: int, folder: Path) -> dict[str, str]:
    from secateur import artifact
    from secateur.report.curves import page

    document: dict[str, Any] = {
        "format": 1,
        "subject": name,
        "method": method,
        "images": images,
        "curves": [curve.to_dict() for curve in found],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        artifact.write_file(folder / "sensitivity.json", (json.dumps(document, indent=1) + "\n").encode())
        artifact.write_file(folder / "sensitivity.html", page(found, name, method, images).encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from None
    return {"curves": str(folder / "sensitivity.json"), "page": str(folder / "sensitivity.html")}


def _speak(found: Sequence[Curve], images: int) -> None:
    from secateur.report import curves

    headings = ("Group", "Units", *(f"{100 * keep:g} %" for keep in curves.KEEPS))
    rows = [
        (group, str(size), *(text.removesuffix(" %") for text, _ in cells))
        for group, size, cells in curves.table(found)
    ]
    say(table(headings, rows, numbers=range(1, len(headings))), "")
    if found and found[0].values:
        metric = curves.metric_in(found)
        say(
            f"Validation {metric.title} ({images:,} images) with this share of a group's units left; "
            f"the dense network has {metric.text(found[0].values[0])}. What has a {curves.BETWEEN} was not measured "
            "but is read between two numbers of units that were; --levels says how many are."
        )
