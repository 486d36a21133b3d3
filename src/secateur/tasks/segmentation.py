"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError
from secateur.rules import Smoothing
from secateur.tasks.shapes import described
from secateur.typed import check_types

MEAN_IOU = Metric("mean IoU", "%", digits=2)
PIXEL_ACCURACY = Metric("pixel accuracy", "%", digits=2)
_SCORES = ("out", "logits")
_AUXILIARY = 0.5  # as torchvision's reference training weighs its auxiliary classifier


@dataclass(frozen=True)
class Segmentation(Task):
    """Class scores (N, classes, H, W) for each image, learned by cross-entropy over its pixels.

    Targets are masks of class numbers, (N, H, W) int64. Scores of another size are resized to the masks, bilinearly.
    The metric is the mean over classes of intersection over union, each class counted over all images together.

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
        found = [returned]
        if isinstance(returned, Mapping):
            entries = cast("Mapping[str, Any]", returned)
            found = [entries[name] for name in (*_SCORES, "aux") if name in entries]
        elif hasattr(returned, "logits"):
            found = [returned.logits]
        elif isinstance(returned, tuple | list):
            found = list(cast("tuple[Any, ...]", returned))[:1]
        scores = tuple(one for one in found if isinstance(one, Tensor) and one.ndim == 4)
        if scores:
            return scores
        raise ModelError(
            "a network for segmentation must return class scores of shape (batch, classes, height, width), not "
            f"{described(returned)}"
        )

    def loss(self, output: tuple[Tensor, ...], batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats over the pixels that count; that of an auxiliary classifier by half."""
        mask = check_masks(self.target(batch), output[0], self.ignore)
        ignored = -100 if self.ignore is None else self.ignore
        losses = [
            F.cross_entropy(_resized(scores, mask), mask, ignore_index=ignored, label_smoothing=self.label_smoothing)
            for scores in output
        ]
        return losses[0] + _AUXILIARY * sum(losses[1:], losses[0].new_zeros(()))

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the mean IoU and the pixel accuracy."""
        return _MaskMeter(self, device)

    def imitation(self, output: tuple[Tensor, ...], taught: tuple[Tensor, ...], temperature: float) -> Tensor:
        """Return the divergence of the teacher's softened probabilities, the mean over pixels."""
        learner = F.log_softmax(output[0] / temperature, dim=1)
        teacher = F.log_softmax(taught[0].to(learner.dtype) / temperature, dim=1)
        pixels = learner.numel() // learner.shape[1]
        return F.kl_div(learner, teacher, log_target=True, reduction="sum") / pixels * temperature**2

    def smoothed(self, label_smoothing: float) -> Self:
        """Return this task with smoothed labels."""
        return replace(self, label_smoothing=label_smoothing) if label_smoothing else self


class _MaskMeter(Meter):
    def __init__(self, task: Segmentation, device: torch.device) -> None:
        self._task, self._device = task, device
        self._metrics: list[Any] = []

    def update(self, output: tuple[Tensor, ...], batch: Any) -> None:
        mask = check_masks(self._task.target(batch), output[0], self._task.ignore)
        if not self._metrics:
            from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

            classes, ignored = output[0].shape[1], self._task.ignore
            index = MulticlassJaccardIndex(classes, average="macro", ignore_index=ignored, validate_args=False)
            share = MulticlassAccuracy(classes, average="micro", ignore_index=ignored, validate_args=False)
            self._metrics = [each.to(self._device) for each in (index, share)]
        found = _resized(output[0], mask).argmax(dim=1)
        for metric in self._metrics:
            metric.update(found, mask)

    def compute(self) -> tuple[float, ...]:
        return tuple(float(metric.compute()) for metric in self._metrics)


def check_masks(mask: Any, scores: Tensor, ignore: int | None) -> Tensor:
    """Return masks (N, H, W) as int64.

    Raises:
        DataError: if they are none, or hold a class that the network does not have.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 3 or mask.is_floating_point() or len(mask) != len(scores):
        raise DataError(
            f"masks must be class numbers of shape ({len(scores)}, height, width), one for each image, not "
            f"{described(mask)}"
        )
    mask = mask.long()
    counted = mask if ignore is None else mask[mask != ignore]
    if counted.numel():
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= scores.shape[1]:
            raise DataError(
                f"a mask holds the class {low if low < 0 else high}, but the network has {scores.shape[1]} classes, 0 "
                f"to {scores.shape[1] - 1}: build it with as many as the data has, or name the class that does not "
                "count (ignore)"
            )
    return mask


def _resized(scores: Tensor, mask: Tensor) -> Tensor:
    if scores.shape[-2:] == mask.shape[-2:]:
        return scores
    return F.interpolate(scores, size=mask.shape[-2:], mode="bilinear", align_corners=False)
