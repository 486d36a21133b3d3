"""Whose a folder is: that of a finished result, of work under way, of another process; and what a recipe named then."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import ArtifactError, SettingError

if TYPE_CHECKING:
    from secateur.recipe import Recipe

RECIPE = "recipe.toml"
_CHOICES = ("sources.", "runtime-", "widths-", "pretrain-", "shape-", "train-")  # what is soon found again


class Unwritable(ArtifactError):
    """A place where nothing can be written, though what is there may be read."""


@contextlib.contextmanager
def holding(folder: Path, work: Path) -> Generator[None]:
    """Keep other processes from working on the same result; a claim ends with its process, however that ends.

    Args:
        folder: the result, by any of its names.
        work: what is written first, for the message.

    Raises:
        Unwritable: if the claim cannot be written.
        ArtifactError: if another process works there.
    """
    from secateur.artifact.folder import parents_of
    from secateur.artifact.locks import claimed, lock_of

    place = place_of(folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(parents_of(place))
            holder = stack.enter_context(claimed(lock_of(place)))
        except OSError as error:
            raise Unwritable(f"cannot write {work}: {error.strerror or error}; choose another --out") from None
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


def short(path: Path) -> Path:
    """Return a path as it is seen from the current folder, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _is_of(folder: Path, recipe: Recipe) -> bool:
    """Say whether a folder was made for this recipe, whatever the clock has chosen where the recipe says nothing."""
    from secateur.recipe import Recipe

    try:
        found = Recipe.read(folder / RECIPE)
    except SettingError:
        return False
    return (found if recipe.chosen else dataclasses.replace(found, chosen={})) == recipe


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Say whether a folder holds the whole result of this recipe, with its report, which is written last."""
    from secateur import artifact
    from secateur.artifact.manifest import manifest
    from secateur.report.page import NAME

    if not folder.is_dir() or not _is_of(folder, recipe):
        return False
    try:
        artifact.check(folder)
        return NAME in manifest(folder)["files"]
    except ArtifactError:
        return False


def refuse_changed(place: Path, folder: Path, recipe: Recipe) -> None:
    """Refuse to take a result for that of files which have changed since it was made.

    Raises:
        ArtifactError: saying which.
    """
    from secateur.artifact.bounded_reading import table_of
    from secateur.artifact.store import MEASUREMENT
    from secateur.run.sources import change, noted

    if what := change(noted(table_of(place / MEASUREMENT).get("sources")), recipe):
        raise ArtifactError(
            f"{folder} is the finished result of this very recipe, but {what}; make it anew with --force, or choose "
            "another --out"
        )


def will_be_finished(place: Path, recipe: Recipe) -> bool:
    """Say whether the first process finds the whole result of this recipe, once it has put it in its place."""
    from secateur.artifact.folder import left_by_a_kill

    left = left_by_a_kill(place, alone=True)
    return any(is_finished(it, recipe) for it in ([place] if left is None else [left, place]))


def sweep(work: Path, folder: Path) -> None:
    """Remove the work folder that a result was made from, where a kill came between; not that of a later run."""
    from secateur.artifact.manifest import MANIFEST

    with contextlib.suppress(OSError):
        if (work / RECIPE).stat().st_mtime <= (folder / MANIFEST).stat().st_mtime:
            shutil.rmtree(work, ignore_errors=True)


def open_work(work: Path, recipe: Recipe, force: bool) -> None:
    """Make the folder for checkpoints, or take up the one that a killed run of the same recipe left."""
    from secateur import artifact
    from secateur.run.sources import change, recorded

    try:
        if (work / RECIPE).is_file():
            same = _is_of(work, recipe)
            what = change(recorded(work), recipe) if same else ""
            if same and not what:
                return
            if not force:
                other = f"this very recipe, but {what}" if what else "another recipe"
                remedy = "" if what else "finish that one with its own command, "
                raise ArtifactError(
                    f"{work} holds an unfinished run of {other}; {remedy}drop it with --force, or choose another --out"
                )
            shutil.rmtree(work)
        if work.exists() and (not work.is_dir() or any(work.iterdir())):
            raise ArtifactError(f"{work} is in the way and not of an unfinished run; move it away")
        work.mkdir(parents=True, exist_ok=True)
        artifact.write_file(work / RECIPE, recipe.to_toml().encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {work}: {error.strerror or error}; choose another --out") from None


def discard_if_empty(work: Path) -> None:
    """Remove the folder of a run that failed before it had anything to go on from."""
    if all(path.name == RECIPE or path.name.startswith(_CHOICES) for path in work.iterdir()):
        shutil.rmtree(work, ignore_errors=True)
