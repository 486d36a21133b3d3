"""What a search already knows, on disk: one line for each step of a candidate, so that a killed search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from secateur.errors import ArtifactError


class Ledger:
    """Errors of candidates by the content of their plans, in memory and, with a folder, in an append-only file.

    Each line says ``{"plan": key, "images": n, "errors": e}``: of the first n images e were wrong. A later line of
    the same plan knows more. A line cut short by a kill is ignored.

    Args:
        folder: where the file shall be; None for memory only.
        subject: name of the network and images that the numbers hold for; each has a file of its own.
    """

    def __init__(self, folder: Path | None, subject: str) -> None:
        self._known: dict[str, tuple[int, int]] = {}
        self._file: TextIO | None = None
        if folder is None:
            return
        path = folder / f"search-{subject[:16]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole = self._read(path)
            self._file = path.open("a", encoding="utf-8")
            if not whole:
                self._file.write("\n")
        except OSError as error:
            raise ArtifactError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None

    @property
    def known(self) -> Mapping[str, tuple[int, int]]:
        """For each plan, how many images it has seen and how many it got wrong."""
        return self._known

    def note(self, plan: str, images: int, errors: int) -> None:
        """Add what a candidate has done so far."""
        if images <= self._known.get(plan, (0, 0))[0]:
            return
        self._known[plan] = (images, errors)
        if self._file is not None:
            self._file.write(json.dumps({"plan": plan, "images": images, "errors": errors}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Make sure that everything is on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> bool:
        """Take in the lines of a file; tells whether the last one is whole."""
        if not path.is_file():
            return True
        text = path.read_text("utf-8", errors="replace")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                plan, images, errors = str(entry["plan"]), int(entry["images"]), int(entry["errors"])
            except (ValueError, KeyError, TypeError):
                continue
            if images > self._known.get(plan, (0, 0))[0]:
                self._known[plan] = (images, errors)
        return not text or text.endswith("\n")
