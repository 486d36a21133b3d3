"""What all processes that train a network together do alike: the first one decides, and where one fails all do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from secateur.core.plan import Plan
from secateur.errors import ContractError, SecateurError, TrainingError, first_line

T = TypeVar("T")
Trouble = tuple[type[SecateurError], str]


def several_processes() -> bool:
    """Tell whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def decided(decide: Callable[[], tuple[Plan, float]]) -> tuple[Plan, float]:
    """Return what the first process decides, which alone is asked.

    Args:
        decide: returns a plan, and how far the cut network is from the silenced one.

    Raises:
        SecateurError: in all processes, of the same kind, if the first one found no plan.
    """
    if not several_processes():
        return decide()
    sent: list[Any] = ["", 0.0, None]
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            plan, difference = decide()
            sent = [plan.to_json(), difference, None]
        except Exception as failed:  # whatever it is: the others wait
            error, sent[2] = failed, _trouble(failed)
    dist.broadcast_object_list(sent, 0)
    _raise(error, sent[2:], "nothing was cut")
    return Plan.from_json(sent[0]), float(sent[1])


def alike(work: Callable[[], T]) -> T:
    """Return what work comes to, if it comes to something in all processes; each has to come here.

    Raises:
        SecateurError: in all processes, of the same kind, if it failed in one of them.
    """
    if not several_processes():
        return work()
    found: list[T] = []
    error: Exception | None = None
    try:
        found.append(work())
    except Exception as failed:  # whatever it is: the others wait
        error = failed
    troubles: list[Trouble | None] = [None] * dist.get_world_size()
    dist.all_gather_object(troubles, None if error is None else _trouble(error))
    _raise(error, troubles, "nothing was changed")
    return found[0]


def _trouble(error: Exception) -> Trouble:
    kind = type(error) if isinstance(error, SecateurError) else TrainingError
    return (SecateurError if issubclass(kind, ContractError) else kind), first_line(error)


def _raise(own: Exception | None, troubles: list[Trouble | None], so: str) -> None:
    """Raise what went wrong here, else what went wrong in the first process in which something did."""
    if own is not None:
        raise own
    for number, trouble in enumerate(troubles):
        if trouble is not None:
            kind, text = trouble
            raise kind(f"{so}, for process {number} of those that train together failed: {text}")
