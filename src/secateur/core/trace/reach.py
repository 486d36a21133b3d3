"""What the example never runs: the channels that such a layer could meet.

A layer behind a branch that the example does not take leaves no trace. What it would read or give is among what the
code that could call it has at hand: its arguments, what its own operators make, what the modules that it calls return.
Of these, everything stays whose number of channels fits a size of the layer, as it is, flattened, doubled, halved or
beside another; what the layer reads may also be several times as many, an equal part of them, or some of them beside
two others. Everything at all stays where nothing is as wide as what the layer reads and the code could cut it out:
where it names that number, or asks the layer for it.

Where the code decides by the value of a tensor, the network also runs with each decision turned: layers that all ran
may be joined otherwise there. And where it looks at whether it trains, a run in training mode is read as well: what
runs there alone, such as an auxiliary classifier, is then known to surgery, and what it reads can go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from secateur.core import channel_labels as L
from secateur.core.graph.explanation import REACH_IT
from secateur.core.interrupts import deferred
from secateur.core.module_calls import Operators
from secateur.core.surgery import Inputs, tensors_in
from secateur.core.surgery.training_mode_check import training_batches
from secateur.core.surgery.untouched import untouched
from secateur.core.trace.calls_made import Layers
from secateur.core.trace.decisions import Decisions
from secateur.core.trace.further_runs import beside, training_beside
from secateur.core.trace.slots import Pinning
from secateur.core.trace.state import State
from secateur.core.trace.unreached import Unreached, unreached
from secateur.errors import ModelError, first_line

Again = Callable[[bool, AbstractContextManager[object], Inputs], object]

_MOST = 16  # runs in which decisions are turned
_MADE = (1, 2, 3)  # channels that code makes for itself, such as a mask or coordinates
_DECIDES = "scripted code of {} decides by the value of a tensor, so that its other ways cannot be tried"
_OTHERWISE = "used otherwise in training than in evaluation"
_PIXELS = (4, 9, 16)  # channels that become one when they are shuffled to pixels


def complete(
    model: nn.Module, state: State, decisions: Decisions, inputs: Inputs, again: Again, *, trains: bool
) -> None:
    """Learn from other paths, and pin what the layers that the example did not run could meet.

    Args:
        model: the network, whose only run so far was in evaluation mode.
        state: what was learned there.
        decisions: that its code took there on values of tensors.
        inputs: the example.
        again: runs the network once more, in training mode if told so, and learns from it; inside a context, on inputs.
        trains: whether its code may do something else in training.
    """
    first, read = frozenset(state.shapes), _used(state)
    for turned in decisions.turns(_MOST):
        # many such paths end in an error that the code raises
        with untouched(model), beside(state, "used otherwise where the code decides otherwise"), suppress(ModelError):
            again(False, turned, inputs)
    if not trains and not unreached(model, state, read):
        return
    also = _read_in_training(model, state, inputs, again)
    found = [_with_receivers(model, state, entry) for entry in unreached(model, state, read | also)]
    state.aside = frozenset(state.shapes) - first
    state.unreached = {layer: width for entry in found for layer, width in entry.layers.items()}
    if found:
        at_hand = _AtHand(state, frozenset(caller for entry in found for caller in entry.callers))
        with untouched(model), beside(state, "used otherwise when the network runs again"):
            again(False, at_hand.listening(), inputs)
        idle = _labels(state, {name for entry in found for name in _within(state, entry)})
        loose = frozenset(size for entry in found if entry.alone for size in entry.sizes)
        for entry in found:
            reason = f"'{entry.name}' is not run by the example inputs, and could read or give them"
            tied = _labels(state, {*entry.tied, *_within(state, entry)})
            for atoms in (tied, *at_hand.met_by(entry, idle, loose)):
                state.pins.append(Pinning(atoms[atoms != L.FIXED], reason, REACH_IT))


def pin_unheard(model: nn.Module, state: State, inputs: Inputs, again: Again) -> None:
    """Pin what scripted code has at hand that decides by the value of a tensor: no decision of its can be turned.

    Args:
        model: the network.
        state: with the modules in whose runs values were taken beside Python.
        inputs: the example.
        again: see ``complete``.
    """
    if not state.unheard:
        return
    names = frozenset(state.unheard)
    at_hand = _AtHand(state, names)
    with untouched(model), beside(state, "used otherwise when the network runs again"):
        again(False, at_hand.listening(), inputs)
    where = f"'{min(names)}'" if min(names) else "the network"
    for atoms in at_hand.everything():
        state.pins.append(
            Pinning(atoms[atoms != L.FIXED], _DECIDES.format(where), "decide in code that is not scripted")
        )


def _with_receivers(model: nn.Module, state: State, entry: Unreached) -> Unreached:
    """Return what did not run with those modules among its callers that were given it, or what holds it."""
    names = model.named_parameters(remove_duplicate=False)
    own = {id(weight) for name, weight in names if f"{name}.".startswith(f"{entry.name}.")}
    receivers = {name for name, given in state.handed.items() if given & own}
    return replace(entry, callers=entry.callers | receivers)


def _read_in_training(model: nn.Module, state: State, inputs: Inputs, again: Again) -> frozenset[str]:
    """Run in training mode; return what is read for the first time there, nothing if the network does not run so."""
    before = frozenset(state.shapes)
    for batch in training_batches(inputs):
        try:
            with (
                untouched(model, weights=True),
                training_beside(model, state, _OTHERWISE),
            ):
                again(True, nullcontext(), batch)
        except ModelError as error:  # the inputs are too small for an auxiliary classifier, or it wants targets
            state.untrained = first_line(error.__cause__ or error)
            continue
        state.training, state.untrained = batch, ""
        return _used(state) - before
    return frozenset()


def _within(state: State, entry: Unreached) -> set[str]:
    """Return the parameters of what did not run that code has touched all the same, as one that adds them up."""
    return {name for name in state.shapes if f"{name}.".startswith(f"{entry.name}.")}


def _labels(state: State, names: set[str]) -> Tensor:
    """Return all labels of some parameters."""
    nothing = torch.zeros(0, dtype=torch.long)
    return torch.cat([nothing, *(torch.arange(s.start, s.start + s.size) for s in state.slots if s.tensor in names)])


def _used(state: State) -> frozenset[str]:
    """Return the parameters and buffers that have been read, but for those that only look so.

    The weights of a layer that does not run, and parameters of no layer, are read where all are added up, times zero,
    for the sake of a training in several processes: what their channels belong to cannot be seen there.
    """
    nothing = torch.zeros(0, dtype=torch.long)
    one, other = map(torch.cat, zip((nothing, nothing), *state.edges, *state.sums, strict=True))
    pinned = torch.cat([nothing, *(pin.atoms for pin in state.pins if not pin.reason.startswith(_OTHERWISE))])
    idle, met = set[str](), set[str]()
    for slot in state.slots:
        ran = slot.tensor.rpartition(".")[0] in state.stack.entered
        if ran and (slot.tensor not in state.parameters or set(state.roles[slot.tensor]) != {"scales"}):
            continue  # what a layer that runs has, and numbers
        idle.add(slot.tensor)
        if bool((slot.has(one) != slot.has(other)).any()) or (ran and bool(slot.has(pinned).any())):
            met.add(slot.tensor)
    return frozenset(state.shapes) - (idle - met)


class _AtHand:
    """The channels that the code of some modules has at hand, with the sizes in which it has them."""

    def __init__(self, state: State, callers: frozenset[str]) -> None:
        self._state = state
        self._heard: dict[str, list[tuple[torch.Size, Layers]]] = {name: [] for name in callers}

    @contextmanager
    def listening(self) -> Generator[None]:
        """Collect while the network runs what enters and leaves the modules, and what their operators touch."""
        names = self._state.stack.named()

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._hear(names.get(id(module), ""), (args, kwargs, output))
            self._hear(self._state.module, output)  # whose code goes on

        def ran(func: Any, *touched: Any) -> None:
            if not (isinstance(touched[-1], Tensor) and not touched[-1].dim()):  # nothing else meets what is added up
                self._hear(self._state.module, touched)

        hook = register_module_forward_hook(leave, with_kwargs=True)
        try:
            with Operators(ran):  # after labels were set
                yield
        finally:
            with deferred:
                hook.remove()

    def _hear(self, caller: str, value: Any) -> None:
        if caller in self._heard:  # nothing is computed here, or it would be taken for the network's own work
            self._heard[caller] += [(tensor.shape, self._state.labels(tensor)) for tensor in tensors_in(value)]

    def met_by(self, entry: Unreached, idle: Tensor, loose: frozenset[int]) -> list[Tensor]:
        """Return the labels that a layer which was not run could meet.

        Args:
            entry: the layer.
            idle: labels of layers that were not run, whose weights are no channels that any layer could meet.
            loose: sizes of parameters of no layer that were not run either, and can lie beside channels.
        """
        met: dict[bytes, Tensor] = {}
        for caller in entry.callers if entry.sizes else ():
            heard = [(shape, layers) for shape, layers in self._heard[caller] if not _among(layers, idle)]
            sizes = {size for shape, _ in heard for size in (*shape[1:], _whole(shape))}
            known = not entry.reads or entry.reads in sizes or not entry.cut
            beside = _sums(loose.union(shape[d] for shape, _ in heard for d in _channels(shape)))

            @cache
            def fits(width: int, entry: Unreached = entry, sizes: set[int] = sizes, others: set[int] = beside) -> bool:
                return _fits(width, entry, sizes) or _composes(width, entry, others)

            for shape, layers in heard:
                for layer in layers:
                    own = {layer.shape[d] for d in L.varying(layer)}
                    if not known or any(map(fits, own | {_whole(shape)})) or any(_parts(it, entry) for it in own):
                        atoms = torch.unique(layer)
                        met[atoms.numpy().tobytes()] = atoms
        return list(met.values())

    def everything(self) -> list[Tensor]:
        """Return all labels that were heard."""
        return [torch.unique(layer) for heard in self._heard.values() for _, layers in heard for layer in layers]


def _among(layers: Layers, idle: Tensor) -> bool:
    """Whether all labels of a tensor that has some are among these."""
    return len(layers) > 0 < len(idle) and all(bool(torch.isin(layer, idle).all()) for layer in layers)


def _whole(shape: torch.Size) -> int:
    """Return how long an input becomes when it is flattened."""
    return math.prod(shape[1:])


def _channels(shape: torch.Size) -> tuple[int, ...]:
    """Return the dimensions that may be the channels; of tokens these are the last."""
    return () if len(shape) < 2 else (1, -1) if len(shape) == 3 else (1,)


def _sums(channels: Iterable[int]) -> set[int]:
    """Return what can lie beside the channels that a layer reads: nothing, some that code makes, one other or two."""
    known = set(channels)
    return {0, *_MADE, *known, *(one + two for one in known for two in known)}


def _fits(width: int, entry: Unreached, others: set[int]) -> bool:
    """Whether so many channels can be what a layer reads or gives, alone or, but for a parameter, beside others."""
    if width in entry.sizes or any(width * pixels == entry.makes for pixels in _PIXELS):
        return width > 1
    return not entry.alone and any(
        width == 2 * size or 2 * width == size or size - width in others or width - size in others
        for size in entry.sizes
    )


def _parts(width: int, entry: Unreached) -> bool:
    """Whether a layer can read an equal part of so many channels."""
    return any(width % reads == 0 for reads in entry.takes if reads > 1)


def _composes(width: int, entry: Unreached, beside: set[int]) -> bool:
    """Whether a layer can read so many channels several times over, or with others beside them."""
    return width > 1 and any(
        (entry.more and width < reads)
        or any(reads - other >= width and (reads - other) % width == 0 for other in beside)
        for reads in entry.takes
        if reads > 1
    )
