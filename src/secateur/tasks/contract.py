"""What the library asks of a task, and what comes back: one of somebody's own breaks its contract in one sentence."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from secateur.core.graph.outputs import named_tensors
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError, SecateurError, SettingError, reason_of
from secateur.tasks.shapes import described

_METER = ("update", "compute")


def check_task(task: Task) -> None:
    """Refuse a task without a name or metrics.

    Raises:
        SettingError: saying which.
    """
    kind, metrics = type(task).__name__, cast("Any", getattr(task, "metrics", None))
    if not isinstance(getattr(task, "name", None), str):
        raise SettingError(f"{kind} is a task without a name: give its class one, such as name = 'segmentation'")
    if not isinstance(metrics, tuple | list) or not metrics or not all(isinstance(it, Metric) for it in metrics):
        raise SettingError(
            f"{kind} must have metrics, at least one secateur.tasks.Metric, and it has {described(metrics)}: give its "
            "class some, such as metrics = (Metric('accuracy', '%'),)"
        )


@contextmanager
def asked(task: Task, what: str) -> Generator[None]:
    """Turn an error of a task's own code into one sentence; ours, and those of too little memory, go on.

    Args:
        task: whose code runs.
        what: it is, as ``"loss()"``.

    Raises:
        ModelError: naming both.
    """
    try:
        yield
    except (SecateurError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{_whose(task, what)} fails: {reason_of(error)}") from error


def checked_loss(task: Task, output: Any, batch: Any) -> Tensor:
    """Return the loss of a task, a scalar.

    Raises:
        DataError: as ``scalar``, or whatever the task says.
        ModelError: if its code fails.
    """
    with asked(task, "loss()"):
        found = task.loss(output, batch)
    return scalar(found, output, _whose(task, "loss()"))


def scalar(found: Any, output: Any, who: str) -> Tensor:
    """Return a loss, ().

    Args:
        found: the loss.
        output: that it is of; where it has a gradient the loss must have one.
        who: has returned it.

    Raises:
        DataError: if it is no scalar tensor, or one without gradient in training.
    """
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise DataError(f"{who} must return the mean loss as a scalar tensor, not {described(found)}")
    if not found.requires_grad and any(tensor.requires_grad for _, tensor in named_tensors(output)):
        raise DataError(
            f"{who} returns a loss without gradient, from which nothing can be learned; compute it with torch from "
            "what the network returned, without detach() or item()"
        )
    return found.reshape(()) if found.dim() else found


def checked_meter(task: Task, device: torch.device) -> Meter:
    """Return a fresh meter of a task.

    Raises:
        SettingError: if the task is none, see ``check_task``.
        DataError: if it returns no meter.
        ModelError: if its code fails.
    """
    check_task(task)
    with asked(task, "meter()"):
        found = task.meter(device)
    if not all(callable(getattr(found, name, None)) for name in _METER):
        has = " and ".join(_METER)
        raise DataError(f"{_whose(task, 'meter()')} must return something with {has}, not {described(found)}")
    return found


def checked_values(task: Task, meter: Meter) -> tuple[float, ...]:
    """Return the values of a meter, one for each metric of the task.

    Raises:
        DataError: if they are no numbers, or more or fewer, or whatever the meter says.
        ModelError: if its code fails.
    """
    with asked(task, "compute() of the meter"):
        found: Any = meter.compute()
    named = ", ".join(metric.name for metric in task.metrics)
    wanted = f"{_whose(task, 'compute() of the meter')} must return a number for each metric ({named}), in a tuple"
    plain = isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping)
    try:
        values = tuple(number(each, "a value") for each in cast("Iterable[Any]", found)) if plain else ()
    except (DataError, TypeError):  # tensors and arrays of no dimension can be asked for their parts, and have none
        values = ()
    if len(values) != len(task.metrics):
        raise DataError(f"{wanted}, not {described(found)}")
    return values


def number(value: Any, who: str) -> float:
    """Return a value of a metric.

    Raises:
        DataError: if it is no number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    try:
        if isinstance(value, str | bytes):  # which float() reads
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{who} must be a number, not {described(value)}") from None


def _whose(task: Task, what: str) -> str:
    return f"{what} of the task '{getattr(task, 'name', type(task).__name__)}' ({type(task).__name__})"
