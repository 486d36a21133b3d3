"""What the adapters share: what a callback is asked for, which cuts are due in an epoch, and what the network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from secateur import rules
from secateur.errors import SettingError, nearest
from secateur.rules import Count
from secateur.run import Result
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


class Pruning:
    """Half of a callback: the other one is the class of callbacks of a library, which knows when what happens.

    Args:
        example_inputs: what the network runs on.
        method: see ``secateur.Session``.
        keep: see there.
        network: which part of the module that trains is the network, such as ``"net"``; empty: all of it; None: the
            usual one of the library.
        start: number of the epoch, from 0, that the first cut begins.
        every: epochs from one cut to the next.
        session: further arguments of ``secateur.Session``, by their names.
    """

    usual_network: ClassVar[str] = ""
    first: ClassVar[str] = ""
    """What somebody has to do before there is a session, as an order."""

    def __init__(
        self,
        example_inputs: Any = None,
        method: Any = None,
        keep: Any = None,
        *,
        network: str | None = None,
        start: int = 1,
        every: int = 1,
        **session: Any,
    ) -> None:
        super().__init__()
        self._asked = {"example_inputs": example_inputs, "method": method, "keep": keep, **session}
        self._name = self.usual_network if network is None else network
        self._when = Timetable(start, every)
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session, once there is one.

        Raises:
            SettingError: before that.
        """
        if self._session is None:
            raise SettingError(f"no network is being pruned yet: {self.first} first")
        return self._session

    def finish(self, **how: Any) -> Result:
        """Return the result, see ``secateur.Session.finish``."""
        return self.session.finish(**how)

    def begin(self, network: nn.Module) -> None:
        """Begin with a network as it is.

        Raises:
            SecateurError: one of its kinds; then nothing was cut.
        """
        self._session = Session(network, **self._asked)


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
