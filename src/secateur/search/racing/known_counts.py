"""What a search already knows of its candidates, by the content of their plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secateur.search.json_lines import Lines


class Ledger:
    """Errors of candidates, in memory and, with a folder, in an append-only file.

    Each line says ``{"plan": key, "images": n, "errors": e}``: of the first n images e were wrong. A later line of
    the same plan knows more.

    Args:
        folder: where the file shall be; None for memory only.
        subject: name of the network and images that the numbers hold for; each has a file of its own.

    Raises:
        ArtifactError: if the file cannot be written.
    """

    def __init__(self, folder: Path | None, subject: str) -> None:
        self._lines = Lines(None if folder is None else folder / f"search-{subject[:16]}.jsonl")
        self._known: dict[str, tuple[int, int]] = {}
        for line in self._lines.found:
            plan, images, errors = line.get("plan"), line.get("images"), line.get("errors")
            if isinstance(plan, str) and type(images) is int and type(errors) is int:
                self._take(plan, images, errors)

    @property
    def known(self) -> Mapping[str, tuple[int, int]]:
        """For each plan, how many images it has seen and how many it got wrong."""
        return self._known

    def note(self, plan: str, images: int, errors: int) -> None:
        """Add what a candidate has done so far."""
        if self._take(plan, images, errors):
            self._lines.add({"plan": plan, "images": images, "errors": errors})

    def close(self) -> None:
        """Make sure that everything is on the disk."""
        self._lines.close()

    def _take(self, plan: str, images: int, errors: int) -> bool:
        """Take in what is more than what is known."""
        if images <= self._known.get(plan, (0, 0))[0]:
            return False
        self._known[plan] = (images, errors)
        return True
