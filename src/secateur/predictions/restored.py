"""Images as they were given, as each network restores them, and as they should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from secateur.predictions.album import Album, visible
from secateur.predictions.content import Example, Strip, Tile
from secateur.predictions.painter import NONE, Painter, Seen, share
from secateur.tasks import Restoration
from secateur.tasks.restoration import PSNR, signal_to_noise


class Restored(Painter[Restoration]):
    """Of restoration and super-resolution."""

    order: ClassVar[str] = "First those that the two networks restore most differently."

    def __init__(self, task: Restoration, data: Any) -> None:
        super().__init__(task, data)
        self._largest = 0

    def found(self, output: Tensor, batch: Any) -> Sequence[Tensor]:
        """Return the images in 0..1, (C, H, W) each."""
        return list(output.clamp(0, 1).cpu())

    def disagreement(self, seen: Seen) -> float:
        """Return the root of the mean squared difference, white being 1."""
        return float((seen.dense - seen.pruned).square().mean().sqrt())

    def example(self, seen: Seen, disagreement: float, album: Album) -> Example:
        """Return the four images; of large ones the part in which the networks differ the most."""
        top, left = _window((seen.dense - seen.pruned).square().mean(dim=0), album.side)
        self._largest = max(self._largest, *seen.target.shape[1:])
        tiles = list[Tile]()
        if seen.image is not None:
            given = visible(seen.image, self.data.mean, self.data.std)
            shown = _like(given, seen.target, top, left, album.side)
            tiles.append(Tile("input", "", "what the networks were given", (album.photo(("in", seen.number), shown),)))
        right = seen.target[None]
        noise = {name: float(signal_to_noise(found[None], right, self.task)) for name, found in self._answers(seen)}
        for name, found in [*self._answers(seen), ("truth", seen.target)]:
            part = visible(found[:, top : top + album.side, left : left + album.side], (), ())
            text = _text(noise[name]) if name in noise else ""
            alt = f"{name}, {text}" if text else name
            tiles.append(Tile(name, text, alt, (album.photo((name, seen.number), part),)))
        title = f"They differ by {share(disagreement, 2)} of white{_change(noise['dense'], noise['pruned'])}"
        return Example(title, disagreement, (Strip(tuple(tiles)),))

    def note(self, album: Album) -> str:
        """Return what is shown of large images."""
        cut = self._largest > album.side
        return "Of large images the part is shown in which the networks differ the most." if cut else ""

    def _answers(self, seen: Seen) -> list[tuple[str, Tensor]]:
        return [("dense", seen.dense), ("pruned", seen.pruned)]


def _text(noise: float) -> str:
    return NONE if math.isnan(noise) else PSNR.text(noise)


def _change(before: float, after: float) -> str:
    return f"; {PSNR.name} {PSNR.change(before, after)}" if math.isfinite(after - before) else ""


def _window(differences: Tensor, side: int) -> tuple[int, int]:
    """Return top and left of the square in which differences, (H, W), are largest."""
    height, width = (min(side, length) for length in differences.shape)
    step = max(1, side // 8)
    means = F.avg_pool2d(differences.nan_to_num(nan=1.0)[None, None], (height, width), stride=step)[0, 0]
    at = int(means.argmax())
    return at // means.shape[1] * step, at % means.shape[1] * step


def _like(given: Tensor, target: Tensor, top: int, left: int, side: int) -> Tensor:
    """Return that part of an input which a window of the wanted image shows."""
    rows, columns = (have / want for have, want in zip(given.shape[1:], target.shape[1:], strict=True))
    upper, first = round(top * rows), round(left * columns)
    high, wide = max(1, round(side * rows)), max(1, round(side * columns))
    return given[:, upper : upper + high, first : first + wide]
