"""Pictures with their label and the top answer of each network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from secateur.predictions.album import Album, can_draw
from secateur.predictions.content import Example, Fact, Layout, Strip, Tile
from secateur.predictions.painter import Painter, Seen, share, verdict
from secateur.tasks import Classification

_SURE = 0.5  # probability from which a label of several is an answer
_NAMED = 4  # labels that are named


class Classes(Painter[Classification]):
    """Of classification."""

    layout: ClassVar[Layout] = "cards"
    order: ClassVar[str] = "First those with different answers, then those whose probabilities differ the most."

    def found(self, output: Tensor, batch: Any) -> Sequence[Tensor]:
        """Return the probabilities of the classes, (classes,) each."""
        return list((output.sigmoid() if self.task.multi_label else output.softmax(dim=1)).cpu())

    def disagreement(self, seen: Seen) -> float:
        """Return how much probability lies elsewhere, and one more where the answers differ."""
        apart = (seen.dense - seen.pruned).abs()
        moved = apart.max() if self.task.multi_label else apart.sum() / 2
        return float(moved) + (self._answer(seen.dense) != self._answer(seen.pruned))

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the picture with label and answers."""
        wanted = self._wanted(seen.target)
        answers = [("dense", seen.dense), ("pruned", seen.pruned)]
        facts = [Fact(name, self._text(it), verdict(self._answer(it) == wanted)) for name, it in answers]
        label = self._listed(wanted)
        tiles = [Tile("", "", f"test image, labelled {label}", layers) for layers in self._layers(seen, album)]
        same = self._answer(seen.dense) == self._answer(seen.pruned)
        title = "Same answer" if same else "Different answers"
        return Example(title, disagreement, tuple(Strip((tile,)) for tile in tiles), (Fact("label", label), *facts))

    def _layers(self, seen: Seen, album: Album) -> list[tuple[int, ...]]:
        found = self.photo(seen, album) if can_draw() else ()
        return [found] if found else []

    def _answer(self, probabilities: Tensor) -> tuple[int, ...]:
        if self.task.multi_label:
            return tuple((probabilities >= _SURE).nonzero().flatten().tolist())
        return () if bool(probabilities.isnan().any()) else (int(probabilities.argmax()),)

    def _wanted(self, target: Tensor) -> tuple[int, ...]:
        if self.task.multi_label:
            return tuple(target.reshape(-1).nonzero().flatten().tolist())
        return (int(target),)

    def _listed(self, labels: Sequence[int]) -> str:
        rest = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
        return (", ".join(map(self.name, labels[:_NAMED])) or "none") + rest

    def _text(self, probabilities: Tensor) -> str:
        answer = self._answer(probabilities)
        if self.task.multi_label or not answer:
            return self._listed(answer)
        return f"{self.name(answer[0])}, {share(float(probabilities[answer[0]]))}"
