"""Class scores among several outputs: known by where they stand, or by what makes and reads them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from secateur.core.graph.outputs import FREE_IT, refuse_scores
from secateur.core.trace.clock import Clock
from secateur.core.trace.components import Components
from secateur.core.trace.returned import Returned
from secateur.core.trace.state import State


def keeping_scores(state: State, clock: Clock) -> tuple[State, Components]:
    """Put what was learned together, and refuse that the last output goes which may be the class scores.

    Such is what stands where class scores stand, and any output of shape (batch, n) whose n some layer makes and none
    reads. Of several of these all but one may be named as free; of the last one no reason says that it could be.

    Raises:
        SettingError: if free outputs leave none of them.
    """
    components = Components(state, clock)
    returned = state.outputs.evaluated
    unread = _Unread(state, components)
    scores = [each for each in returned if each.scores or unread(each)] if len(returned) > 1 else []
    kept = [each for each in scores if not each.free]
    if scores and not kept:
        refuse_scores(scores[0].path, scores[0].shape, known=False)
    last = kept[0].path if len(kept) == 1 else None
    pins = [
        replace(each, remedy="") if each.output is not None and (each.output, each.remedy) == (last, FREE_IT) else each
        for each in state.pins
    ]
    if all(a is b for a, b in zip(pins, state.pins, strict=True)):
        return state, components
    state = replace(state, pins=pins)
    return state, Components(state, clock)


class _Unread:
    """Tells which outputs of shape (batch, n) are the end of the network."""

    def __init__(self, state: State, components: Components) -> None:
        self._of = components.of
        self._made, self._read = (self._with(state, role) for role in ("makes", "reads"))

    def _with(self, state: State, role: str) -> Tensor:
        atoms = [
            torch.arange(slot.start, slot.start + slot.size)
            for slot in state.slots
            if slot.tensor in state.parameters and state.roles[slot.tensor][slot.dim] == role
        ]
        return self._of[torch.cat([torch.zeros(0, dtype=torch.long), *atoms])]

    def __call__(self, each: Returned) -> bool:
        if len(each.shape) != 2 or not any(layer.shape[1] > 1 for layer in each.layers):
            return False
        own = self._of[each.atoms]
        return bool(torch.isin(own, self._made).any()) and not bool(torch.isin(own, self._read).any())
