"""How well a network does its task on examples whose targets are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from secateur import reading
from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.errors import ArtifactError, DataError, ModelError, SecateurError
from secateur.events import Event, Tell, ignore, warn
from secateur.measure.forward import (
    Device,
    call,
    device_of,
    dtype_of,
    evaluating,
    moved,
    table_like,
    tuple_like,
    yielded,
)
from secateur.rules import Number
from secateur.tasks import ACCURACY, CLASSIFICATION, Metric, Task
from secateur.tasks.contract import asked, checked_loss, checked_meter, checked_values
from secateur.typed import check_types


@checked
@dataclass(frozen=True)
class Quality:
    """How well a network did.

    Attributes:
        metrics: of its task; the first one decides.
        values: one for each of them; NaN where it is not defined.
        loss: the mean over the examples, of classes the cross-entropy in nats; may be infinite or NaN where the output
            of the network is, and is None for tasks whose loss exists in training alone.
        examples: how many there were.
    """

    metrics: tuple[Metric, ...]
    values: tuple[Number, ...]
    loss: Number | None
    examples: int

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def metric(self) -> Metric:
        """The metric that decides."""
        return self.metrics[0]

    @property
    def value(self) -> float:
        """That of the metric that decides: of classification the share of right answers, in [0, 1]."""
        return self.values[0]

    @property
    def loss_or_error(self) -> float:
        """What is smaller the better: the loss, or the error by the metric where the loss exists in training alone."""
        return self.metric.error(self.value) if self.loss is None else self.loss

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON has."""
        pairs = zip(self.metrics, self.values, strict=True)
        metrics = [{**dataclasses.asdict(metric), "value": value} for metric, value in pairs]
        return {"metrics": metrics, "loss": self.loss, "examples": self.examples}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the quality that ``to_dict`` was called on, or that an earlier version wrote as an accuracy.

        Raises:
            ArtifactError: if it is none.
        """
        if "top1" in values:
            accuracy = {**dataclasses.asdict(ACCURACY), "value": values["top1"]}
            values = {"metrics": [accuracy], **{name: each for name, each in values.items() if name != "top1"}}
        try:
            entries = [dict(entry) for entry in values["metrics"]]
            found = [entry.pop("value") for entry in entries]
            numbers = tuple(math.nan if value is None else _number(value) for value in found)  # JSON has no NaN
            loss = None if values["loss"] is None else _number(values["loss"])
            metrics = tuple(Metric(**entry) for entry in entries)
            if not metrics or set(values) != {"metrics", "loss", "examples"}:
                raise reading.Unfit("it must have metrics, at least one, loss and examples, and nothing else")
            return cls(metrics, numbers, loss, values["examples"])
        except (LookupError, TypeError, ValueError, SecateurError) as error:
            raise ArtifactError(f"the stored quality is damaged: {reading.wrong(error)}") from error


@checked
@apart("model")
def quality(
    model: nn.Module,
    batches: Iterable[Any],
    task: Task | None = None,
    *,
    device: Device | None = None,
    tell: Tell = ignore,
) -> Quality:
    """Measure how well ``model`` does its task in eval mode.

    The model keeps its weights, buffers and mode.

    Args:
        model: the network.
        batches: as the task takes them; for classification pairs of float images (N, C, H, W) and int64 labels (N,).
            Floating-point inputs are converted to the model's device and type.
        task: what the network is for; None for classification.
        device: where to run; None means where the model is. The model is moved back afterwards.
        tell: hears of each batch, under the stage ``"measure"``.

    Returns:
        The metrics of the task and the mean loss over all examples, each counting the same.

    Raises:
        DataError: if there are no examples, or inputs and targets do not fit each other or the model.
        ModelError: if the model does not run on the inputs or returns nothing that the task can use.
    """
    home = device_of(model)
    place = home if device is None else torch.device(device)
    # A model spread over several devices must stay so; and it is moved outside of inference mode, since
    # tensors made there could not be trained any more.
    if place != home:
        model.to(place)
    try:
        with evaluating(model), torch.inference_mode():
            return _measured(model, batches, task or CLASSIFICATION, place, tell)
    finally:
        if place != home:
            model.to(home)


def _measured(model: nn.Module, batches: Iterable[Any], task: Task, place: torch.device, tell: Tell) -> Quality:
    meter, losses, counts = checked_meter(task, place), list[Tensor](), list[int]()
    dtype = dtype_of(model)
    layout = torch.channels_last if place.type == "cpu" else None  # convolutions are faster so; only rounding differs
    total = len(batches) if isinstance(batches, Sized) else None
    for step, batch in enumerate(yielded(batches, "the batches"), start=1):
        try:
            with asked(task, "inputs()"):
                count = task.count(batch)
                if not count:
                    continue
                batch = moved(batch, place)
                inputs = typed(task.inputs(batch), dtype)
        except DataError as error:
            raise DataError(f"batch {step}: {error}") from error
        try:
            output = call(model, moved(inputs, place, layout))
        except ModelError:  # code that looks at strides, such as a view; any other error comes again
            if layout is None:
                raise
            layout, output = None, call(model, inputs)
        with asked(task, "output()"):
            found = _single(task.output(output))
        try:
            with asked(task, "update() of the meter"):
                meter.update(found, batch)
                task.check_network(model, batch)
        except (DataError, ModelError) as error:
            raise type(error)(f"batch {step}: {error}") from error
        if task.judges_loss:
            losses.append(checked_loss(task, found, batch))  # read in the end, so that no accelerator is waited for
        counts.append(count)
        tell(Event("measure", step=step, total=total))
    if not counts:
        raise DataError(f"there are no examples to measure the {task.metric.name} on: the batches are empty")
    examples = sum(counts)
    sizes = torch.tensor(counts, dtype=torch.float64)
    loss = float(torch.stack(losses).cpu().double() @ sizes) / examples if losses else None
    split = getattr(getattr(batches, "order", None), "split", "")
    try:
        return Quality(tuple(task.metrics), checked_values(task, meter), loss, examples)
    except DataError as error:
        raise DataError(f"the {split} {task.example}s: {error}" if split else str(error)) from error


def warn_of_nan(found: Quality, whose: str, tell: Tell) -> None:
    """Say which metrics of a network are not defined."""
    names = [metric.name for metric, value in zip(found.metrics, found.values, strict=True) if math.isnan(value)]
    if names:
        sound = found.loss is None or math.isfinite(found.loss)
        where = "how the task computes it" if sound else "what the network returns, whose loss is no number either"
        warn(f"the {' and the '.join(names)} of {whose} on {found.examples} examples is NaN: look at {where}", tell)


def typed(inputs: Any, dtype: torch.dtype) -> Any:
    """Return inputs with their floating-point tensors in another type."""
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        entries = cast("Mapping[str, Any]", inputs)
        return table_like(entries, {name: typed(value, dtype) for name, value in entries.items()})
    if isinstance(inputs, list | tuple):
        several = cast("tuple[Any, ...]", inputs)
        values = [typed(value, dtype) for value in several]
        return tuple_like(several, values) if isinstance(inputs, tuple) else values
    return inputs


def _single(output: Any) -> Any:
    """Return an output with its floating-point tensors in single precision."""
    return typed(output, torch.float32)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise reading.Unfit(f"{reading.written(value)} is no number")
    return float(value)
