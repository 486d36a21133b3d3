"""What ``prune`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur import artifact
from secateur.arguments import checked
from secateur.outcome import Outcome


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Result(Outcome):
    """What came out of a pruning run, with its attributes as ``Outcome`` names them."""

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the artifact folder, see ``secateur.save``."""
        return artifact.save(self, folder, force=force)
