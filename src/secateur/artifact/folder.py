"""Folders that appear whole or not at all, and a manifest that tells a good one from a damaged one."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from secateur.artifact.locks import check_name, claimed, lock_of
from secateur.artifact.manifest import FORMAT, MANIFEST, as_bytes, entry, manifest
from secateur.atomic import UNFINISHED, hidden, is_full, sync, unfinished, write_file
from secateur.errors import ArtifactError, ExportError
from secateur.spelling import said

DERIVED = ("report.html", "model.pt2", "model.onnx", "model.py", "model.safetensors", "bench.json")


@contextlib.contextmanager
def parents_of(folder: Path) -> Generator[None]:
    """Make the folders that a result is to lie in, and remove in the end those of them that nothing was put into.

    Raises:
        OSError: if one cannot be made.
    """
    made = list(itertools.takewhile(lambda parent: not parent.exists(), folder.parents))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError):  # what is no longer empty stays, and so do those around it
            for parent in made:
                parent.rmdir()


@contextlib.contextmanager
def replacing(folder: Path, *, force: bool, claim: bool = True) -> Generator[Path]:
    """Yield a new, empty folder to fill; when the block ends well, it gets a manifest and becomes ``folder``.

    Whatever goes wrong in the block, a disk that is full included, ``folder`` is what it was.

    A kill at any moment leaves the old folder or the new one, never a mixture; at worst under a hidden name,
    from where the next ``save`` or ``load`` puts it back.

    Args:
        folder: where the result shall be; its parents are made.
        force: whether an artifact that is already there may be replaced.
        claim: keep other processes from saving there meanwhile; False where the caller does.

    Raises:
        ArtifactError: if something is in the way or cannot be written, or another process saves there; what was there
            is untouched.
    """
    recover(folder)
    refuse(folder, force=force)
    partial = hidden(folder, "partial")
    try:
        with parents_of(folder), _alone(folder) if claim else contextlib.nullcontext():
            refuse(folder, force=force)  # again, for another process may have saved in between
            _clean(folder)
            try:
                partial.mkdir()
                yield partial
                _seal(partial)
                _swap(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (OSError, ArtifactError, ExportError) as trouble:
        error = trouble if isinstance(trouble, OSError) else trouble.__cause__
        if not isinstance(error, OSError):
            raise
        kept = f"; the artifact in {folder} is untouched" if folder.exists() else ""
        if is_full(error):
            raise ArtifactError(
                f"no space left on the disk to save {folder}: free some and save again{kept}"
            ) from error
        raise ArtifactError(f"cannot save {folder}: {error.strerror or error}; choose another place{kept}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    with claimed(lock_of(folder)) as holder:
        if holder is not None:
            raise ArtifactError(
                f"process {holder} is working on {folder}; wait until it ends, or choose another folder"
            )
        yield


def recover(folder: Path, *, alone: bool = False) -> None:
    """Finish the swap of a save that was killed between its two renames; otherwise do nothing.

    Args:
        folder: where the artifact is to be.
        alone: the caller holds the claim to ``claims.lock_of(folder)``, without which nobody saves there: what saves
            have left behind is removed, whoever has their number now.
    """
    if (left := left_by_a_kill(folder, alone=alone)) is not None:
        os.rename(left, folder)
    if alone:
        _clean(folder, alone=True)


def left_by_a_kill(folder: Path, *, alone: bool) -> Path | None:
    """Return the folder that ``recover`` puts in its place; None if there is nothing to do."""
    if folder.exists():
        return None
    for old in unfinished(folder, "old", alone=alone):
        new = folder.with_name(old.name.replace(".old-", ".partial-"))
        return new if (new / MANIFEST).is_file() else old
    partial = unfinished(folder, "partial", alone=alone)  # of a save that had nothing to replace
    return next((new for new in partial if (new / MANIFEST).is_file()), None)


def _seal(folder: Path) -> None:
    """Write the manifest, last of all, and make sure that everything is on the disk."""
    from secateur.artifact.environment import version

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: entry(folder / name) for name in names}
    write_file(folder / MANIFEST, as_bytes({"secateur": version("secateur"), "format": FORMAT, "files": files}))
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(place)


def _swap(new: Path, folder: Path) -> None:
    old = hidden(folder, "old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse(folder: Path, *, force: bool) -> None:
    """Refuse to replace anything that is not wholly ours; long work asks before it begins.

    Raises:
        ArtifactError: if ``save`` would not write there.
    """
    check_name(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; choose another name for the artifact")
    if not force:
        raise ArtifactError(
            f"{folder} exists already; choose another folder, or "
            f"{said('give force=True to replace it', 'replace it with --force')}"
        )
    if not any(folder.iterdir()):
        return
    try:
        known = {*manifest(folder)["files"], MANIFEST, *DERIVED}
    except ArtifactError as error:
        raise ArtifactError(f"{folder} is not replaced, even with force: {error}") from None
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known and not UNFINISHED.match(path.name):
            raise ArtifactError(f"{folder} holds {name}, which Secateur did not write; move it away first")


def _clean(folder: Path, *, alone: bool = False) -> None:
    for kind in ("partial", "old"):
        for path in unfinished(folder, kind, alone=alone):
            shutil.rmtree(path, ignore_errors=True)
