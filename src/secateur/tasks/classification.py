"""Image classification: one class of several for each image, or any number of labels (multi-label)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import named_tensors, scores_in
from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError
from secateur.rules import Smoothing
from secateur.tasks.shapes import described, is_real, is_whole
from secateur.typed import check_types

ACCURACY = Metric("accuracy", "%", digits=2)
_LABEL_MAP = Metric("mAP", "%", digits=2)


@dataclass(frozen=True)
class Classification(Task):
    """Class scores (N, classes) for each image, learned by cross-entropy.

    Targets are class numbers, (N,) int64; with ``multi_label`` 0 or 1 for each class, (N, classes). A single score is
    that of class 1 against class 0.

    The metric is top-1 accuracy; with ``multi_label`` the mean of the average precisions of the classes, as
    scikit-learn counts them, without classes that no image has (Everingham et al.: The PASCAL Visual Object Classes
    Challenge, 2010, without its interpolation).

    Attributes:
        multi_label: whether an image may have any number of classes.
        label_smoothing: share in [0, 1) of a target that is spread over all classes (Szegedy et al.: Rethinking the
            Inception Architecture for Computer Vision, 2016).
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
        if not is_real(scores) or scores.ndim != 2:
            raise ModelError(f"the model must return class scores of shape (batch, classes), not {described(returned)}")
        if scores.shape[1] == 1 and not self.multi_label:
            return torch.cat([torch.zeros_like(scores), scores], dim=1)
        return scores

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean cross-entropy in nats, binary with ``multi_label``."""
        target = self.target(batch)
        try:
            return self._entropy(output, target)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
            # looked into only now, for it costs time; accelerators do not tell here of labels that are too large
            return self._entropy(output, self._checked(target, output))

    def _entropy(self, output: Tensor, target: Tensor) -> Tensor:
        if not self.multi_label:
            return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)
        wanted = target.to(output.dtype)
        if self.label_smoothing:
            wanted = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(output, wanted)

    def _checked(self, target: Any, output: Tensor) -> Tensor:
        if self.multi_label:
            return _check_labels(target, output)
        return check_classes(target, len(output), output.shape[1])

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the accuracy, or of the mean average precision."""
        return _LabelMeter(self) if self.multi_label else _ClassMeter(self, device)

    def right(self, output: Tensor, batch: Any) -> Tensor | None:
        """Return how many images have their highest score at their label."""
        return None if self.multi_label else (output.argmax(dim=1) == self.target(batch)).sum()

    def imitation(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the divergence of the teacher's softened probabilities, times the squared temperature.

        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. With ``multi_label`` it is the binary
        cross-entropy with the teacher's probability of each label, which is not softened.
        """
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(output, taught.to(output.dtype).sigmoid())
        learner = F.log_softmax(output / temperature, dim=1)
        teacher = F.log_softmax(taught.to(output.dtype) / temperature, dim=1)
        return F.kl_div(learner, teacher, log_target=True, reduction="batchmean") * temperature**2

    def smoothed(self, label_smoothing: float) -> Self:
        """Return this task with smoothed labels."""
        return replace(self, label_smoothing=label_smoothing) if label_smoothing else self


CLASSIFICATION = Classification()
"""What a network is for where nobody says otherwise."""


class _ClassMeter(Meter):
    def __init__(self, task: Classification, device: torch.device) -> None:
        from torchmetrics.classification import MulticlassAccuracy

        self._task, self._make, self._device = task, MulticlassAccuracy, device
        self._metric: MulticlassAccuracy | None = None

    def update(self, output: Tensor, batch: Any) -> None:
        target = self._task.target(batch)
        check_count(self._task, batch, len(check_labels(target)))
        target = check_classes(target, len(output), output.shape[1])
        if not len(target):
            return
        if self._metric is None:
            self._metric = self._make(output.shape[1], average="micro", validate_args=False).to(self._device)
        highest, found = output.max(dim=1)
        self._metric.update(found.masked_fill(highest.isnan(), -1), target)

    def compute(self) -> tuple[float, ...]:
        if self._metric is None:
            raise nothing_measured()
        return (float(self._metric.compute()),)


class _LabelMeter(Meter):
    def __init__(self, task: Classification) -> None:
        self._task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, batch: Any) -> None:
        labels = _check_labels(self._task.target(batch), output)
        if len(labels):
            self._seen.append((output.detach().cpu().float(), labels.cpu().bool()))

    def compute(self) -> tuple[float, ...]:
        # torchmetrics takes the sigmoid of scores first, which makes ties of all large ones
        from sklearn.metrics import average_precision_score

        if not self._seen:
            raise nothing_measured()
        scores, labels = (torch.cat(column) for column in zip(*self._seen, strict=True))
        # NaN is below all others where the label is there, and above them where it is not
        scores = torch.where(scores.isnan(), torch.where(labels, -torch.inf, torch.inf), scores)
        found = [
            float(average_precision_score(there.numpy(), score.unique(return_inverse=True)[1].numpy()))  # none infinite
            for there, score in zip(labels.T, scores.T, strict=True)
            if there.any()
        ]
        if not found:
            raise DataError("no image has any label, so that the average precision of none can be told")
        return (sum(found) / len(found),)


def check_count(task: Task, batch: Any, labels: int) -> None:
    """Refuse more or fewer labels than images, which would otherwise look like a fault of the network.

    Raises:
        DataError: saying both.
    """
    images = next((len(each) for _, each in named_tensors(task.inputs(batch)) if each.dim()), labels)
    if images != labels:
        raise DataError(f"it has {images} images but {labels} labels: there must be one label for each image")


def check_labels(labels: Any) -> Tensor:
    """Return labels that are class numbers (N,), of any integer type.

    Raises:
        DataError: if they are none.
    """
    if not is_whole(labels) or labels.ndim != 1:
        raise DataError(f"labels must be class numbers of shape (batch,), not {described(labels)}")
    return labels


def check_classes(labels: Any, scored: int, classes: int) -> Tensor:
    """Return class numbers (N,) as int64; looks at their values, and so waits for an accelerator.

    Raises:
        DataError: if one of them is outside of the network's classes.
        ModelError: if there are more or fewer rows of scores than labels.
    """
    labels = check_labels(labels)
    if scored != len(labels):
        raise ModelError(f"the model returned {scored} rows of scores for {len(labels)} images")
    labels = labels.long()
    low, high = (int(each) for each in labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"there is the label {wrong}, but the model has {classes} outputs, for the labels 0 to {classes - 1}: "
            "build the model with as many classes as the data has"
        )
    return labels


def _check_labels(labels: Any, output: Tensor) -> Tensor:
    """Return labels of 0 or 1, (N, classes).

    Raises:
        DataError: if they are none.
    """
    if isinstance(labels, Tensor) and output.shape[1] == 1 and labels.shape == output.shape[:1]:
        labels = labels[:, None]
    if not isinstance(labels, Tensor) or labels.shape != output.shape:
        raise DataError(
            f"multi-label targets must be 0 or 1 for each of {output.shape[1]} classes, of shape "
            f"{tuple(output.shape)}, not {described(labels)}"
        )
    wrong = labels[(labels != 0) & (labels != 1)]
    if len(wrong):
        raise DataError(f"multi-label targets must be 0 or 1 for each class, and there is a {wrong[0].item():g}")
    return labels
