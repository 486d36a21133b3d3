"""Numbers that were wanted, and those of each network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from secateur.predictions.album import Album, can_draw
from secateur.predictions.content import Example, Fact, Layout, Strip, Tile
from secateur.predictions.painter import Painter, Seen
from secateur.tasks import Regression

_SHOWN = 4


class Numbers(Painter[Regression]):
    """Of regression."""

    layout: ClassVar[Layout] = "table"
    order: ClassVar[str] = "The largest difference comes first."

    def found(self, output: Tensor, batch: Any) -> Sequence[Tensor]:
        """Return the numbers of each example, (numbers,)."""
        return list(output.cpu())

    def disagreement(self, seen: Seen) -> float:
        """Return the mean absolute difference."""
        return float((seen.dense - seen.pruned).abs().mean())

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the numbers, with the picture that they are of if there is one."""
        photo = self.photo(seen, album) if can_draw() else ()
        strips = (Strip((Tile("", "", "test image", photo),)),) if photo else ()
        columns = [("truth", seen.target), ("dense", seen.dense), ("pruned", seen.pruned)]
        facts = [Fact(name, _written(values)) for name, values in columns]
        return Example("", disagreement, strips, (*facts, Fact("difference", f"{disagreement:.4g}")))


def _written(values: Tensor) -> str:
    numbers: list[float] = values.reshape(-1).tolist()
    rest = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(f"{number:.4g}" for number in numbers[:_SHOWN]) + rest
