"""Images with those that are nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.predictions.album import Album
from secateur.predictions.content import Example, Strip, Tile
from secateur.predictions.painter import Painter, Seen, verdict
from secateur.tasks import Retrieval

NEAREST = 3
"""Neighbours that are shown."""


class Neighbours(Painter[Retrieval]):
    """Of retrieval, where each image is looked up among the others that were looked at."""

    order: ClassVar[str] = "First those with most neighbours that differ."

    def __init__(self, task: Retrieval, data: Any) -> None:
        super().__init__(task, data)
        self._seen: Sequence[Seen] = ()
        self._near: dict[str, Tensor] = {}

    def found(self, output: Tensor, batch: Any) -> Sequence[Tensor]:
        """Return the embeddings, (size,) each."""
        return list(output.cpu())

    def compare(self, seen: Sequence[Seen]) -> Sequence[float]:
        """Return how many neighbours differ; minus infinity for images without others of their class."""
        self._seen = seen
        self._near = {name: _nearest([getattr(each, name) for each in seen]) for name in ("dense", "pruned")}
        return super().compare(seen)

    def disagreement(self, seen: Seen) -> float:
        """Return how many neighbours differ; of equal ones those come first of which the pruned network loses hits."""
        if sum(int(each.target) == int(seen.target) for each in self._seen) < 2:
            return float("-inf")
        dense, pruned = (self._near[name][seen.number].tolist() for name in ("dense", "pruned"))
        lost = sum(self._hit(seen, at) for at in dense) - sum(self._hit(seen, at) for at in pruned)
        return len(set(dense) - set(pruned)) + 0.1 * lost

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the image and its neighbours by each network."""
        query = Tile(self.name(int(seen.target)), "", f"query: {self.name(int(seen.target))}", self.photo(seen, album))
        strips, chosen = [Strip((query,), "query")], list[set[int]]()
        for name, near in self._near.items():
            places: list[int] = near[seen.number].tolist()
            chosen.append(set(places))
            strips.append(Strip(tuple(self._tile(seen, at, name, album) for at in places), name))
        differ = len(chosen[0] - chosen[1])
        return Example(f"{differ} of {len(chosen[0])} neighbours differ", disagreement, tuple(strips))

    def note(self, album: Album) -> str:
        """Return where neighbours were looked for."""
        return "Each image was looked up among the others that were looked at."

    def _tile(self, seen: Seen, at: int, network: str, album: Album) -> Tile:
        other = self._seen[at]
        hit, label = self._hit(seen, at), self.name(int(other.target))
        alt = f"{network}: {label}, {'the class of the query' if hit else 'another class'}"
        return Tile(label, "", alt, self.photo(other, album), mark=verdict(hit))

    def _hit(self, seen: Seen, at: int) -> bool:
        return int(self._seen[at].target) == int(seen.target)


def _nearest(embeddings: Sequence[Tensor]) -> Tensor:
    """Return the places of the nearest others of each image, (N, at most ``NEAREST``), the nearest first."""
    stacked = torch.stack(list(embeddings)).nan_to_num()
    cosines = (stacked @ stacked.T).fill_diagonal_(-torch.inf)
    return cosines.argsort(dim=1, descending=True, stable=True)[:, : min(NEAREST, len(stacked) - 1)]
