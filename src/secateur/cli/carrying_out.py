"""Carrying out a recipe from the first check to the last line: work folder, result folder, exports, report."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli import exports
from secateur.cli.ending import going_on
from secateur.cli.folders import (
    Unwritable,
    discard_if_empty,
    holding,
    is_finished,
    open_work,
    place_of,
    refuse_changed,
    short,
    sweep,
    will_be_finished,
)
from secateur.cli.output import saved
from secateur.cli.tables import change, conditions, kept_whole, say, say_json
from secateur.errors import DataError, ExportError, SecateurError, SettingError, nearest
from secateur.events import Event, once
from secateur.progress import Listener
from secateur.spelling import said

if TYPE_CHECKING:
    from secateur.measure import Deployed
    from secateur.recipe import Recipe
    from secateur.run import Result


def carry_out(
    recipe: Recipe,
    out: Path | None,
    *,
    force: bool,
    download: bool,
    quiet: bool,
    as_json: bool,
    method_asked: bool = True,
) -> None:
    """Do what a recipe says, save it and print what came out.

    A result of the very same recipe that is there already is printed as it is, unless ``force``.

    Args:
        recipe: what to do.
        out: the result folder; one named after the recipe if None.
        force: replace a result that is there.
        download: fetch a missing data set.
        quiet: print results only.
        as_json: print one JSON document only.
        method_asked: see ``run_recipe``.

    Raises:
        SecateurError: one of its kinds; a result that was there is untouched then.
        KeyboardInterrupt: with a sentence on how to go on, if there is anything to go on from.
    """
    from secateur import artifact, run
    from secateur.models.sources import refuse_own_code

    folder = Path("out") / recipe.name() if out is None else out
    refuse_own_code(recipe.model)
    run.method_of(recipe)
    run.steps_of(recipe)
    _check(recipe)
    place = place_of(folder)
    work = short(place.with_name(f"{place.name}.work"))
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process alone writes and speaks
        if not force and will_be_finished(place, recipe):
            return
        with Listener(quiet=True) as tell:
            run.run_recipe(recipe, work=work, download=download, method_asked=method_asked, tell=tell)
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(folder, work))
        except Unwritable:
            if force or not _there(recipe, place, folder, as_json):
                raise
            return
        artifact.recover(place, alone=True)
        if not force and _there(recipe, place, folder, as_json):
            sweep(work, place)
            return
        artifact.check_name(folder)
        artifact.refuse(place, force=force)
        open_work(work, recipe, force)
        with going_on(work):
            try:
                with Listener(quiet or as_json) as tell:
                    result = run.run_recipe(recipe, work=work, download=download, method_asked=method_asked, tell=tell)
                    made, written, page = _save(result, folder, force, tell)
            finally:
                discard_if_empty(work)
        shutil.rmtree(work, ignore_errors=True)
    saved(folder)
    document = artifact.document(result)
    if as_json:
        files = [each.to_dict() for each in written]
        say_json({**document, "folder": str(folder), "report": str(page), "exports": files})
        return
    _speak(document, folder, page, [*exports.said_of(made), *(each.line() for each in written)])


def _speak(document: Mapping[str, Any], folder: Path, page: Path, lines: Sequence[str]) -> None:
    """Print what came out."""
    from secateur import report
    from secateur.report import limits, minutes
    from secateur.report.summary import calibration, repairs, verification

    about = [*conditions(document), *limits.foretold(document), *limits.kept(document), *limits.widths(document)]
    say(report.outcome(document), "", change(document), *about, "")
    say(f"Verified: {verification(document)}", kept_whole(document["explanation"]))
    say(*(f"Repaired: {text}" for text in repairs(document)))
    say(*(f"Images: {text}" for text in calibration(document)))
    say(*(f"Minutes: {text}" for text in minutes.used(document)))
    trained = document["training"]["rounds"] or document.get("bits")  # on a grid, which no training may leave
    if not trained and document.get("minutes") is None and document["data"]:
        how = said("give train=", "give --epochs 10, say,", "write epochs = 10, say, in a table [train] of the recipe")
        say(f"Not fine-tuned: {how} to recover what is lost.")
    say(*lines)
    say(f"Result: {folder}", f"Report: {page}")


def _there(recipe: Recipe, place: Path, folder: Path, as_json: bool) -> bool:
    """Print what came out when this recipe was carried out before; return False if it was not.

    Raises:
        ArtifactError: if that was with other files than those of now.
    """
    from secateur.artifact.bounded_reading import table_of
    from secateur.artifact.store import MEASUREMENT
    from secateur.export import FILES
    from secateur.report.page import NAME

    if not is_finished(place, recipe):
        return False
    refuse_changed(place, folder, recipe)
    saved(folder)
    document, page = table_of(folder / MEASUREMENT), folder / NAME
    files = [{"path": str(folder / name), "kind": kind} for kind, name in FILES.items() if (folder / name).is_file()]
    if as_json:
        say_json({**document, "folder": str(folder), "report": str(page), "exports": files, "already_there": True})
        return True
    say(f"{folder} is the finished result of this very recipe; --force makes it anew.", "")
    _speak(document, folder, page, [f"Exported: {file['path']}" for file in files])
    return True


def _save(
    result: Result, folder: Path, force: bool, tell: Callable[[Event], None]
) -> tuple[Deployed | None, list[exports.Written], Path]:
    """Save the result with its exports and its report, all of it or nothing."""
    from secateur import artifact, report

    recipe = result.recipe
    assert recipe is not None
    tell(Event("save", "saving"))
    with artifact.saving(result, folder, force=force, claim=False) as new:  # see ``holding``

        def heard(event: Event) -> None:  # who is told of a file looks for it where it will be
            tell(dataclasses.replace(event, text=event.text.replace(str(new), str(folder))))

        made, written = _export(result, new, recipe.export, recipe.latency, heard)
        tell(Event("report", "writing the report"))
        page = report.write(new)
    return made, [each.within(folder) for each in written], folder / page.name


def _export(
    result: Result, folder: Path, kinds: tuple[str, ...], time: bool, tell: Callable[[Event], None]
) -> tuple[Deployed | None, list[exports.Written]]:
    """Export in each format; what cannot be exported is a warning, for the rest of the result is worth having."""
    from secateur import artifact
    from secateur.export import FILES

    made = exports.ready(result.model, result.example_inputs, kinds, time=time, tell=tell)
    written: list[exports.Written] = []
    complain = once(tell)  # what no format can hold is refused alike by all
    for kind in kinds:
        tell(Event(f"export {kind}", f"exporting as {kind} and comparing"))
        try:
            to, settings = folder / FILES[kind], _images(result, kind, tell)
            written.append(exports.write(kind, result.model, made, result.example_inputs, to, settings))
        except SecateurError as error:
            if artifact.is_full(error.__cause__):
                raise
            complain(Event("warning", str(error)))
    return made, written


def _images(result: Result, kind: str, tell: Callable[[Event], None]) -> dict[str, Any]:
    """Read the images of the run again where a format needs them."""
    from secateur import run

    if not exports.in_int8(kind) or result.recipe is None:
        return {}
    data, images = run.images_again(result.recipe, result.model)
    return {**exports.images_for((kind,), data, images), "tell": tell}


def without_missing(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that can be written here."""
    from secateur.export import missing

    return tuple(kind for kind in kinds if not missing(kind))


def _check(recipe: Recipe) -> None:
    """Refuse before the long work what would fail after it."""
    from secateur.data.order import AUGMENTS
    from secateur.export import missing

    for settings in (recipe.pretrain, recipe.train):
        if settings is not None and settings.augment not in AUGMENTS:
            raise SettingError(
                f"unknown augmentation '{settings.augment}'{nearest(settings.augment, AUGMENTS)}; "
                f"known: {', '.join(AUGMENTS)}"
            )
    for kind in recipe.export:
        if reason := missing(kind):
            raise ExportError(f"{reason}, or export pt2 alone")
    if any(map(exports.in_int8, recipe.export)) and not (recipe.data or recipe.calibrate):
        raise DataError(exports.NO_IMAGES)
