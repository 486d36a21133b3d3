"""Image restoration and super-resolution: an image for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError
from secateur.rules import Pixels
from secateur.tasks.shapes import described
from secateur.typed import check_types

PSNR = Metric("PSNR", "dB", digits=2)
SSIM = Metric("SSIM", digits=4)
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # of ITU-R BT.601, as the field measures restoration
_WINDOW = 11  # of SSIM


@dataclass(frozen=True)
class Restoration(Task):
    """An image (N, C, H, W) in 0..1 for each image, learned by the absolute error.

    The metrics are the peak signal-to-noise ratio and the structural similarity (Wang et al. 2004), the mean over
    images, on the luma of coloured images.

    Attributes:
        border: pixels on each side that are not measured; in super-resolution as many as its factor.
    """

    name: ClassVar[str] = "restoration"
    metrics = (PSNR, SSIM)
    border: Pixels = 0

    def __post_init__(self) -> None:
        check_types(self)

    def output(self, returned: Any) -> Tensor:
        """Return the images (N, C, H, W).

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if isinstance(found, Tensor) and found.is_floating_point() and found.ndim == 4:
            return found
        raise ModelError(
            f"a network for restoration must return images of shape (batch, channels, height, width), not "
            f"{described(found)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean absolute error."""
        return F.l1_loss(output, _wanted(self.target(batch), output))

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of PSNR and SSIM."""
        return _ImageMeter(self)


class _ImageMeter(Meter):
    def __init__(self, task: Restoration) -> None:
        self._task = task
        self._found: list[tuple[float, float]] = []

    def update(self, output: Tensor, batch: Any) -> None:
        wanted, edge = _wanted(self._task.target(batch), output), self._task.border
        if min(wanted.shape[-2:]) - 2 * edge < _WINDOW:
            raise DataError(
                f"images of {wanted.shape[-2]}x{wanted.shape[-1]} without {edge} pixels on each side are smaller than "
                f"the window of {_WINDOW} in which SSIM is measured"
            )
        inner = slice(edge, -edge or None)
        for found, right in zip(output.detach().float(), wanted.float(), strict=True):
            pair = [_luma(image.clamp(0, 1))[:, inner, inner] for image in (found, right)]
            self._found.append(_judged(*pair))

    def compute(self) -> tuple[float, ...]:
        found = torch.tensor(self._found, dtype=torch.float64)
        return tuple(found.mean(dim=0).tolist())


def _judged(found: Tensor, right: Tensor) -> tuple[float, float]:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    noise = peak_signal_noise_ratio(found, right, data_range=1.0)
    likeness: Any = structural_similarity_index_measure(found[None], right[None], data_range=1.0)
    return float(noise), float(likeness)


def _luma(image: Tensor) -> Tensor:
    if len(image) != 3:
        return image
    weights = torch.tensor(_LUMA, device=image.device, dtype=image.dtype)
    return 16 / 255 + (image * weights[:, None, None]).sum(dim=0, keepdim=True)


def _wanted(target: Any, output: Tensor) -> Tensor:
    """Return the images that are wanted, in the type of the output.

    Raises:
        DataError: if they are none, or of another size.
    """
    if not isinstance(target, Tensor) or target.shape != output.shape:
        raise DataError(
            f"the targets must be images of shape {tuple(output.shape)}, as the network returns them, not "
            f"{described(target)}"
        )
    if not bool(torch.isfinite(target).all()):
        raise DataError("a pixel of a target is NaN or infinite")
    return target.to(output.dtype)
