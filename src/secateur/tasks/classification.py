"""Image classification: one class of several for each image, or any number of labels (multi-label)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError
from secateur.rules import Smoothing
from secateur.tasks.shapes import described
from secateur.typed import check_types

ACCURACY = Metric("accuracy", "%", digits=2)
_LABEL_MAP = Metric("mAP", "%", digits=2)


@dataclass(frozen=True)
class Classification(Task):
    """Class scores (N, classes) for each image, learned by cross-entropy.

    Targets are class numbers, (N,) int64; with ``multi_label`` 0 or 1 for each class, (N, classes).

    Attributes:
        multi_label: whether an image may have any number of classes. The metric is then the mean of the average
            precisions of the classes.
        label_smoothing: share in [0, 1) of a target that is spread over all classes (Szegedy et al. 2016).
    """

    name: ClassVar[str] = "classification"
    multi_label: bool = False
    label_smoothing: Smoothing = 0.0

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def metric_is_mean(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the metric is the mean over images, as accuracy is."""
        return not self.multi_label

    @property
    def metrics(self) -> tuple[Metric, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Top-1 accuracy, or the mean average precision of labels."""
        return (_LABEL_MAP,) if self.multi_label else (ACCURACY,)

    def output(self, returned: Any) -> Tensor:
        """Return the class scores (N, classes): a tensor, the first of several, or what is called ``logits``.

        Raises:
            ModelError: if there is no such tensor.
        """
        scores = scores_in(returned)
        if isinstance(scores, Tensor) and scores.ndim == 2:
            return scores
        raise ModelError(f"the model must return class scores of shape (batch, classes), not {described(scores)}")

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats, binary with ``multi_label``."""
        target = self.target(batch)
        if self.multi_label:
            wanted = target.to(output.dtype)
            if self.label_smoothing:
                wanted = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(output, wanted)
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the accuracy, or of the mean average precision."""
        return _LabelMeter(self) if self.multi_label else _ClassMeter(self, device)

    def right(self, output: Tensor, batch: Any) -> Tensor | None:
        """Return how many images have their highest score at their label."""
        return None if self.multi_label else (output.argmax(dim=1) == self.target(batch)).sum()

    def imitation(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the divergence of the teacher's softened probabilities, times the squared temperature.

        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. With ``multi_label`` it is that of
        each label's own probability.
        """
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(output, taught.to(output.dtype).sigmoid())
        learner = F.log_softmax(output / temperature, dim=1)
        teacher = F.log_softmax(taught.to(output.dtype) / temperature, dim=1)
        return F.kl_div(learner, teacher, log_target=True, reduction="batchmean") * temperature**2

    def smoothed(self, label_smoothing: float) -> Self:
        """Return this task with smoothed labels."""
        return replace(self, label_smoothing=label_smoothing) if label_smoothing else self


class _ClassMeter(Meter):
    def __init__(self, task: Classification, device: torch.device) -> None:
        from torchmetrics.classification import MulticlassAccuracy

        self._task, self._make, self._device = task, MulticlassAccuracy, device
        self._metric: MulticlassAccuracy | None = None

    def update(self, output: Tensor, batch: Any) -> None:
        target = self._task.target(batch)
        if (images := self._task.count(batch)) != (labels := len(check_labels(target))):
            raise DataError(f"it has {images} images but {labels} labels: there must be one label for each image")
        target = check_classes(target, len(output), output.shape[1])
        if self._metric is None:
            self._metric = self._make(output.shape[1], average="micro", validate_args=False).to(self._device)
        self._metric.update(output.argmax(dim=1), target)

    def compute(self) -> tuple[float, ...]:
        assert self._metric is not None
        return (float(self._metric.compute()),)


class _LabelMeter(Meter):
    def __init__(self, task: Classification) -> None:
        self._task = task
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, output: Tensor, batch: Any) -> None:
        target = self._task.target(batch)
        if not isinstance(target, Tensor) or target.shape != output.shape:
            raise DataError(
                f"multi-label targets must be 0 or 1 for each of {output.shape[1]} classes, of shape "
                f"{tuple(output.shape)}, not {described(target)}"
            )
        self._scores.append(output.detach().float().cpu())
        self._labels.append(target.detach().long().cpu())

    def compute(self) -> tuple[float, ...]:
        from torchmetrics.functional.classification import multilabel_average_precision

        scores, labels = torch.cat(self._scores), torch.cat(self._labels)
        return (float(multilabel_average_precision(scores, labels, scores.shape[1])),)


def check_labels(labels: Any) -> Tensor:
    """Return labels that are class numbers (N,), of any integer type.

    Raises:
        DataError: if they are none.
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise DataError(f"labels must be class numbers of shape (batch,), not {described(labels)}")
    return labels


def check_classes(labels: Tensor, scored: int, classes: int) -> Tensor:
    """Return class numbers (N,) as int64.

    Raises:
        DataError: if one of them is outside of the network's classes.
        ModelError: if there are more or fewer rows of scores than labels.
    """
    if scored != len(labels):
        raise ModelError(f"the model returned {scored} rows of scores for {len(labels)} images")
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"there is the label {wrong}, but the model has {classes} outputs, for the labels 0 to {classes - 1}: "
            "build the model with as many classes as the data has"
        )
    return labels.long()
