"""Images under the classes of their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.predictions.album import Album, colour
from secateur.predictions.content import Example, Strip, Swatch, Tile
from secateur.predictions.painter import Painter, Seen, share
from secateur.tasks import Segmentation
from secateur.tasks.segmentation import resized

_NONE = -1  # no class
_LARGEST = 3  # classes that are named for those who do not see them
_LEGEND = 24


class Masks(Painter[Segmentation]):
    """Of segmentation."""

    order: ClassVar[str] = "First those on which the two networks differ on most of the pixels."

    def wanted(self, batch: Any) -> Sequence[Tensor]:
        """Return masks (H, W); pixels that do not count have no class."""
        masks = self.task.target(batch).cpu().long()
        ignored = _NONE if self.task.ignore is None else self.task.ignore
        return list(masks.masked_fill(masks == ignored, _NONE).to(torch.int16))

    def found(self, output: tuple[Tensor, ...], batch: Any) -> Sequence[Tensor]:
        """Return the classes (H, W) of the pixels; where scores are NaN there is none."""
        highest, classes = resized(output[0], self.task.target(batch)).max(dim=1)
        return list(classes.masked_fill(highest.isnan(), _NONE).to(torch.int16).cpu())

    def disagreement(self, seen: Seen) -> float:
        """Return the share of pixels of other classes."""
        return float((seen.dense != seen.pruned).float().mean())

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the image under three masks."""
        below = self.photo(seen, album)
        below = below or (album.photo(("blank", seen.target.shape), torch.ones(1, *seen.target.shape)),)
        columns = [("dense", seen.dense), ("pruned", seen.pruned), ("truth", seen.target)]
        tiles = [self._tile(name, classes.long(), seen.target.long(), below, album) for name, classes in columns]
        return Example(f"They differ on {share(disagreement)} of the pixels", disagreement, (Strip(tuple(tiles)),))

    def _tile(self, name: str, classes: Tensor, truth: Tensor, below: tuple[int, ...], album: Album) -> Tile:
        labels, counts = classes[classes >= 0].unique(return_counts=True)
        order: list[int] = counts.argsort(descending=True)[:_LARGEST].tolist()
        said = [f"{self.name(int(labels[at]))} {share(float(counts[at]) / classes.numel())}" for at in order]
        alt = f"{name}: {', '.join(said) or 'no class'}"
        counted = truth >= 0
        right = float((classes == truth)[counted].float().mean()) if bool(counted.any()) else float("nan")
        text = "" if name == "truth" else f"{share(right)} right"
        return Tile(name, text, alt, (*below, album.overlay(classes, below[0])))

    def legend(self, album: Album) -> Sequence[Swatch]:
        """Return the classes that were drawn."""
        found = sorted(album.classes)
        return [Swatch(colour(label), self.name(label)) for label in found[:_LEGEND]]

    def note(self, album: Album) -> str:
        """Return what has no colour, and which colours the legend leaves out."""
        more = len(album.classes) - _LEGEND
        left_out = f" {more} more classes have colours as well." if more > 0 else ""
        return f"Pixels without a class are clear.{left_out}"
