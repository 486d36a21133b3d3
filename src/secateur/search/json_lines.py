"""Lines of JSON on disk, one for each thing found, so that a killed search goes on behind the last one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from secateur import reading
from secateur.errors import ArtifactError
from secateur.spelling import elsewhere

MOST = 256 * reading.MIB
"""Bytes of such a file."""


class Lines:
    """An append-only file; what a kill cut short is ignored, and the next line starts behind it.

    Args:
        path: the file; its folder is made where missing. None for nothing on disk.

    Raises:
        ArtifactError: if the file cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.found: tuple[dict[str, Any], ...] = ()
        self._path, self._file = path, cast("TextIO | None", None)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            reading.inside(path)
            text = reading.data(path, MOST).decode("utf-8", "replace") if path.exists() else ""
            self.found = tuple(_entries(text))
            self._file = path.open("a", encoding="utf-8")
            if text and not text.endswith("\n"):
                self._file.write("\n")
        except OSError as error:
            raise self._refused(error) from None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write one line."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Make sure that everything is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _refused(self, error: OSError) -> ArtifactError:
        return ArtifactError(f"cannot write {self._path}: {error.strerror or error}; {elsewhere()}")


def _entries(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            entry = reading.values(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield cast("dict[str, Any]", entry)
