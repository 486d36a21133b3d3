"""What each finished trial of a search has found, by its number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import SettingError
from secateur.search.json_lines import Lines


class Journal:
    """Numbered entries, in memory and in an append-only file.

    Args:
        path: the file; its folder is made where missing. None for memory only.
        read: makes of an entry what is wanted; one for which it fails is found out again.

    Raises:
        ArtifactError: if the file cannot be written.
    """

    def __init__(self, path: Path | None, read: Callable[[Mapping[str, Any]], object]) -> None:
        self._lines = Lines(path)
        self.entries: dict[int, Mapping[str, Any]] = {}
        for line in self._lines.found:
            number = line.pop("number", None)
            if type(number) is int:
                with contextlib.suppress(LookupError, TypeError, ValueError, SettingError):
                    read(line)
                    self.entries[number] = line

    def note(self, number: int, entry: Mapping[str, Any]) -> None:
        """Add what a trial has found."""
        self.entries[number] = entry
        self._lines.add({"number": number, **entry})

    def close(self) -> None:
        """Make sure that everything is on the disk."""
        self._lines.close()
