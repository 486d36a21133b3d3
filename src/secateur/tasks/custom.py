"""A task of the user's own, from two callables."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.core.graph.outputs import named_tensors
from secateur.core.surgery.forward import Inputs
from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError, SecateurError, SettingError, reason_of
from secateur.tasks.contract import number, scalar
from secateur.tasks.shapes import described
from secateur.typed import check_types

_SLACK = 1e-3  # by which rounding in half precision may leave 0..1
_METRIC = ("update", "compute", "reset")  # what a metric that sees all batches can do


@dataclass(frozen=True)
class Custom(Task):
    """A task from a loss and a metric.

    Attributes:
        criterion: takes what the network returned and the targets of a batch; returns the mean loss, a scalar tensor.
            A module is moved to the device of the network's output; parameters of its own are not trained.
        score: takes the same; returns how well the network did on the batch, a number, whose mean over examples is the
            metric. Or a metric of torchmetrics (or anything with ``update(output, target)``, ``compute()`` and
            ``reset()``), of which a copy sees all batches before it is asked.
        title: what the metric is called.
        unit: of the metric; with ``"%"`` values are fractions in [0, 1].
        higher_is_better: its direction.
        network_inputs: takes a batch and returns what the network is called with; None: the first of a pair, or all of
            a table but for its targets.
        targets: takes a batch and returns its targets; None: the second of a pair, or ``labels`` of a table.

    Raises:
        SettingError: if one of them is of another kind.
    """

    name: ClassVar[str] = "a task of your own"
    example: ClassVar[str] = "example"
    criterion: Callable[[Any, Any], Tensor] = field(repr=False)
    score: Any = field(repr=False)
    title: str = "score"
    unit: str = ""
    higher_is_better: bool = True
    network_inputs: Callable[[Any], Inputs] | None = field(default=None, repr=False)
    targets: Callable[[Any], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        Metric(self.title, self.unit, self.higher_is_better)
        if not callable(self.score) and not _sees_all(self.score):
            raise SettingError(
                "score of a task must be a function of what the network returned and of the targets, or have "
                f"{', '.join(_METRIC)}, and it is {described(self.score)}"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The one metric."""
        return (Metric(self.title, self.unit, self.higher_is_better),)

    def inputs(self, batch: Any, *, training: bool = False) -> Inputs:
        """Return what the network is called with."""
        if self.network_inputs is None:
            return super().inputs(batch)
        found: Any = _of_batch(self.network_inputs, "network_inputs", batch)
        if isinstance(found, Tensor | Sequence | Mapping):
            return found
        raise DataError(
            "network_inputs of the task must return what the network is called with, a tensor, a tuple of arguments or "
            f"a table of named ones, not {described(found)}"
        )

    def target(self, batch: Any) -> Any:
        """Return what is wanted of the network."""
        return super().target(batch) if self.targets is None else _of_batch(self.targets, "targets", batch)

    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return what the criterion says.

        Raises:
            ModelError: if it fails on this output.
            DataError: if it returns no scalar tensor, or one without gradient in training.
        """
        if isinstance(self.criterion, nn.Module):
            _follow(self.criterion, output)
        target = self.target(batch)
        found = _asked(self.criterion, "criterion", output, target)
        return scalar(found, output, "the criterion of the task")

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the score."""
        return _WholeMeter(self, device) if _sees_all(self.score) else _ScoreMeter(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the metric; code is not described."""
        return {"name": self.name, "metric": self.title}


class _ScoreMeter(Meter):
    def __init__(self, task: Custom) -> None:
        self._task, self._sum, self._examples = task, 0.0, 0

    def update(self, output: Any, batch: Any) -> None:
        count = self._task.count(batch)
        if count:
            found = _asked(self._task.score, "score", output, self._task.target(batch))
            self._sum += count * _in_unit(number(found, "the score of the task"), self._task)
            self._examples += count

    def compute(self) -> tuple[float, ...]:
        if not self._examples:
            raise nothing_measured()
        return (self._sum / self._examples,)


class _WholeMeter(Meter):
    def __init__(self, task: Custom, device: torch.device) -> None:
        try:
            self._metric: Any = copy.deepcopy(task.score)  # two meters may be in use at the same time
            self._metric.reset()
            if hasattr(self._metric, "to"):
                self._metric.to(device)
        except Exception as error:
            raise SettingError(f"the score of the task cannot be copied and reset: {reason_of(error)}") from error
        self._task, self._seen = task, False

    def update(self, output: Any, batch: Any) -> None:
        _asked(self._metric.update, "score", output, self._task.target(batch))
        self._seen = True

    def compute(self) -> tuple[float, ...]:
        if not self._seen:
            raise nothing_measured()
        try:
            found = self._metric.compute()
        except Exception as error:
            raise ModelError(f"the score of the task cannot be computed: {reason_of(error)}") from error
        return (_in_unit(number(found, "the score of the task"), self._task),)


def _sees_all(score: Any) -> bool:
    return not isinstance(score, type) and all(callable(getattr(score, name, None)) for name in _METRIC)


def _asked(what: Callable[[Any, Any], Any], name: str, output: Any, target: Any) -> Any:
    try:
        return what(output, target)
    except (SecateurError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"the {name} of the task does not take what the network returned ({described(output)}) with the targets "
            f"({described(target)}): {reason_of(error)}"
        ) from error


def _of_batch(what: Callable[[Any], Any], name: str, batch: Any) -> Any:
    try:
        return what(batch)
    except (SecateurError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise DataError(f"{name} of the task does not take a batch ({described(batch)}): {reason_of(error)}") from error


def _follow(criterion: nn.Module, output: Any) -> None:
    """Move a loss with weights, such as those of classes, to where the output is."""
    held = next(chain(criterion.parameters(), criterion.buffers()), None)
    if held is not None:
        for _, tensor in named_tensors(output):
            if tensor.device != held.device:
                criterion.to(tensor.device)
            return


def _in_unit(value: float, task: Custom) -> float:
    """Return a metric, or refuse one in hundredths where it is a fraction that is shown in them.

    Raises:
        DataError: if it is none.
    """
    if task.unit == "%" and not -_SLACK <= value <= 1 + _SLACK and math.isfinite(value):
        raise DataError(
            f"the score of the task has the unit '%', for which it must be a fraction in 0..1, and it is {value:g}: "
            "divide it by 100, or leave the unit out"
        )
    return value
