"""Carrying out a recipe from the first check to the last line: work folder, result folder, exports, report."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli import exports
from secateur.cli.progress import Listener
from secateur.cli.tables import change, conditions, kept_whole, say, say_json
from secateur.errors import ArtifactError, ExportError, SettingError, nearest
from secateur.events import Event

if TYPE_CHECKING:
    from secateur.measure import Deployed
    from secateur.recipe import Recipe
    from secateur.run import Result

RECIPE = "recipe.toml"
_ONNX = ("onnx", "onnxscript", "onnxruntime")


def carry_out(
    recipe: Recipe, out: Path | None, *, force: bool, download: bool, quiet: bool, as_json: bool
) -> tuple[Result, Path]:
    """Do what a recipe says, save it and print what came out.

    Args:
        recipe: what to do.
        out: the result folder; one named after the recipe if None.
        force: replace a result that is there.
        download: fetch a missing data set.
        quiet: print results only.
        as_json: print one JSON document only.

    Raises:
        SecateurError: one of its kinds; a result that was there is untouched then.
        KeyboardInterrupt: with a sentence on how to go on.
    """
    from secateur import artifact, report, run
    from secateur.models.sources import refuse_foreign

    folder = Path("out") / recipe.name() if out is None else out
    leads = os.environ.get("RANK", "0") == "0"  # under torchrun the first process alone writes and speaks
    refuse_foreign(recipe.model)
    run.method_of(recipe)
    run.steps_of(recipe)
    _check(recipe)
    work = folder.with_name(f"{folder.name}.work")
    if leads:
        force = force or _saved_but_unfinished(folder, work, recipe)
        artifact.refuse(folder.resolve(), force=force)
        _open_work(work, recipe, force)
    try:
        with Listener(quiet or as_json or not leads) as tell:
            result = run.run_recipe(recipe, work=work, download=download, tell=tell)
            if not leads:
                return result, folder
            tell(Event("save", "saving"))
            result.save(folder, force=force)
            made, written = _export(result, folder, recipe.export, recipe.latency, tell)
            tell(Event("report", "writing the report"))
            page = report.write(folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on from {work}") from None
    finally:
        if leads:
            _discard_if_empty(work)
    shutil.rmtree(work, ignore_errors=True)
    _speak(result, folder, made, written, page, as_json)
    return result, folder


def _speak(
    result: Result, folder: Path, made: Deployed | None, written: list[exports.Written], page: Path, as_json: bool
) -> None:
    """Print what came out."""
    from secateur import artifact, report
    from secateur.report import limits, minutes
    from secateur.report.summary import calibration, repairs, verification

    document = artifact.document(result)
    if as_json:
        files = [each.to_dict() for each in written]
        say_json({**document, "folder": str(folder), "report": str(page), "exports": files})
        return
    lines = [*conditions(document), *limits.foretold(document), *limits.kept(document), *limits.widths(document)]
    say(report.outcome(document), "", change(document), *lines, "")
    say(f"Verified: {verification(document)}", kept_whole(document["explanation"]))
    say(*(f"Repaired: {text}" for text in repairs(document)))
    say(*(f"Images: {text}" for text in calibration(document)))
    say(*(f"Minutes: {text}" for text in minutes.used(document)))
    if not result.histories and result.minutes is None and document["data"]:
        say("Not fine-tuned: give --epochs 10, say, to recover accuracy.")
    say(*exports.said_of(made), *(each.line() for each in written))
    say(f"Result: {folder}", f"Report: {page}")


def _export(
    result: Result, folder: Path, kinds: tuple[str, ...], time: bool, tell: Callable[[Event], None]
) -> tuple[Deployed | None, list[exports.Written]]:
    """Export in each format; what cannot be exported is a warning, for the result is saved already."""
    from secateur import artifact
    from secateur.export import FILES

    made = exports.ready(result.model, result.example_inputs, kinds, time=time, tell=tell)
    written: list[exports.Written] = []
    for kind in kinds:
        tell(Event(f"export {kind}", f"exporting as {kind} and comparing"))
        try:
            written.append(exports.write(kind, result.model, made, result.example_inputs, folder / FILES[kind]))
        except ExportError as error:
            tell(Event("warning", str(error)))
    if written:
        artifact.record(folder, *(file.name for each in written for file in each.file.files))
    return made, written


def without_missing(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that can be written here."""
    return tuple(kind for kind in kinds if kind != "onnx" or not _missing())


def _missing() -> list[str]:
    return [name for name in _ONNX if importlib.util.find_spec(name) is None]


def _check(recipe: Recipe) -> None:
    """Refuse before the long work what would fail after it."""
    from secateur.data.order import AUGMENTS

    for settings in (recipe.pretrain, recipe.train):
        if settings is not None and settings.augment not in AUGMENTS:
            raise SettingError(
                f"unknown augmentation '{settings.augment}'{nearest(settings.augment, AUGMENTS)}; "
                f"known: {', '.join(AUGMENTS)}"
            )
    if "onnx" in recipe.export and _missing():
        raise ExportError(
            f'ONNX export needs the package {_missing()[0]}; run: pip install "secateur[export]", or export pt2 alone'
        )


def _is_of(folder: Path, recipe: Recipe) -> bool:
    """Say whether a folder was made for this recipe."""
    from secateur.recipe import Recipe

    try:
        return Recipe.read(folder / RECIPE) == recipe
    except SettingError:
        return False


def _saved_but_unfinished(folder: Path, work: Path, recipe: Recipe) -> bool:
    """Say whether the result is of a run that was killed between saving and the last export."""
    return _is_of(work, recipe) and _is_of(folder, recipe)


def _open_work(work: Path, recipe: Recipe, force: bool) -> None:
    """Make the folder for checkpoints, or take up the one that a killed run of the same recipe left."""
    from secateur import artifact

    try:
        if (work / RECIPE).is_file():
            if _is_of(work, recipe):
                return
            if not force:
                raise ArtifactError(
                    f"{work} holds an unfinished run of another recipe; finish that one with its own command, "
                    "drop it with --force, or choose another --out"
                )
            shutil.rmtree(work)
        if work.exists() and (not work.is_dir() or any(work.iterdir())):
            raise ArtifactError(f"{work} is in the way and not of an unfinished run; move it away")
        work.mkdir(parents=True, exist_ok=True)
        artifact.write_file(work / RECIPE, recipe.to_toml().encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {work}: {error.strerror or error}; choose another --out") from None


def _discard_if_empty(work: Path) -> None:
    """Remove the folder of a run that failed before it had anything to go on from."""
    if all(path.name == RECIPE or path.name.startswith(("runtime-", "widths-")) for path in work.iterdir()):
        shutil.rmtree(work, ignore_errors=True)
