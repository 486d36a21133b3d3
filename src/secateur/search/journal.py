"""Lines of JSON on disk, one for each finished trial, so that a killed search goes on with the next."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from secateur.errors import ArtifactError


class Journal:
    """An append-only file of numbered entries; a line cut short by a kill is ignored.

    Args:
        path: the file; its folder is made where missing. None for memory only.

    Raises:
        ArtifactError: if the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.entries: dict[int, Mapping[str, Any]] = {}
        self._path, self._file = path, cast("TextIO | None", None)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
            self.entries.update(_entries(text))
            self._file = path.open("a", encoding="utf-8")
            if text and not text.endswith("\n"):
                self._file.write("\n")
        except OSError as error:
            raise self._refused(error) from None

    def note(self, number: int, entry: Mapping[str, Any]) -> None:
        """Add what a trial has found."""
        self.entries[number] = entry
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"number": number, **entry}) + "\n")
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
        return ArtifactError(f"cannot write {self._path}: {error.strerror or error}; choose another folder")


def _entries(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            number = entry.pop("number")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if type(number) is int:
            yield number, entry
