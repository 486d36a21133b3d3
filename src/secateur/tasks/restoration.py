"""Image restoration and super-resolution: an image for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError
from secateur.rules import Pixels
from secateur.tasks.shapes import at_least_single, cheap_to_read, described, is_real
from secateur.typed import check_types

PSNR = Metric("PSNR", "dB", digits=2)
SSIM = Metric("SSIM", digits=4)
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # ITU-R BT.601 in the range of studios, as the field measures it
_BLACK = 16 / 255
_WINDOW = 11  # of SSIM
_SLACK = 1e-3  # by which rounding in half precision may leave 0..1

MOST_DECIBELS = 100.0
"""PSNR of images in which nothing differs, which has no value of its own; the mean over images would be lost in it."""


@dataclass(frozen=True)
class Restoration(Task):
    """An image (N, C, H, W) in 0..1 for each image, learned by the absolute error.

    The metrics are the peak signal-to-noise ratio and the structural similarity (Wang et al. 2004, a Gaussian window of
    11 pixels and sigma 1.5 where it lies within the image), the mean over images, as super-resolution is measured on
    Set5: what the network returns is cut to 0..1, coloured images are judged by their luma (Y of YCbCr, ITU-R BT.601),
    and a border is left out. Nothing is rounded to 8 bits. The ratio of an image counts as at most 100 dB, which is
    that of one in which nothing differs.

    Attributes:
        border: pixels on each side that are not measured; in super-resolution as many as its factor.
        channels: what coloured images are judged by: ``"y"``, their luma, or ``"rgb"``, red, green and blue together.
    """

    name: ClassVar[str] = "restoration"
    metrics = (PSNR, SSIM)
    border: Pixels = 0
    channels: Literal["y", "rgb"] = "y"

    def __post_init__(self) -> None:
        check_types(self)

    def output(self, returned: Any) -> Tensor:
        """Return the images (N, C, H, W).

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if is_real(found) and found.ndim == 4:
            return found
        raise ModelError(
            "a network for restoration must return images of shape (batch, channels, height, width), not "
            f"{described(returned)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean absolute error, in float32 or wider."""
        target = self.target(batch)
        wanted = _wanted(target, output, values=isinstance(target, Tensor) and cheap_to_read(target))
        return F.l1_loss(at_least_single(output), at_least_single(wanted))

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of PSNR and SSIM."""
        return _ImageMeter(self)


class _ImageMeter(Meter):
    def __init__(self, task: Restoration) -> None:
        self._task = task
        self._found: list[Tensor] = []

    def update(self, output: Tensor, batch: Any) -> None:
        wanted, edge = _wanted(self._task.target(batch), output, values=True), self._task.border
        if not len(wanted):
            return
        if min(wanted.shape[-2:]) - 2 * edge < _WINDOW:
            raise DataError(
                f"images of {wanted.shape[-2]}x{wanted.shape[-1]} without {edge} pixels on each side are smaller than "
                f"the window of {_WINDOW} in which SSIM is measured"
            )
        found, right = _measured(output.detach(), self._task), _measured(wanted, self._task)
        self._found.append(torch.stack([_noise(found, right), _likeness(found, right)], dim=1).cpu())

    def compute(self) -> tuple[float, ...]:
        if not self._found:
            raise nothing_measured()
        return tuple(torch.cat(self._found).double().mean(dim=0).tolist())


def signal_to_noise(found: Tensor, right: Tensor, task: Restoration) -> Tensor:
    """Return the PSNR in dB of each image, (N,), as the task measures it; at most ``MOST_DECIBELS``.

    Args:
        found: what a network returned, (N, C, H, W).
        right: what it should have returned.
        task: which pixels and channels are measured.
    """
    return _noise(_measured(found, task), _measured(right, task))


def _noise(found: Tensor, right: Tensor) -> Tensor:
    return (-10 * (found - right).square().mean(dim=(1, 2, 3)).log10()).clamp(max=MOST_DECIBELS)


def _likeness(found: Tensor, right: Tensor) -> Tensor:
    """Return SSIM of each image, (N,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, likeness = structural_similarity_index_measure(
        found, right, data_range=1.0, reduction="none", return_full_image=True
    )
    whole = slice(_WINDOW // 2, -(_WINDOW // 2))  # windows within the image; torchmetrics mirrors what is beyond
    return likeness[..., whole, whole].mean(dim=(1, 2, 3))


def _measured(images: Tensor, task: Restoration) -> Tensor:
    """Return what is measured of images, in 0..1 and without the border."""
    inner, images = slice(task.border, -task.border or None), images.float().clamp(0, 1)
    return (_luma(images) if task.channels == "y" else images)[..., inner, inner]


def _luma(images: Tensor) -> Tensor:
    """Return images as (N, 1, H, W) if they have three channels, else with the channels that they have."""
    if images.shape[1] != 3:
        return images
    weights = torch.tensor(_LUMA, device=images.device)
    return _BLACK + (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def _wanted(target: Any, output: Tensor, *, values: bool) -> Tensor:
    """Return the images that are wanted.

    Raises:
        DataError: if they are none, of another size, or outside of 0..1 (looked at with ``values``).
    """
    if not is_real(target) or target.shape != output.shape:
        raise DataError(
            f"the targets must be images of floating-point numbers of shape {tuple(output.shape)}, as the network "
            f"returns them, not {described(target)}"
        )
    if values and target.numel():
        low, high = (float(each) for each in target.aminmax())
        if not (-_SLACK <= low <= high <= 1 + _SLACK):  # also if one of them is NaN
            raise DataError(f"pixels of targets must be in 0..1, and there are some from {low:g} to {high:g}")
    return target
