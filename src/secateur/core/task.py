"""What a network is for: how a batch is given to it, what it learns from, and how well it does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from secateur.core.graph.outputs import named_tensors
from secateur.core.metric import Metric
from secateur.core.surgery.forward import Inputs
from secateur.errors import DataError, SettingError

TARGETS = ("labels", "label", "targets", "target")
"""Names under which a batch that is a table holds what is wanted of the network."""


class Meter(ABC):
    """Collects what a network returned for the batches of a split, and says how well it did."""

    @abstractmethod
    def update(self, output: Any, batch: Any) -> None:
        """Look at what ``Task.output`` returned for a batch."""

    @abstractmethod
    def compute(self) -> Sequence[float]:
        """Return a value for each of the task's metrics, in their order."""


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
            return {name: value for name, value in entries.items() if name not in TARGETS}
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
                f"a batch is a table without targets; it has {', '.join(map(str, entries))}, and they are looked for "
                f"under {', '.join(TARGETS)}"
            )
        return pair_of(batch)[1]

    def count(self, batch: Any) -> int:
        """Return how many examples a batch holds.

        Raises:
            DataError: if there is no tensor in what the network takes.
        """
        inputs = self.inputs(batch)
        for _, tensor in named_tensors(inputs):
            return len(tensor) if tensor.dim() else 1
        raise DataError(f"the inputs of a batch must be tensors, and there are none in a {type(inputs).__name__}")

    def output(self, returned: Any) -> Any:
        """Return what matters of what the network returned.

        Raises:
            ModelError: if it is nothing that this task can use, saying what came out.
        """
        return returned

    @abstractmethod
    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar with gradient.

        Args:
            output: from ``output``, of the network in training mode, or in evaluation mode where ``judges_loss``.
            batch: one of the data, on the same device.
        """

    metric_is_mean: ClassVar[bool] = False
    """Whether the deciding metric of a split is the mean over its examples, so that several processes can share it."""

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
        """
        pairs = zip(_floats(output), _floats(taught), strict=True)
        tiny = torch.finfo(torch.float32).tiny
        errors = [(own - told).square().sum() / told.square().sum().clamp(min=tiny) for own, told in pairs]
        if not errors:
            raise SettingError(
                f"a network for {self.name} returns no tensors in training mode that another could imitate; set "
                "'distill' to 0"
            )
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
        """Return the name and the settings of the task, in values that JSON has."""
        settings = dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}
        return {"name": self.name, **settings}


def pair_of(batch: Any) -> tuple[Any, Any]:
    """Return inputs and targets of a batch.

    Raises:
        DataError: if it is no pair.
    """
    if isinstance(batch, tuple | list):
        entries = cast("Sequence[Any]", batch)
        if len(entries) == 2:
            return entries[0], entries[1]
        raise DataError(f"a batch must be a pair of inputs and targets, and one has {len(entries)} parts")
    raise DataError(f"a batch must be a pair of inputs and targets, and one is a {type(batch).__name__}")


def _floats(value: Any) -> list[Tensor]:
    return [tensor.float() for _, tensor in named_tensors(value) if tensor.is_floating_point()]
