"""How much there is in images at a glance: which are repeats, which say nothing, and how large their values are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.surgery.forward import listed
from secateur.data.inputs import Inputs
from secateur.measure.forward import length, tensors

SAMPLES = 4096
"""Numbers of each tensor that are looked at."""

NORMALISED = 20.0
"""Largest magnitude of pixels that somebody has normalised."""


def distinct(batches: Sequence[Inputs]) -> list[Tensor]:
    """Return for each batch which images are neither repeats nor of a single colour; a part of each is looked at."""
    seen = set[bytes]()
    return [
        _new(batch, seen) if (images := listed(batch)) is None else torch.cat([_new(it[None], seen) for it in images])
        for batch in batches
    ]


def _new(batch: Inputs, seen: set[bytes]) -> Tensor:
    """Return which images of a batch were not seen before, and remember them."""
    rows = [it for it in tensors(batch) if it.dim() and len(it) == length(batch) and it.numel()]
    if not rows:  # images without pixels
        return torch.zeros(length(batch), dtype=torch.bool)
    vary: list[bool] = torch.stack([_varies(it) for it in rows]).any(0).tolist()
    flat = [it.reshape(len(it), -1) for it in rows]
    some = torch.cat([it[:, :: max(1, it.shape[1] // SAMPLES) | 1].to(torch.float64) for it in flat], 1)
    texts = [row.numpy().tobytes() for row in some]
    return torch.tensor(
        [kept and text not in seen and not seen.add(text) for kept, text in zip(vary, texts, strict=True)]
    )


def _varies(tensor: Tensor) -> Tensor:
    """Return which images have more than one value in any channel, ``(images,)`` bool; single numbers count as well."""
    maps = tensor.flatten(2) if tensor.dim() > 3 else tensor.reshape(len(tensor), 1, -1)
    if maps.shape[2] == 1:
        return torch.ones(len(tensor), dtype=torch.bool)
    return (maps != maps[:, :, :1]).flatten(1).any(1)


def largest(batches: Sequence[Inputs]) -> float:
    """Return the largest magnitude in images of floating point; 0 without any."""
    images = [it for batch in batches for it in images_in(batch)]
    return max((float(it.abs().amax()) for it in images if it.numel()), default=0.0)


def images_in(batch: Inputs) -> list[Tensor]:
    """Return the images of floating point in inputs, (N, C, H, W) each."""
    several = listed(batch)
    found = list(tensors(batch)) if several is None else [image[None] for image in several]
    return [it for it in found if it.dim() == 4 and it.is_floating_point()]
