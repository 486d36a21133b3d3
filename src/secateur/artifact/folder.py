"""Folders that appear whole or not at all, and a manifest that tells a good one from a damaged one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, cast

from secateur import reading, recipe_text
from secateur.artifact.claims import check_name, claimed, lock_of
from secateur.artifact.foreign import ADVICE, MOST, MOST_PLAN
from secateur.atomic import UNFINISHED, hidden, is_full, sync, unfinished, write_file
from secateur.errors import ArtifactError, ExportError
from secateur.spelling import said

FORMAT = 1
MANIFEST = "manifest.json"
DERIVED = ("report.html", "model.pt2", "model.onnx", "model.py", "model.safetensors", "bench.json")
_MOST_MANIFEST = 4 * reading.MIB
_MOST = {"recipe.toml": recipe_text.MOST, "measurement.json": MOST, "environment.json": MOST}
_NAME = re.compile(r"(?:[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,200}/){0,4}[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,200}")


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
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder) if claim else contextlib.nullcontext():
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


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an artifact.

    Raises:
        ArtifactError: if there is no folder, or it is no artifact, damaged, or from a newer version.
    """
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder}; check the path")
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not a Secateur artifact: it has no {MANIFEST}; check the path")
    try:
        content: Any = reading.values(reading.text(path, _MOST_MANIFEST))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged: it is not JSON ({reading.wrong(error)}); restore the folder or save it again"
        ) from None
    if not isinstance(content, dict) or "secateur" not in content or not isinstance(content.get("files"), dict):
        raise ArtifactError(f"{folder} is not a Secateur artifact: its {MANIFEST} is another program's")
    if type(content.get("format")) is not int or content["format"] > FORMAT:
        raise ArtifactError(
            f"{folder} has format {reading.written(content.get('format'))}, this version reads up to {FORMAT}; "
            "run: pip install --upgrade secateur"
        )
    _check_entries(path, content["files"])
    return cast("dict[str, Any]", content)


def _check_entries(path: Path, files: dict[str, Any]) -> None:
    """Refuse names that lead out of the folder, or that no file system has, and entries without size and hash."""
    for name, entry in files.items():
        parts = name.split("/")
        if not _NAME.fullmatch(name) or ".." in parts or "." in parts:
            raise ArtifactError(
                f"{path} is damaged: '{reading.shown(name)}' is no name of a file in the folder; restore the folder or "
                "save it again"
            )
        known = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        if type(known.get("bytes")) is not int or type(known.get("sha256")) is not str:
            raise ArtifactError(
                f"{path} is damaged: it has no size and hash of {name}; restore the folder or save it again"
            )


def check(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """Compare the files of an artifact with its manifest.

    Args:
        folder: the artifact.
        names: which files; all that the manifest knows by default.

    Raises:
        ArtifactError: if one is missing, cut short, changed, or larger than any of its kind; the message names it.
    """
    folder = Path(folder)
    files: dict[str, Any] = manifest(folder)["files"]
    wanted = list(files if names is None else names)
    for name in wanted:  # before the first of them is read
        check_size(folder, name, files)
    for name in wanted:
        path = folder / name
        try:
            digest = _digest(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror or error}; {ADVICE}") from None
        if digest != files[name]["sha256"]:
            raise ArtifactError(f"{path} is damaged: its content has changed since it was saved; {ADVICE}")


def check_size(folder: Path, name: str, files: dict[str, Any]) -> int:
    """Compare the size of one file with the manifest, and return it in bytes.

    Raises:
        ArtifactError: if it is missing, cut short, or larger than any of its kind; the message names it.
    """
    path = folder / name
    if name not in files or not path.is_file():
        raise ArtifactError(f"{name} is missing from {folder}; {ADVICE}")
    size = path.stat().st_size
    if size != files[name]["bytes"]:
        noted = reading.written(files[name]["bytes"])
        raise ArtifactError(f"{path} is damaged: {size} bytes instead of {noted}; {ADVICE}")
    most = _MOST.get(name, MOST_PLAN if name.startswith("plans/") else size)
    if size > most:
        raise ArtifactError(f"{path} is damaged: it has {size:,} bytes, and at most {most:,} are read; {ADVICE}")
    return size


def record(folder: str | Path, *names: str) -> None:
    """Note files that were added to an artifact (a report, an export) in its manifest.

    Raises:
        ArtifactError: if the folder is no artifact.
    """
    folder = Path(folder)
    content = manifest(folder)
    content["files"] |= {name: _entry(folder / name) for name in names}
    write_file(folder / MANIFEST, _json(content))


def _seal(folder: Path) -> None:
    """Write the manifest, last of all, and make sure that everything is on the disk."""
    from secateur.artifact.environment import version

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: _entry(folder / name) for name in names}
    write_file(folder / MANIFEST, _json({"secateur": version("secateur"), "format": FORMAT, "files": files}))
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


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
