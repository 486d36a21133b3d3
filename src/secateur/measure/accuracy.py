"""How well a classifier does on labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.errors import DataError, ModelError
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import Device, call, device_of, dtype_of, evaluating, logits_of, moved, yielded
from secateur.measure.record import Record
from secateur.rules import Number


@dataclass(frozen=True)
class Accuracy(Record):
    """How well a classifier did.

    Attributes:
        top1: fraction of the examples whose highest score was that of their label, in [0, 1].
        loss: mean cross-entropy in nats; may be infinite or NaN where the network's output is.
        examples: how many there were.
    """

    top1: float
    loss: Number
    examples: int


@checked
@apart("model")
def accuracy(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: Device | None = None,
    tell: Tell = ignore,
) -> Accuracy:
    """Measure the top-1 accuracy and the mean cross-entropy of ``model`` in eval mode.

    The model keeps its weights, buffers and mode.

    Args:
        model: a classifier that returns scores (N, classes).
        batches: pairs of float images (N, C, H, W) and int64 labels (N,); images are converted to the
            model's device and type.
        device: where to run; None means where the model is. The model is moved back afterwards.
        tell: hears of each batch, under the stage ``"measure"``.

    Returns:
        The accuracy over all examples, each counting the same.

    Raises:
        DataError: if there are no examples, or images and labels do not fit each other or the model.
        ModelError: if the model does not run on the images or does not return scores.
    """
    home = device_of(model)
    place = home if device is None else torch.device(device)
    # A model spread over several devices must stay so; and it is moved outside of inference mode, since
    # tensors made there could not be trained any more.
    if place != home:
        model.to(place)
    try:
        with evaluating(model), torch.inference_mode():
            return _measured(model, batches, place, tell)
    finally:
        if place != home:
            model.to(home)


def _measured(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], place: torch.device, tell: Tell) -> Accuracy:
    from torchmetrics.classification import MulticlassAccuracy

    metric: MulticlassAccuracy | None = None
    losses: list[Tensor] = []
    examples = 0
    dtype = dtype_of(model)
    layout = torch.channels_last if place.type == "cpu" else None  # convolutions are faster so; only rounding differs
    total = len(batches) if isinstance(batches, Sized) else None
    for step, batch in enumerate(yielded(batches, "the batches"), start=1):
        images, labels = _checked(batch, step)
        if len(labels) == 0:
            continue
        images = images.to(place, dtype)
        try:
            output = call(model, moved(images, place, layout))
        except ModelError:  # code that looks at strides, such as a view; any other error comes again
            if layout is None:
                raise
            layout, output = None, call(model, images)
        logits = logits_of(output).float()
        classes = logits.shape[1]
        _check_labels(labels, len(logits), classes, step)
        labels = labels.to(place)
        if metric is None:
            metric = MulticlassAccuracy(classes, average="micro", validate_args=False).to(place)
        metric.update(logits.argmax(dim=1), labels)
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        examples += len(labels)
        tell(Event("measure", step=step, total=total))
    if metric is None:
        raise DataError("there are no examples to measure the accuracy on: the batches are empty")
    loss = float(torch.stack(losses).cpu().double().sum()) / examples
    return Accuracy(top1=float(metric.compute()), loss=loss, examples=examples)


def _checked(batch: object, step: int) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a batch, with int64 labels."""
    pair = cast("tuple[object, ...]", batch) if isinstance(batch, tuple | list) else ()
    if len(pair) != 2 or not isinstance(pair[0], Tensor) or not isinstance(pair[1], Tensor):
        raise DataError(f"batch {step} must be a pair of tensors, images and labels")
    images, labels = pair[0], pair[1]
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"the labels of batch {step} must be class numbers of shape (batch,), not {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    if images.ndim == 0 or len(images) != len(labels):
        raise DataError(
            f"batch {step} has images of shape {tuple(images.shape)} but {len(labels)} labels: there must be"
            " one label for each image"
        )
    return images, labels.long()


def _check_labels(labels: Tensor, scored: int, classes: int, step: int) -> None:
    if scored != len(labels):
        raise ModelError(f"the model returned {scored} rows of scores for the {len(labels)} images of batch {step}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"batch {step} has the label {wrong}, but the model has {classes} outputs, for the labels 0 to"
            f" {classes - 1}: build the model with as many classes as the data has"
        )
