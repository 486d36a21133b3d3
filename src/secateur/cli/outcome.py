"""Carrying out a recipe from the first check to the last line: work folder, result folder, exports, report."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli import exports
from secateur.cli.ending import going_on
from secateur.cli.output import saved
from secateur.cli.tables import change, conditions, kept_whole, say, say_json
from secateur.errors import ArtifactError, ExportError, SettingError, nearest
from secateur.events import Event
from secateur.progress import Listener

if TYPE_CHECKING:
    from secateur.measure import Deployed
    from secateur.recipe import Recipe
    from secateur.run import Result

RECIPE = "recipe.toml"
_CHOICES = ("runtime-", "widths-", "pretrain-", "shape-", "train-")  # what is soon found again
_ONNX = ("onnx", "onnxscript", "onnxruntime")


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
    work = _short(place.with_name(f"{place.name}.work"))
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process alone writes and speaks
        if not force and _will_be_finished(place, recipe):
            return
        with Listener(quiet=True) as tell:
            run.run_recipe(recipe, work=work, download=download, method_asked=method_asked, tell=tell)
        return
    with holding(folder, work):
        artifact.recover(place, alone=True)
        if not force and _is_finished(place, recipe):
            _sweep(work, place)
            _already_there(folder, as_json)
            return
        artifact.check_name(folder)
        artifact.refuse(place, force=force)
        _open_work(work, recipe, force)
        with going_on(work):
            try:
                with Listener(quiet or as_json) as tell:
                    result = run.run_recipe(recipe, work=work, download=download, method_asked=method_asked, tell=tell)
                    made, written, page = _save(result, folder, force, tell)
            finally:
                _discard_if_empty(work)
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
    if not document["training"]["rounds"] and document.get("minutes") is None and document["data"]:
        say("Not fine-tuned: give --epochs 10, say, to recover accuracy.")
    say(*lines)
    say(f"Result: {folder}", f"Report: {page}")


def _already_there(folder: Path, as_json: bool) -> None:
    """Print what came out when this recipe was carried out before."""
    from secateur.artifact.foreign import table_of
    from secateur.artifact.store import MEASUREMENT
    from secateur.export import FILES
    from secateur.report.page import NAME

    saved(folder)
    document, page = table_of(folder / MEASUREMENT), folder / NAME
    files = [{"path": str(folder / name), "kind": kind} for kind, name in FILES.items() if (folder / name).is_file()]
    if as_json:
        say_json({**document, "folder": str(folder), "report": str(page), "exports": files, "already_there": True})
        return
    say(f"{folder} is the finished result of this very recipe; --force makes it anew.", "")
    _speak(document, folder, page, [f"Exported: {file['path']}" for file in files])


@contextlib.contextmanager
def holding(folder: Path, work: Path) -> Generator[None]:
    """Keep other processes from working on the same result; a claim ends with its process, however that ends.

    Args:
        folder: the result, by any of its names.
        work: what is written first, for the message.

    Raises:
        ArtifactError: if one does, or the claim cannot be written.
    """
    from secateur.artifact.claims import claimed, lock_of

    place = place_of(folder)
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            holder = stack.enter_context(claimed(lock_of(place)))
        except OSError as error:
            raise ArtifactError(f"cannot write {work}: {error.strerror or error}; choose another --out") from None
        if holder is not None:
            raise ArtifactError(
                f"process {holder} is working on {folder}; wait until it ends, stop it, or choose another --out"
            )
        yield


def place_of(folder: Path) -> Path:
    """Return the one path of a folder that ``.``, ``..`` and links may name, and that need not be there.

    Raises:
        ArtifactError: if it cannot be a folder with something beside it.
    """
    try:
        place = folder.resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise ArtifactError(f"cannot write {folder}: {error}; choose another --out") from None
    if not place.name:
        raise ArtifactError(f"cannot write {folder}: it is the root of the disk; choose another --out")
    return place


def _short(path: Path) -> Path:
    """Return a path as it is seen from the current folder, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _save(
    result: Result, folder: Path, force: bool, tell: Callable[[Event], None]
) -> tuple[Deployed | None, list[exports.Written], Path]:
    """Save the result with its exports and its report, all of it or nothing."""
    from secateur import artifact, report

    recipe = result.recipe
    assert recipe is not None
    tell(Event("save", "saving"))
    with artifact.saving(result, folder, force=force, claim=False) as new:  # see ``holding``
        made, written = _export(result, new, recipe.export, recipe.latency, tell)
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
    for kind in kinds:
        tell(Event(f"export {kind}", f"exporting as {kind} and comparing"))
        try:
            written.append(exports.write(kind, result.model, made, result.example_inputs, folder / FILES[kind]))
        except ExportError as error:
            if artifact.is_full(error.__cause__):
                raise
            tell(Event("warning", str(error)))
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
    """Say whether a folder was made for this recipe, whatever the clock has chosen where the recipe says nothing."""
    from secateur.recipe import Recipe

    try:
        found = Recipe.read(folder / RECIPE)
    except SettingError:
        return False
    return (found if recipe.chosen else dataclasses.replace(found, chosen={})) == recipe


def _is_finished(folder: Path, recipe: Recipe) -> bool:
    """Say whether a folder holds the whole result of this recipe, with its report, which is written last."""
    from secateur import artifact
    from secateur.artifact.folder import manifest
    from secateur.report.page import NAME

    if not folder.is_dir() or not _is_of(folder, recipe):
        return False
    try:
        artifact.check(folder)
        return NAME in manifest(folder)["files"]
    except ArtifactError:
        return False


def _will_be_finished(place: Path, recipe: Recipe) -> bool:
    """Say whether the first process finds the whole result of this recipe, once it has put it in its place."""
    from secateur.artifact.folder import left_by_a_kill

    left = left_by_a_kill(place, alone=True)
    return any(_is_finished(it, recipe) for it in ([place] if left is None else [left, place]))


def _sweep(work: Path, folder: Path) -> None:
    """Remove the work folder that a result was made from, where a kill came between; not that of a later run."""
    from secateur.artifact.folder import MANIFEST

    with contextlib.suppress(OSError):
        if (work / RECIPE).stat().st_mtime <= (folder / MANIFEST).stat().st_mtime:
            shutil.rmtree(work, ignore_errors=True)


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
    if all(path.name == RECIPE or path.name.startswith(_CHOICES) for path in work.iterdir()):
        shutil.rmtree(work, ignore_errors=True)
