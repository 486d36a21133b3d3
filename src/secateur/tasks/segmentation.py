"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError
from secateur.rules import Smoothing
from secateur.tasks.shapes import at_least_single, described, is_real, is_whole
from secateur.typed import check_types

MEAN_IOU = Metric("mean IoU", "%", digits=2)
PIXEL_ACCURACY = Metric("pixel accuracy", "%", digits=2)
_SCORES = ("out", "logits")
_AUXILIARY = 0.5  # as torchvision's reference training weighs its auxiliary classifier
_NONE = -100  # no class: cross-entropy leaves it out


@dataclass(frozen=True)
class Segmentation(Task):
    """Class scores (N, classes, H, W) for each image, learned by cross-entropy over its pixels.

    Targets are masks of class numbers, (N, H, W) int64. Scores of another size are resized to the masks, bilinearly. A
    single score for each pixel is that of class 1 against class 0.

    The metrics are the mean over classes of intersection over union, each class counted over all images together, and
    the share of pixels that are right (Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic
    Segmentation, 2015). Classes that are neither in the masks nor found do not count.

    Attributes:
        ignore: the class number of pixels that do not count; None if all do.
        label_smoothing: share in [0, 1) of a target that is spread over all classes.
    """

    name: ClassVar[str] = "segmentation"
    metrics = (MEAN_IOU, PIXEL_ACCURACY)
    ignore: int | None = 255
    label_smoothing: Smoothing = 0.0

    def __post_init__(self) -> None:
        check_types(self)

    def output(self, returned: Any) -> tuple[Tensor, ...]:
        """Return the scores (N, classes, H, W), and those of an auxiliary classifier where there is one.

        Raises:
            ModelError: if there are none.
        """
        found, auxiliary = returned, None
        if isinstance(returned, Mapping):
            entries = cast("Mapping[str, Any]", returned)
            found = next((entries[name] for name in _SCORES if name in entries), None)
            auxiliary = entries.get("aux")
        elif hasattr(returned, "logits"):
            found = returned.logits
        elif isinstance(returned, tuple | list):
            found = next(iter(cast("Sequence[Any]", returned)), None)
        if _are_scores(found):
            return (_for_each(found), _for_each(auxiliary)) if _are_scores(auxiliary) else (_for_each(found),)
        raise ModelError(
            "a network for segmentation must return class scores of shape (batch, classes, height, width), not "
            f"{described(returned)}"
        )

    def loss(self, output: tuple[Tensor, ...], batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats over the pixels that count, in float32 or wider; 0 if none counts.

        That of an auxiliary classifier is added by half.
        """
        mask = _mask(self.target(batch), output[0])
        try:
            losses = [self._entropy(scores, mask) for scores in output]
        except (IndexError, RuntimeError):  # which costs nothing as long as all is well; accelerators do not tell here
            check_masks(mask, output[0], self.ignore)
            raise
        return losses[0] + _AUXILIARY * sum(losses[1:], losses[0].new_zeros(()))

    def in_vain(self, batch: Any) -> str:
        """Say so where no pixel counts."""
        mask = self.target(batch)
        counts = self.ignore is None or not isinstance(mask, Tensor) or bool((mask != self.ignore).any())
        return "" if counts else f"every pixel is of the class {self.ignore}, which is ignored"

    def _entropy(self, scores: Tensor, mask: Tensor) -> Tensor:
        ignored = _NONE if self.ignore is None else self.ignore
        fine, smoothing = resized(at_least_single(scores), mask), self.label_smoothing
        total = F.cross_entropy(fine, mask, ignore_index=ignored, label_smoothing=smoothing, reduction="sum")
        return total / (mask != ignored).sum().clamp(min=1)

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the mean IoU and the pixel accuracy."""
        return _MaskMeter(self, device)

    def imitation(self, output: tuple[Tensor, ...], taught: tuple[Tensor, ...], temperature: float) -> Tensor:
        """Return the divergence of the teacher's softened probabilities, the mean over pixels.

        Times the squared temperature, as Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015.
        """
        learner = F.log_softmax(at_least_single(output[0]) / temperature, dim=1)
        teacher = F.log_softmax(taught[0].to(learner.dtype) / temperature, dim=1)
        pixels = learner.numel() // learner.shape[1]
        return F.kl_div(learner, teacher, log_target=True, reduction="sum") / pixels * temperature**2

    def smoothed(self, label_smoothing: float) -> Self:
        """Return this task with smoothed labels."""
        return replace(self, label_smoothing=label_smoothing) if label_smoothing else self


class _MaskMeter(Meter):
    def __init__(self, task: Segmentation, device: torch.device) -> None:
        # torchmetrics holds every pixel against every pair of classes on MPS, which may take more memory than there is
        self._task, self._device = task, torch.device("cpu") if device.type == "mps" else device
        self._metrics: list[Any] = []
        self._counted = 0

    def update(self, output: tuple[Tensor, ...], batch: Any) -> None:
        mask, ignored = check_masks(self._task.target(batch), output[0], self._task.ignore), self._task.ignore
        classes = output[0].shape[1]
        if not self._metrics:
            from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

            index = MulticlassJaccardIndex(classes, average="macro", ignore_index=ignored, validate_args=False)
            share = MulticlassAccuracy(classes, average="micro", ignore_index=ignored, validate_args=False)
            self._metrics = [each.to(self._device) for each in (index, share)]
        self._counted += mask.numel() if ignored is None else int((mask != ignored).sum())
        highest, found = resized(at_least_single(output[0].detach()), mask).max(dim=1)
        found = torch.where(highest.isnan(), (mask + 1) % classes, found)  # whatever is not the right one
        for metric in self._metrics:
            metric.update(found.to(self._device), mask.to(self._device))

    def compute(self) -> tuple[float, ...]:
        if not self._metrics:
            raise nothing_measured()
        if not self._counted:
            raise DataError(f"no pixel of any mask counts: all are of the class {self._task.ignore}, which is ignored")
        return tuple(float(metric.compute()) for metric in self._metrics)


def check_masks(mask: Any, scores: Tensor, ignore: int | None) -> Tensor:
    """Return masks (N, H, W) as int64; looks at every pixel, and so waits for an accelerator.

    Raises:
        DataError: if they are none, or hold a class that the network does not have.
    """
    mask = _mask(mask, scores)
    counted = mask if ignore is None else mask[mask != ignore]
    if counted.numel():
        low, high = (int(each) for each in counted.aminmax())
        if low < 0:
            raise DataError(
                f"a mask holds the class {low}, and classes are 0 or more: number them from 0, or name the class that "
                "does not count (ignore)"
            )
        if high >= scores.shape[1]:
            raise DataError(
                f"a mask holds the class {high}, but the network has {scores.shape[1]} classes, 0 "
                f"to {scores.shape[1] - 1}: build it with as many as the data has, or name the class that does not "
                "count (ignore)"
            )
    return mask


def _mask(mask: Any, scores: Tensor) -> Tensor:
    """Return masks (N, H, W) as int64, whatever they hold.

    Raises:
        DataError: if they are none.
    """
    if not is_whole(mask) or mask.ndim != 3 or len(mask) != len(scores):
        raise DataError(
            f"masks must be class numbers of shape ({len(scores)}, height, width), one for each image, not "
            f"{described(mask)}"
        )
    return mask.long()


def _are_scores(value: Any) -> TypeGuard[Tensor]:
    return is_real(value) and value.ndim == 4


def _for_each(scores: Tensor) -> Tensor:
    """Return a score for each class, also where there is one for two."""
    return torch.cat([torch.zeros_like(scores), scores], dim=1) if scores.shape[1] == 1 else scores


def resized(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores (N, classes, H, W) of the size of masks (N, H, W), bilinearly interpolated if they have another."""
    if scores.shape[-2:] == mask.shape[-2:]:
        return scores
    return F.interpolate(scores, size=mask.shape[-2:], mode="bilinear", align_corners=False)
