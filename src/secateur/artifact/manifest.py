"""The manifest of an artifact, by which a good folder is told from a damaged one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from secateur import reading, recipe_text
from secateur.artifact.bounded_reading import ADVICE, MOST, MOST_PLAN, MOST_PREDICTIONS
from secateur.atomic import write_file
from secateur.errors import ArtifactError

FORMAT = 1
NETWORK = "network.onnx"
"""Of a network from an ONNX file: that file without its weights."""

WEIGHTS, MEASUREMENT, PREDICTIONS = "weights.safetensors", "measurement.json", "predictions.json"
RECIPE, ENVIRONMENT = "recipe.toml", "environment.json"
MANIFEST = "manifest.json"
_MOST_MANIFEST = 4 * reading.MIB
_MOST = {
    RECIPE: recipe_text.MOST,
    MEASUREMENT: MOST,
    ENVIRONMENT: MOST,
    PREDICTIONS: MOST_PREDICTIONS,
}
_NAME = re.compile(r"(?:[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,200}/){0,4}[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,200}")


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an artifact.

    Raises:
        ArtifactError: if there is no folder, or it is no artifact, damaged, or from a newer version.
    """
    if not folder.is_dir():
        there = f"{folder} is no folder of a result" if folder.exists() else f"there is no folder {folder}"
        raise ArtifactError(f"{there}; check the path")
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
    content["files"] |= {name: entry(folder / name) for name in names}
    write_file(folder / MANIFEST, as_bytes(content))


def entry(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file: its size in bytes and its hash."""
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_bytes(content: dict[str, Any]) -> bytes:
    """Return the content of a manifest as the bytes of its file."""
    return (json.dumps(content, indent=1) + "\n").encode()
