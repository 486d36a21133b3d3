"""What the adapters share: which cuts are due in an epoch, and which part of a module is the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur import rules
from secateur.errors import SettingError, nearest
from secateur.rules import Count
from secateur.session import Session
from secateur.typed import check_types


@dataclass(frozen=True)
class Timetable:
    """When the cuts of a session are made, so that a run that goes on after a kill makes them once.

    Attributes:
        start: number of the epoch, from 0, at whose beginning the first cut is made.
        every: epochs from one cut to the next.
    """

    start: int = 1
    every: Count = 1

    def __post_init__(self) -> None:
        check_types(self)
        rules.refuse(("start", self.start, rules.whole(0)))

    def is_due(self, session: Session, epoch: int) -> bool:
        """Tell whether a cut is due in an epoch and not behind yet."""
        due = 0 if epoch < self.start else (epoch - self.start) // self.every + 1
        return session.cuts < due and not session.finished

    def step(self, session: Session, epoch: int, *holders: Any) -> None:
        """Make the cuts that are due."""
        while self.is_due(session, epoch):
            session.step(*holders)


def part_of(module: nn.Module, network: str) -> nn.Module:
    """Return the part of a module that a name such as ``"net"`` or ``"model.backbone"`` leads to; empty: all of it.

    Raises:
        SettingError: if there is none; names the nearest.
    """
    try:
        return module.get_submodule(network)
    except AttributeError:
        known = [name for name, _ in module.named_children()]
        raise SettingError(
            f"{type(module).__name__} has no network '{network}'{nearest(network, known)}: name one of its modules "
            f"({', '.join(known) or 'there are none'})"
        ) from None
