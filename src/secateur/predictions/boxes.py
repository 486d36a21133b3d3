"""Images with the boxes that were found in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.predictions.album import Album, colour
from secateur.predictions.content import Box, Example, Strip, Tile
from secateur.predictions.painter import Painter, Seen
from secateur.tasks import Detection

SURE = 0.5
"""Score from which boxes are drawn, where the dense network has any that reach it."""

_OVERLAP = 0.5  # intersection over union from which two boxes are the same
_SAID = 6  # boxes that are named beside the picture
_DRAWN = 16

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4), scores (n,) and labels (n,), the surest first."""


class Boxes(Painter[Detection]):
    """Of detection."""

    order: ClassVar[str] = (
        "First those with the largest share of boxes that overlap with no box of the same class of the other network."
    )

    def __init__(self, task: Detection, data: Any) -> None:
        super().__init__(task, data)
        self._least = SURE

    def wanted(self, batch: Any) -> Sequence[Found]:
        """Return the boxes of each image, each with a score of one."""
        tables = self.task.target(batch)
        return [_sorted(each["boxes"], torch.ones(len(each["boxes"])), each["labels"]) for each in tables]

    def found(self, output: Any, batch: Any) -> Sequence[Found]:
        """Return the boxes in each image that have finite numbers."""
        return [_sorted(each["boxes"], each["scores"], each["labels"]) for each in output]

    def compare(self, seen: Sequence[Seen]) -> Sequence[float]:
        """Return the share of boxes without a counterpart, of those from the threshold on.

        Where no box of the dense network reaches ``SURE``, the threshold is what leaves as many as there should be.
        """
        scores = torch.cat([torch.empty(0), *(each.dense[1] for each in seen)]).sort(descending=True).values
        if len(scores) and float(scores[0]) < SURE:
            there = sum(len(each.target[1]) for each in seen)
            self._least = float(scores[min(max(there, 1), len(scores)) - 1])
        return super().compare(seen)

    def disagreement(self, seen: Seen) -> float:
        """Return the share of boxes without a counterpart; of equal ones those of more boxes come first."""
        alone, count = _alone(self._sure(seen.dense), self._sure(seen.pruned))
        return alone / max(count, 1) + alone * 1e-6

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the image with the boxes of each network, and with those that are wanted."""
        photo = self.photo(seen, album)
        columns = [("dense", self._sure(seen.dense)), ("pruned", self._sure(seen.pruned)), ("truth", seen.target)]
        tiles = [self._tile(name, found, seen, photo, album) for name, found in columns]
        alone, count = _alone(self._sure(seen.dense), self._sure(seen.pruned))
        title = f"{alone} of {count} boxes have no counterpart" if count else "Neither finds anything"
        return Example(title, disagreement, (Strip(tuple(tiles)),))

    def note(self, album: Album) -> str:
        """Return the threshold."""
        return f"Boxes with a score of {self._least:.2f} or more."

    def _sure(self, found: Found) -> Found:
        boxes, scores, labels = found
        sure = scores >= self._least
        return boxes[sure], scores[sure], labels[sure]

    def _tile(self, name: str, found: Found, seen: Seen, photo: tuple[int, ...], album: Album) -> Tile:
        assert seen.image is not None
        (width, height), (rows, columns) = album.size(photo[0]), seen.image.shape[1:]
        scale = torch.tensor([width / columns, height / rows] * 2)
        labels: list[int] = found[2].tolist()
        said = [
            self.name(label) if name == "truth" else f"{self.name(label)} {score:.2f}"
            for label, score in zip(labels, found[1].tolist(), strict=True)
        ]
        drawn = [
            Box(*_corner(box * scale), colour(label + 1), text)
            for box, label, text in zip(found[0][:_DRAWN], labels, said, strict=False)
        ]
        rest = f" and {len(said) - _SAID} more" if len(said) > _SAID else ""
        text = (", ".join(said[:_SAID]) or "no box") + rest
        return Tile(
            name, text, f"{name}: {len(said)} boxes, {text}" if said else f"{name}: no box", photo, tuple(drawn)
        )


def _corner(box: Tensor) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    return x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)


def _sorted(boxes: Tensor, scores: Tensor, labels: Tensor) -> Found:
    boxes, scores, labels = boxes.cpu().float(), scores.cpu().float(), labels.cpu().long()
    sound = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)).nonzero().flatten()
    order = sound[scores[sound].argsort(descending=True, stable=True)]
    return boxes[order], scores[order], labels[order]


def _alone(first: Found, second: Found) -> tuple[int, int]:
    """Return how many boxes of both have no counterpart in the other, and how many there are."""
    taken = torch.zeros(len(second[0]), dtype=torch.bool)
    for box, label in zip(first[0], first[2], strict=True):
        overlaps = _overlaps(box, second[0]).masked_fill(taken | (second[2] != label), 0.0)
        if len(overlaps) and float(overlaps.max()) >= _OVERLAP:
            taken[overlaps.argmax()] = True
    count, pairs = len(first[0]) + len(second[0]), int(taken.sum())
    return count - 2 * pairs, count


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of a box, (4,), with others, (n, 4)."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    inside = (high - low).clamp(min=0).prod(dim=1)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod()
    return inside / (areas - inside).clamp(min=torch.finfo(torch.float32).tiny)
