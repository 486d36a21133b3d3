"""A task of the user's own, from two callables."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.core.surgery.forward import Inputs
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError, first_line
from secateur.tasks.shapes import described
from secateur.typed import check_types


@dataclass(frozen=True)
class Custom(Task):
    """A task from a loss and a metric.

    Attributes:
        criterion: takes what the network returned and the targets of a batch; returns the mean loss, a scalar tensor.
        score: takes the same; returns how well the network did on the batch, a number, whose mean over examples is the
            metric. Or a metric of torchmetrics (or anything with ``update(output, target)``, ``compute()`` and
            ``reset()``), which sees all batches before it is asked.
        title: what the metric is called.
        unit: of the metric; with ``"%"`` values are fractions in [0, 1].
        higher_is_better: its direction.
        network_inputs: takes a batch and returns what the network is called with; None: the first of a pair, or all of
            a table but for its targets.
        targets: takes a batch and returns its targets; None: the second of a pair, or ``labels`` of a table.
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

    @property
    def metrics(self) -> tuple[Metric, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The one metric."""
        return (Metric(self.title, self.unit, self.higher_is_better),)

    def inputs(self, batch: Any, *, training: bool = False) -> Inputs:
        """Return what the network is called with."""
        return super().inputs(batch) if self.network_inputs is None else self.network_inputs(batch)

    def target(self, batch: Any) -> Any:
        """Return what is wanted of the network."""
        return super().target(batch) if self.targets is None else self.targets(batch)

    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return what the criterion says.

        Raises:
            ModelError: if it fails on this output.
            DataError: if it returns no scalar tensor.
        """
        found = self._asked(self.criterion, "criterion", output, batch)
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise DataError(f"the criterion must return the mean loss as a scalar tensor, not {described(found)}")
        return found.reshape(())

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the score."""
        return _ScoreMeter(self, device)

    def measured(self, output: Any, batch: Any) -> float:
        """Return the score of a batch."""
        return _number(self._asked(self.score, "score", output, batch))

    def _asked(self, what: Callable[[Any, Any], Any], name: str, output: Any, batch: Any) -> Any:
        target = self.target(batch)
        try:
            return what(output, target)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ModelError(
                f"the {name} of the task does not take what the network returned ({described(output)}) with the "
                f"targets ({described(target)}): {type(error).__name__}: {first_line(error)}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the metric; code is not described."""
        return {"name": self.name, "metric": self.title}


class _ScoreMeter(Meter):
    def __init__(self, task: Custom, device: torch.device) -> None:
        self._task, self._sum, self._examples = task, 0.0, 0
        self._whole = task.score if hasattr(task.score, "update") and hasattr(task.score, "compute") else None
        if self._whole is not None:
            self._whole.reset()
            if hasattr(self._whole, "to"):
                self._whole.to(device)

    def update(self, output: Any, batch: Any) -> None:
        if self._whole is not None:
            self._whole.update(output, self._task.target(batch))
            return
        count = self._task.count(batch)
        self._sum += self._task.measured(output, batch) * count
        self._examples += count

    def compute(self) -> tuple[float, ...]:
        return (_number(self._whole.compute()) if self._whole is not None else self._sum / self._examples,)


def _number(value: Any) -> float:
    """Return a metric as a number.

    Raises:
        DataError: if it is none.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"the metric of the task must be a number, not {described(value)}") from None
    return number if math.isfinite(number) else math.nan
