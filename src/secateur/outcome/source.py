"""Files that a recipe names, as they were when a run read them."""

from __future__ import annotations

from dataclasses import dataclass

from secateur import reading

_WORDS = {
    "weights": "the weights file",
    "model": "the code of the network",
    "data": "the data set",
    "calibrate": "what holds the calibration images,",
}


@dataclass(frozen=True)
class Source:
    """Files that a recipe names.

    Attributes:
        setting: of the recipe: ``"model"``, ``"weights"``, ``"data"`` or ``"calibrate"``.
        named: what it says there.
        files: how many there are.
        sha256: of their content; of data in a folder, which may be large, of the names and sizes.
    """

    setting: str
    named: str
    files: int
    sha256: str

    def since(self, before: Source) -> str:
        """Return a sentence about what has changed."""
        count = "" if self.files == before.files else f" ({before.files:,} files then, {self.files:,} now)"
        what = "the network" if self.named.endswith(".onnx") else _WORDS[self.setting]
        return f"{what} {reading.shown(self.named)} has changed since{count}"
