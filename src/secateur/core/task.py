"""What a network is for: how a batch is given to it, what it learns from, and how well it does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from secateur.core.graph.outputs import named_tensors
from secateur.core.metric import Metric
from secateur.core.surgery.forward import Inputs, count_of
from secateur.errors import DataError, ModelError, SettingError

TARGETS = ("labels", "label", "targets", "target")
"""Names under which a batch that is a table holds what is wanted of the network."""


class Meter(ABC):
    """Collects what a network returned for the batches of a split, and says how well it did.

    Outputs that are NaN count as wrong: they never make a value better, and never stop the measurement.
    """

    @abstractmethod
    def update(self, output: Any, batch: Any) -> None:
        """Look at what ``Task.output`` returned for a batch, in evaluation mode and without gradients.

        Targets are checked here, where it costs no training step to wait for a device.

        Raises:
            DataError: if the targets are none of the task, or do not fit the output.
            ModelError: if the output has more or fewer examples than the batch.
        """

    @abstractmethod
    def compute(self) -> Sequence[float]:
        """Return a value for each of the task's metrics, in their order.

        Raises:
            DataError: if there was no example, or none that says anything.
        """


class Task(ABC):
    """What a network is for. Subclass it for a task of your own, or give two callables to ``secateur.tasks.Custom``.

    A batch is whatever the data yields: a pair of inputs and targets, or a table with one of ``TARGETS`` in it.

    Attributes:
        name: the field's word for the task, in small letters.
        metrics: what says how well a network does it; the first one decides.
        example: what one example is called, in the singular.
    """

    name: ClassVar[str]
    metrics: tuple[Metric, ...]
    example: ClassVar[str] = "image"

    @property
    def metric(self) -> Metric:
        """The metric that decides."""
        return self.metrics[0]

    def inputs(self, batch: Any, *, training: bool = False) -> Inputs:
        """Return what the network is called with: a tensor, a tuple of arguments, or a table of named ones.

        Args:
            batch: one of the data.
            training: whether the network is in training mode, in which some want the targets as well.

        Raises:
            DataError: if the batch is none of this task.
        """
        if isinstance(batch, Mapping):
            entries = cast("Mapping[str, Any]", batch)
            named = {name: value for name, value in entries.items() if name not in TARGETS}
            if named:
                return named
            raise DataError(f"a batch is a table without inputs; it has {_listed(entries)}")
        return pair_of(batch)[0]

    def target(self, batch: Any) -> Any:
        """Return what is wanted of the network.

        Raises:
            DataError: if the batch holds nothing of the kind.
        """
        if isinstance(batch, Mapping):
            entries = cast("Mapping[str, Any]", batch)
            for name in TARGETS:
                if name in entries:
                    return entries[name]
            raise DataError(
                f"a batch is a table without targets; it has {_listed(entries)}, and they are looked for under "
                f"{', '.join(TARGETS)}"
            )
        return pair_of(batch)[1]

    def count(self, batch: Any) -> int:
        """Return how many examples a batch holds.

        Raises:
            DataError: if there is no tensor in what the network takes.
        """
        inputs = self.inputs(batch)
        count = count_of(inputs)
        if count is None:
            raise DataError(f"the inputs of a batch must be tensors, and there are none in a {type(inputs).__name__}")
        return count

    def output(self, returned: Any) -> Any:
        """Return what matters of what the network returned.

        Raises:
            ModelError: if it is nothing that this task can use, saying what came out.
        """
        return returned

    @abstractmethod
    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar with gradient.

        It never waits for an accelerator: values of targets that are not on the CPU are left to ``Meter.update``.

        Args:
            output: from ``output``, of the network in training mode, or in evaluation mode where ``judges_loss``.
            batch: one of the data, on the same device.

        Raises:
            DataError: if the targets are none of the task, or do not fit the output.
        """

    def in_vain(self, batch: Any) -> str:
        """Return why nothing can be learned from a batch that is fit for the task; empty where something may be.

        It looks at values, and so waits for an accelerator.
        """
        return ""

    def check_network(self, network: nn.Module, batch: Any, failed: Exception | None = None) -> None:
        """Refuse a batch whose targets a network does not know, as far as the network says what it knows.

        It is asked where a network is measured, and in training once the network has failed on the batch.

        Args:
            network: what should take the batch.
            batch: one of the data, fit for the task.
            failed: what the network has raised; None if it has not run.

        Raises:
            DataError: saying what it does not know.
        """
        return

    metric_is_mean: ClassVar[bool] = False
    """Whether the deciding metric of a split is the mean over its examples, so that several processes can share it."""

    imitates: ClassVar[bool] = True
    """Whether there is something to imitate in what a network returns in training mode."""

    judges_loss: ClassVar[bool] = True
    """Whether ``loss`` can be computed in evaluation mode as well."""

    @abstractmethod
    def meter(self, device: torch.device) -> Meter:
        """Return a fresh meter, for outputs on a device."""

    def right(self, output: Any, batch: Any) -> Tensor | None:
        """Return how many examples of a batch came out right, (), where that can be counted cheaply in training."""
        return None

    def imitation(self, output: Any, taught: Any, temperature: float) -> Tensor:
        """Return how far a network is from its teacher on a batch, a scalar with gradient.

        By default the squared difference over the squared size, the mean over all tensors of the output.

        Args:
            output: from ``output``, of the network that learns.
            taught: the same of its teacher, without gradient.
            temperature: by which scores are divided, where there are some.

        Raises:
            SettingError: if there is nothing to imitate.
            ModelError: if the teacher returns something else than the network.
        """
        own, told = _floats(output), _floats(taught)
        if not own:
            raise nothing_to_imitate(self)
        if [each.shape for each in own] != [each.shape for each in told]:
            raise ModelError(
                f"the teacher returns tensors of shape {_shapes(told)}, and the network that learns from it of shape "
                f"{_shapes(own)}: both must return the same"
            )
        tiny = torch.finfo(torch.float32).tiny
        errors = [
            (mine - right).square().sum() / right.square().sum().clamp(min=tiny)
            for mine, right in zip(own, told, strict=True)
        ]
        return torch.stack(errors).mean()

    def smoothed(self, label_smoothing: float) -> Self:
        """Return this task with smoothed labels.

        Raises:
            SettingError: if it has no class numbers to smooth.
        """
        if not label_smoothing:
            return self
        raise SettingError(f"label_smoothing is for class numbers, and {self.name} has none; set it to 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the settings of the task, those of them that JSON can hold."""
        settings = {field.name: getattr(self, field.name) for field in _fields(self)}
        return {"name": self.name, **{name: value for name, value in settings.items() if _in_json(value)}}


def pair_of(batch: Any) -> tuple[Any, Any]:
    """Return inputs and targets of a batch.

    Raises:
        DataError: if it is no pair.
    """
    if isinstance(batch, tuple | list):
        entries = cast("Sequence[Any]", batch)
        if len(entries) == 2:
            return entries[0], entries[1]
        raise DataError(
            f"a batch must be a pair of inputs and targets, and one has {len(entries)} parts: say which are which with "
            "a task of your own (network_inputs= and targets= of secateur.tasks.Custom)"
        )
    raise DataError(
        f"a batch must be a pair of inputs and targets, or a table of named ones, and one is a {type(batch).__name__}"
    )


def nothing_measured() -> DataError:
    """Return the error of a meter that has seen no example."""
    return DataError("there are no examples to measure the network on: the batches are empty")


def nothing_to_imitate(task: Task) -> SettingError:
    """Return the error of a task whose networks return nothing that another could imitate."""
    return SettingError(
        f"a network for {task.name} returns nothing in training mode that another could imitate; set 'distill' to 0"
    )


def _floats(value: Any) -> list[Tensor]:
    return [tensor.float() for _, tensor in named_tensors(value) if tensor.is_floating_point()]


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"


def _listed(entries: Mapping[str, Any]) -> str:
    return ", ".join(map(str, entries)) or "nothing"


def _fields(task: Task) -> Sequence[dataclasses.Field[Any]]:
    return dataclasses.fields(task) if dataclasses.is_dataclass(task) else ()


def _in_json(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_in_json, cast("Sequence[Any]", value)))
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value)
        return all(isinstance(key, str) and _in_json(each) for key, each in entries.items())
    return value is None or isinstance(value, str | int | float | bool)
