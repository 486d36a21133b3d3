"""What stays where code breaks in a thinner network and nothing that could be set mends it.

First the channels that the code had at hand at that step, then all that enters and leaves the module, then all inside
of it, and so on outwards. What the whole network has at hand is the end: then nothing can go, which is no error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.core.labels import FIXED
from secateur.core.trace.components import Components
from secateur.core.trace.state import Pinning, State, Step
from secateur.core.trace.steps import Progress, above, calls

_STEP, _ARRIVING, _INSIDE = range(3)
_REMEDY = "take widths from the shapes of tensors, not from numbers"


@dataclass(frozen=True)
class Break:
    """Where a thinner network broke, or computed something else: the module, and the step where that is known."""

    module: str
    step: int | None = None


@dataclass
class Closing:
    """Collects what stays.

    Attributes:
        model: the network.
        state: what was learned of it.
        pinnings: what stays so far.
    """

    model: nn.Module
    state: State
    pinnings: list[Pinning] = field(default_factory=list[Pinning])

    def near(self, place: Break, components: Components) -> bool:
        """Let stay what the code has at hand at the break; False if that stays already."""
        if self._is_foreign(place.module) and place.step is not None:
            return self._close([*self._alike(place.module)], place.step, _STEP, components)
        called = [place.module, *(n for n in self._alike(place.module) if n != place.module)]
        return bool(place.module) and self._close(called, 0, _ARRIVING, components)

    def around(self, place: Break, components: Components) -> bool:
        """Let more stay, outwards from the break; False if nothing is left."""
        for name in above(place.module):
            if self._close([name], 0, _ARRIVING, components) or self._close([name], 0, _INSIDE, components):
                return True
        return False

    def _close(self, names: list[str], step: int, what: int, components: Components) -> bool:
        found = False
        for name in names:
            where = f"of '{name}'" if name else "of the network"
            reason = f"the code {where} takes a width from here in a way that was not understood"
            for layer in self._layers(name, step, what):
                atoms = layer[layer != FIXED]
                if bool((components.prunable(atoms) >= 0).any()):
                    self.pinnings.append(Pinning(torch.unique(atoms), reason, _REMEDY))
                    found = True
        return found

    def _layers(self, name: str, step: int, what: int) -> Iterator[Tensor]:
        steps: list[Step] = []
        if what == _STEP:
            done = self.state.steps.get(name, [])
            if 0 < step <= len(done):
                yield from done[step - 1].made
            if step < len(done):
                yield from done[step].given
            return
        if what == _ARRIVING:
            for _, _, call in calls(self.state.steps, name):
                yield from call.given
            return
        begin = f"{name}." if name else ""
        for other, done in self.state.steps.items():
            if other == name or other.startswith(begin):
                steps += done
        for each in steps:
            yield from each.given
            yield from each.made

    def _is_foreign(self, name: str) -> bool:
        return not type(self.model.get_submodule(name)).__module__.startswith("torch.")

    def _alike(self, name: str) -> list[str]:
        """Return the modules with the same code."""
        if not self._is_foreign(name):
            return [name]
        kind = type(self.model.get_submodule(name))
        return [other for other, module in self.model.named_modules() if type(module) is kind]


def place_of(reached: Progress) -> Break:
    """Return where a network broke that did not run through."""
    module = reached.module or ""
    return Break(module, reached.done.get(module, 0))
