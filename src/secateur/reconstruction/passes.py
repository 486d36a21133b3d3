"""Forward passes of one network that wait wherever a layer is about to run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.code.written_numbers import call_name
from secateur.core.surgery import Inputs, run
from secateur.core.surgery.forward import tensors_in
from secateur.core.torch_modes import FunctionMode
from secateur.errors import BranchingError, DataError, ModelError
from secateur.measure.forward import device_of, in_eval_mode, joinable, joined, moved, part
from secateur.reconstruction.lockstep import Lockstep, Runner
from secateur.reconstruction.sites import ADDITIONS, PAIR, Place, Site, Trail, hooked
from secateur.spelling import said

ONE = slice(0, 1)


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
        room: how many batches may wait at each layer, see ``room``; those that find none yet start later. None: all.
        within: a context that all passes run in, such as a mode.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Sequence[Site],
        batches: Sequence[Inputs],
        heard: Heard,
        behind: Iterable[Place] = (),
        room: Mapping[str, int] | None = None,
        within: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.model, self.batches, self.heard = model, batches, heard
        self.layers = {site.layer for site in found}
        self.additions = {site.add for site in found if site.add is not None}
        self.behind = frozenset(behind)
        self.room, self.within = room, within
        self._until: dict[int, str] = {}
        self._local = threading.local()

    @contextmanager
    def running(self) -> Generator[Callable[[], list[Arrival]]]:
        """Yield a function that lets all passes go on to the next stop; it returns an empty list at their end."""
        lockstep = Lockstep(self.model, self.batches, self._watch)

        self._until.clear()

        def advance() -> list[Arrival]:
            stops = self._advance(lockstep.runners)
            if len({None if stop is None else stop.where for stop in stops}) > 1:
                raise parted(self.model)
            return [stop for stop in stops if stop is not None]

        with in_eval_mode(self.model), hooked(self.model, self._enter, self._leave), lockstep():
            yield advance

    def _advance(self, runners: Sequence[Runner]) -> list[Any]:
        """Let all passes that have started go on to the next stop, and those that find room there start and join."""
        first = runners[0].advance()
        started = sum(runner.started for runner in runners)
        many = started
        if first is not None and isinstance(first.where, str):
            many = max(started, len(runners) if self.room is None else self.room.get(first.where, started))
            self._until |= dict.fromkeys(range(started, many), first.where)
        return [first, *(runner.advance() for runner in runners[1:many])]

    def _watch(self, runner: Runner) -> ExitStack:
        self._local.runner, self._local.trail, self._local.own = runner, Trail(), False
        stack = ExitStack()
        if self.within is not None:
            stack.enter_context(self.within)
        stack.enter_context(_Mode(self))
        return stack

    def _enter(self, name: str, module: nn.Module, given: Any) -> None:
        if not hasattr(self._local, "runner"):  # a thread of the network's own
            return
        self._local.trail.path.append(name)
        runner: Runner = self._local.runner
        if self._until.get(runner.number) == name:
            del self._until[runner.number]
        if name in self.layers and runner.number not in self._until:
            runner.pause(Arrival(name, given[0].detach(), runner.number))

    def _leave(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        if not hasattr(self._local, "runner"):
            return
        self._local.trail.path.pop()
        if name in self.layers:
            self._tell(name, output)

    def _tell(self, where: str | Place, tensor: Tensor) -> None:
        if self._local.runner.number in self._until:
            return
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
            if place in self.behind and runner.number not in self._until:
                runner.pause(Arrival(place, result, runner.number))


def laid_out(model: nn.Module, batches: Sequence[Inputs]) -> list[Inputs]:
    """Return the batches on the device of the network, on a processor with the channels of each pixel side by side.

    Convolutions of processors are faster so (a third for ResNet-20, 44 % for MobileNetV2), but some forwards expect
    the other order: then, or if anything else comes out of two images, it is left.

    Args:
        model: the network, run in evaluation mode.
        batches: what its forward takes.
    """
    device = device_of(model)
    there = [moved(batch, device) for batch in batches]
    if device.type != "cpu":
        return there
    pair = part(there[0], PAIR)
    try:
        made, again = (
            dict(enumerate(tensors_in(run(model, inputs))))
            for inputs in (pair, moved(pair, device, torch.channels_last))
        )
    except ModelError:  # if it is the images themselves, the passes over them say so
        return there
    return [moved(batch, device, torch.channels_last) for batch in there] if _alike(made, again) else there


def joined_if_stateful(model: nn.Module, found: Sequence[Site], batches: Sequence[Inputs]) -> Sequence[Inputs]:
    """Return the batches, all in one if the network keeps in itself what another pass would overwrite.

    One image is taken through the network alone, then beside another one, and beside two, for what is kept may be the
    number of images.

    Args:
        model: the network.
        found: where the passes are to stop.
        batches: what its forward takes.
    """
    if len(batches) < 2:
        return batches
    first, last = part(batches[0], ONE), part(batches[-1], ONE)
    pair = joined([first, last if joinable([first, last]) else first])
    try:
        alone, again, beside = (_outputs(model, found, some) for some in ([first], [first], [first, last]))
    except ModelError:  # if it is one of the images themselves, the passes over them say so
        return batches
    if not _alike(alone, again):  # it draws random numbers
        return batches
    if _alike(alone, beside) and _unmoved(model, found, alone, [first, pair]):
        return batches
    if not joinable(batches):
        raise DataError(
            "a network that keeps in itself what it was given is fitted on all images at once, and these have several "
            f"sizes: give images of one size with {said('calibrate=', '--calibrate')}, or leave the repair out"
        )
    return [joined(batches)]


def _unmoved(
    model: nn.Module, found: Sequence[Site], alone: Mapping[str | Place, Tensor], batches: Sequence[Inputs]
) -> bool:
    """Tell whether the first batch puts out what it does alone, where others of another length are beside it."""
    try:
        return _alike(alone, _outputs(model, found, batches))
    except BranchingError:  # the passes over all batches say so
        return True
    except ModelError:
        return False


def _outputs(model: nn.Module, found: Sequence[Site], batches: Sequence[Inputs]) -> dict[str | Place, Tensor]:
    """Return what layers and sums put out for the first batch."""
    made: dict[str | Place, Tensor] = {}

    def heard(where: str | Place, batch: int, output: Tensor) -> None:
        if batch == 0:
            made[where] = output.clone()

    with Passes(model, found, batches, heard).running() as advance:
        while advance():
            pass
    return made


def _alike(some: Mapping[Any, Tensor], others: Mapping[Any, Tensor]) -> bool:
    return all(
        where in others
        and made.shape == others[where].shape
        and torch.allclose(made, others[where], rtol=1e-3, atol=1e-5, equal_nan=True)
        for where, made in some.items()
    )


def parted(model: nn.Module) -> BranchingError:
    """Return what is said where passes that have to meet do not stop at the same place."""
    switch = said("repair=()", "--repair none", "repair = []")
    return BranchingError(
        f"the forward of {type(model).__name__} takes other ways for other images, so its layers cannot be fitted: "
        f"switch the fit off ({switch}), and name a method that needs none, such as magnitude"
    )


class _Mode(FunctionMode):
    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self._passes = passes

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        result = func(*args, **named)
        if call_name(func) in ADDITIONS:
            self._passes.added(result)
        return result
