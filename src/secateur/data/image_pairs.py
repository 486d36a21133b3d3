"""Images with wanted images: the same size or a multiple of it, cut alike in training and whole in evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from secateur.data.order import Order, Split
from secateur.data.picture_source import PictureSource, Reader
from secateur.data.vision import flipped, picture, picture_size, pixels, shrunk
from secateur.errors import DataError
from secateur.spelling import setting_as

MOST_CHECKED = 2000
"""Pairs whose sizes are compared before any work; the others are when they are read."""


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """The pairs of one split.

    Attributes:
        inputs: one file an image; None for smaller copies of the wanted ones.
        targets: one file for each.
        scale: by how much copies are smaller.
        side: height and width of the input that is cut out of each at random; None for whole images.
    """

    inputs: tuple[str, ...] | None
    targets: tuple[str, ...]
    scale: int = 1
    side: int | None = None

    @property
    def labels(self) -> Tensor:
        """Zeros: images have no class."""
        return torch.zeros(len(self.targets), dtype=torch.int64)

    def take(self, rows: Tensor) -> ImagePairs:
        """Return some of them, in the order of ``rows``, (M,) int64."""
        chosen: list[int] = rows.tolist()
        inputs = None if self.inputs is None else tuple(self.inputs[row] for row in chosen)
        return replace(self, inputs=inputs, targets=tuple(self.targets[row] for row in chosen))

    @cached_property
    def alike(self) -> bool:
        """Whether all have one size, so that they can share a batch."""
        return self.side is not None or len({picture_size(path) for path in self.targets}) == 1


class CroppedSource(PictureSource):
    """Splits that are lists of pairs.

    Training images are cut at random whatever the augmentation, which decides whether they are mirrored. Images of
    different sizes come one by one where they are not cut.

    Args:
        parts: the files of each split.
        mean: per channel of the inputs, for pixels in 0..1; a single one asks for grey images.
        std: per channel of the inputs.
        workers: reading processes; chosen by the machine if None.
        side: height and width of an input in training.
        scale: by how much wanted images are larger.
    """

    parts: dict[Split, ImagePairs]

    def __init__(
        self,
        parts: Mapping[Split, ImagePairs],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        workers: int | None,
        side: int,
        scale: int,
    ) -> None:
        super().__init__(parts, mean, std, workers)
        self.side = side
        self.scale = scale

    def pictures(self, split: Split, augment: str) -> PairReader:
        """Return what reads the single pairs of a split."""
        return PairReader(self.parts[split], "flip" in augment, len(self.mean), self.scale)

    def finished(self, batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a batch on a device, its inputs normalised and what is wanted in 0..1."""
        given, wanted = batch
        return self.scaled(given, device), wanted.to(device, non_blocking=True).to(torch.float32).div_(255)

    def shares(self, order: Order) -> list[slice]:
        """Return, for each batch, which places of the pass belong to this process."""
        shares = super().shares(order)
        if self.parts[order.split].alike:
            return shares
        places = [place for share in shares for place in range(share.start, share.stop, share.step or 1)]
        return [slice(place, place + 1) for place in places]

    def first(self) -> tuple[Tensor, Tensor]:
        """Return the middle of the first validation pair, as a batch of one of the size of those in training."""
        given, wanted = super().first()
        side = min(self.side, *given.shape[2:])
        top, left = ((length - side) // 2 for length in given.shape[2:])
        return _window(given, top, left, side), _window(wanted, *(self.scale * it for it in (top, left, side)))


class PairReader(Reader):
    """Reads single pairs, and cuts and mirrors both images alike."""

    def __init__(self, pairs: ImagePairs, flips: bool, channels: int, scale: int) -> None:
        self.pairs = pairs
        self.flips = flips
        self.channels = channels
        self.scale = scale

    def opened(self, row: int) -> tuple[Any, Any]:
        """Return both pictures."""
        path, scale, side = self.pairs.targets[row], self.scale, self.pairs.side or 1
        wanted = picture(path, self.channels)
        if self.pairs.inputs is None:
            wide, high = (length // scale for length in wanted.size)
            _check_large(path, (high, wide), side, scale)
            wanted = wanted.crop((0, 0, scale * wide, scale * high))
            return shrunk(wanted, wide, high), wanted
        given = picture(self.pairs.inputs[row], self.channels)
        _check_pair(self.pairs.inputs[row], path, given.size[::-1], wanted.size[::-1], scale)
        _check_large(path, given.size[::-1], side, scale)
        return given, wanted

    def changed(self, found: tuple[Any, Any], row: int) -> tuple[Tensor, Tensor]:
        """Return both images, (C, H, W) uint8."""
        given, wanted = found
        side, scale = self.pairs.side, self.scale
        if side is not None:
            left, top = (int(torch.randint(length - side + 1, ())) for length in given.size)
            given = given.crop((left, top, left + side, top + side))
            wanted = wanted.crop(tuple(scale * it for it in (left, top, left + side, top + side)))
        if self.flips and int(torch.randint(2, ())):
            given, wanted = flipped(given), flipped(wanted)
        return pixels(given), pixels(wanted)


def factor_of(parts: Mapping[Split, ImagePairs]) -> int:
    """Return by how much the first wanted image is larger than its input.

    Raises:
        DataError: if that is no whole number.
    """
    train = parts["train"]
    assert train.inputs is not None
    given, wanted = picture_size(train.inputs[0]), picture_size(train.targets[0])
    factor = max(1, wanted[0] // given[0])
    _check_pair(train.inputs[0], train.targets[0], given, wanted, factor)
    return factor


def check_sizes(pairs: ImagePairs, scale: int) -> None:
    """Refuse pairs that do not fit together or are too small to be cut; at most ``MOST_CHECKED`` are looked at.

    Raises:
        DataError: naming the first.
    """
    for row in range(0, len(pairs.targets), -(-len(pairs.targets) // MOST_CHECKED)):
        size = picture_size(pairs.targets[row])
        if pairs.inputs is not None:
            _check_pair(pairs.inputs[row], pairs.targets[row], picture_size(pairs.inputs[row]), size, scale)
        _check_large(pairs.targets[row], (size[0] // scale, size[1] // scale), pairs.side or 1, scale)


def _check_pair(path: str, other: str, given: tuple[int, int], wanted: tuple[int, int], scale: int) -> None:
    if wanted != (given[0] * scale, given[1] * scale):
        times = f"{scale} times as large, as the first one is" if scale > 1 else "as large"
        raise DataError(
            f"'{path}' has {given[1]} x {given[0]} pixels and its target '{other}' {wanted[1]} x {wanted[0]}: targets "
            f"must be {times}"
        )


def _check_large(path: str, given: tuple[int, int], side: int, scale: int) -> None:
    """Refuse an image too small for its crop; ``given`` is the height and width of its input."""
    if min(given) < side:
        raise DataError(
            f"the image '{path}' is smaller than the crops of {side * scale} pixels that training takes: name a smaller"
            f" size ({setting_as('image_size', max(1, min(given)) * scale)} or less), or remove it"
        )


def _window(images: Tensor, top: int, left: int, side: int) -> Tensor:
    return images[:, :, top : top + side, left : left + side].clone()
