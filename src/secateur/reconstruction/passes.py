"""Forward passes of one network that wait wherever a layer is about to run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.core.literals import call_name
from secateur.core.surgery import Inputs
from secateur.measure.forward import evaluating
from secateur.reconstruction.lockstep import Lockstep, Runner
from secateur.reconstruction.sites import ADDITIONS, Place, Site, Trail, hooked


@dataclass(frozen=True, eq=False)
class Arrival:
    """A pass waits: before the forward of a layer, or behind an addition.

    Attributes:
        where: name of the layer, or the addition.
        tensor: what the layer is given, or the sum.
        batch: number of the batch.
    """

    where: str | Place
    tensor: Tensor
    batch: int


Heard = Callable[[str | Place, int, Tensor], None]
"""Hears what a layer puts out, or what an addition gives, for each batch: its name or place, the batch, the tensor."""


class Passes:
    """Passes over all batches, which stop before each layer of some sites and, if asked, behind additions.

    Args:
        model: the network.
        found: the sites whose layers are waited for.
        batches: what the forward takes.
        heard: hears outputs of these layers and the sums behind them.
        behind: the additions to stop at.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Site],
        batches: Sequence[Inputs],
        heard: Heard,
        behind: Iterable[Place] = (),
    ) -> None:
        self.model, self.batches, self.heard = model, batches, heard
        self.layers = {site.layer for site in found}
        self.additions = {site.add for site in found if site.add is not None}
        self.behind = frozenset(behind)
        self._local = threading.local()

    @contextmanager
    def running(self) -> Generator[Callable[[], list[Arrival]]]:
        """Yield a function that lets all passes go on to the next stop; it returns an empty list at their end."""
        lockstep = Lockstep(self.model, self.batches, self._watch)

        def advance() -> list[Arrival]:
            return [stop for stop in lockstep.advance() if stop is not None]

        with evaluating(self.model), hooked(self.model, self._enter, self._leave), lockstep():
            yield advance

    def _watch(self, runner: Runner) -> _Mode:
        self._local.runner, self._local.trail, self._local.own = runner, Trail(), False
        return _Mode(self)

    def _enter(self, name: str, module: nn.Module, given: Any) -> None:
        self._local.trail.path.append(name)
        if name in self.layers:
            runner: Runner = self._local.runner
            runner.pause(Arrival(name, given[0], runner.number))

    def _leave(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        self._local.trail.path.pop()
        if name in self.layers:
            self._tell(name, output)

    def _tell(self, where: str | Place, tensor: Tensor) -> None:
        self._local.own = True  # additions of ours are none of the network's
        self.heard(where, self._local.runner.number, tensor)
        self._local.own = False

    def added(self, result: Any) -> None:
        """Hear of an addition."""
        if self._local.own:
            return
        place = self._local.trail.addition()
        if place in self.additions and isinstance(result, Tensor):
            runner: Runner = self._local.runner
            self._tell(place, result)
            if place in self.behind:
                runner.pause(Arrival(place, result, runner.number))


class _Mode(TorchFunctionMode):
    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self._passes = passes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if call_name(func) in ADDITIONS:
            self._passes.added(result)
        return result
