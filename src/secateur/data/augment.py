"""Random crops, mirror images and normalisation of whole batches, on whatever device the batch lives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4
"""Black pixels added on each side before a random crop of the original size."""


@dataclass(frozen=True)
class Draws:
    """The random choices of one pass, drawn at once so that they do not depend on batches or processes.

    Attributes:
        offsets: first row and column of each crop in the padded image, (2, size) int64; None for no crop.
        flips: 1 where an image is mirrored left to right, (size,) int64; None for no mirroring.
    """

    offsets: Tensor | None
    flips: Tensor | None

    def to(self, device: torch.device) -> Draws:
        """Return the same choices on a device."""
        return Draws(*(None if part is None else part.to(device) for part in (self.offsets, self.flips)))


def draw(augment: str, size: int, rng: torch.Generator) -> Draws:
    """Draw the choices that an augmentation needs for ``size`` images."""
    offsets = flips = None
    if augment in ("crop", "crop_flip"):
        offsets = torch.randint(2 * PADDING + 1, (2, size), generator=rng)
    if augment in ("flip", "crop_flip"):
        flips = torch.randint(2, (size,), generator=rng)
    return Draws(offsets, flips)


def augmented(images: Tensor, draws: Draws, share: slice) -> Tensor:
    """Return the images, (N, C, H, W), cropped and mirrored as drawn for these N places of the pass."""
    if draws.offsets is not None:
        images = crop(images, draws.offsets[:, share])
    if draws.flips is not None:
        images = flip(images, draws.flips[share])
    return images


def crop(images: Tensor, offsets: Tensor) -> Tensor:
    """Pad each image, (N, C, H, W), with black and cut its own window of the original size out of it.

    Args:
        images: raw pixels, not yet normalised: zero must mean black.
        offsets: first row and column of each window, (2, N) in 0..2 * PADDING.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (PADDING,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, rows, columns, H, W), a view
    return windows[torch.arange(len(images), device=images.device), :, offsets[0], offsets[1]]


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images, (N, C, H, W), whose entry of ``flips``, (N,), is 1."""
    both = torch.cat([images, images.flip(-1)])
    # Choosing among whole images copies memory; torch.where decides pixel by pixel, ten times slower.
    return both.index_select(0, torch.arange(len(images), device=images.device) + flips * len(images))


def scaling(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return shift and scale, (C, 1, 1) float32 each, such that ``(pixel - shift) * scale`` is normalised.

    Args:
        mean: per channel.
        std: per channel.
        dtype: of the raw pixels; those of uint8 count as 0..1, others as they are.
        device: where the images are.
    """
    full = 255.0 if dtype == torch.uint8 else 1.0
    shift = torch.tensor([value * full for value in mean], dtype=torch.float32)
    scale = torch.tensor([1.0 / (value * full) for value in std], dtype=torch.float32)
    return shift.view(-1, 1, 1).to(device), scale.view(-1, 1, 1).to(device)


def normalise(images: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return the images, (N, C, H, W), as float32 with the scaling applied; the argument is untouched."""
    return images.to(torch.float32, copy=True).sub_(shift).mul_(scale)
