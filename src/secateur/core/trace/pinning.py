"""What stays where code breaks in a thinner network and nothing that could be set mends it.

First the channels that the code had at hand at that step, then all that enters and leaves the module, then all inside
of it, and so on outwards. What the whole network has at hand is the end: then nothing can go, which is no error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.core.channel_labels import FIXED
from secateur.core.graph import Graph
from secateur.core.trace.calls_made import Step
from secateur.core.trace.components import Components
from secateur.core.trace.slots import Pinning
from secateur.core.trace.state import State
from secateur.core.trace.steps import above, calls

_STEP, _ARRIVING, _INSIDE = range(3)
_REMEDY = "take widths from the shapes of tensors, not from numbers"


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

    def near(self, module: str, step: int | None, components: Components) -> bool:
        """Let stay what the code of a module has at hand at a step, else what enters it; False if that stays."""
        if self._is_foreign(module) and step is not None:
            return self._close(self._alike(module), step, _STEP, components)
        return bool(module) and self._close(self._alike(module), 0, _ARRIVING, components)

    def around(self, module: str, components: Components) -> bool:
        """Let more stay, outwards from a module but short of the network; False if nothing is left."""
        return any(
            self._close([name], 0, what, components) for name in above(module)[:-1] for what in (_ARRIVING, _INSIDE)
        )

    def everything(self, components: Components) -> bool:
        """Let everything stay that the network has at hand; False if it does already."""
        return self._close([""], 0, _INSIDE, components)

    def groups(
        self, graph: Graph, names: Collection[str], reason: str, known: Sequence[Pinning], components: Components
    ) -> bool:
        """Let groups stay whose cut breaks what the reason says, or one that is known; False if there are none."""
        starts = {(slot.tensor, slot.dim): slot.start for slot in self.state.slots}
        members = [member for group in graph.groups if group.name in names for member in group.members]
        pins: list[Pinning] = []
        for member in members:
            atoms = starts[member.tensor, member.dim] + torch.nonzero(member.unit >= 0).flatten()
            units = components.prunable(atoms)
            why = next((pin for pin in known if bool(torch.isin(components.prunable(pin.atoms), units).any())), None)
            pins.append(Pinning(atoms, why.reason if why else reason, why.remedy if why else _REMEDY))
        if any(pin.reason == reason for pin in pins):  # then the others may stay for what is not known, too
            pins = [Pinning(pin.atoms, reason, _REMEDY) for pin in pins]
        self.pinnings += pins
        return bool(members)

    def is_alone(self, module: str) -> bool:
        """Tell whether no other module has the code of this one, or that around it."""
        kind = type(self.model.get_submodule(self._whose(module)))
        return sum(type(each) is kind for each in self.model.modules()) == 1

    def reason(self, module: str) -> str:
        """Say why that stays whose width the code of a module, or that around it, takes."""
        owner = self._whose(module)
        where = f"of '{owner}'" if owner else "of the network"
        return f"the code {where} takes a width from here in a way that was not understood"

    def _close(self, names: list[str], step: int, what: int, components: Components) -> bool:
        found = False
        for name in names:
            reason = self.reason(name)
            for layer in self._layers(name, step, what):
                atoms = layer[layer != FIXED]
                if bool((components.prunable(atoms) >= 0).any()):
                    self.pinnings.append(Pinning(torch.unique(atoms), reason, _REMEDY))
                    found = True
        return found

    def _layers(self, name: str, step: int, what: int) -> Iterator[Tensor]:
        steps: list[Step] = []
        if what == _STEP:
            done = self.state.did.get(name, [])
            if 0 < step <= len(done):
                yield from done[step - 1].made
            if step < len(done):
                yield from done[step].given
            return
        if what == _ARRIVING:
            for _, _, call in calls(self.state.did, name):
                yield from call.given
            return
        begin = f"{name}." if name else ""
        for other, done in self.state.did.items():
            if other == name or other.startswith(begin):
                steps += done
        for each in steps:
            yield from each.given
            yield from each.made

    def _is_foreign(self, name: str) -> bool:
        return not type(self.model.get_submodule(name)).__module__.startswith("torch.")

    def _whose(self, name: str) -> str:
        """Return the module whose code it is: that around a layer of torch, which takes no width from anywhere."""
        return next((each for each in above(name) if self._is_foreign(each)), "")

    def _alike(self, name: str) -> list[str]:
        """Return the modules with the same code."""
        if not self._is_foreign(name):
            return [name]
        kind = type(self.model.get_submodule(name))
        return [other for other, module in self.model.named_modules() if type(module) is kind]
