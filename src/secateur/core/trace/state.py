"""What is learned while the network runs: labels, unions, pins, costs."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.core import channel_labels as L
from secateur.core.channel_statistics import READING, kind_of
from secateur.core.graph import Role, unparametrized
from secateur.core.graph.computed_weights import Gain, Transformed
from secateur.core.module_calls import ModuleStack
from secateur.core.operator_macs import Uncounted
from secateur.core.surgery import Inputs
from secateur.core.trace.calls_made import Call, Dependence, Layers, Place, Site, Step
from secateur.core.trace.kinds import Kinds
from secateur.core.trace.returned import Outputs
from secateur.core.trace.slots import Pinning, Slot
from secateur.core.trace.transformed import reason_at, transformed

LINEAR = 1  # dimension that a linear map sums over
MANY = 4096  # labels from which looking for repeats pays


@dataclass
class State:
    """Everything collected during one forward, and while it is run again.

    Attributes:
        edges: labels that live and die together.
        sums: the same, where tensors are added up.
        padding: labels of channels that a padding has put beside others.
        unreached: layers that it did not run, with their widths.
        aside: parameters and buffers that are used in training alone.
        did: what the own code of each module did in the first run.
        training: what the network ran on in training, if it was read there.
        calling: whether a function of torch runs that Python code has called.
        handed: for each module the ids of the weights that it was given, alone or in modules.
        unheard: modules in whose runs something else made Python values of tensors.
        statistic: the running call if it takes a statistic: module, number and name.
        reading: the running call if it multiplies with a weight: module, number, and the dimension that it sums over.
        gains: weight norms by their directions.
        transformed: layers whose weights are computed in a way in which no channel can go.
        tied: parameters one of whose dimensions both makes and reads channels.
        gates: rows for each hidden unit of the weights of recurrent layers.
        indices: labels that buffers of numbers point to.
        one_sided: sizes that may be at another place, or nowhere, in training.
        outputs: what it returned.
        untrained: why it did not run in training mode; empty if it did, or was not asked to.
        samples: how many there are in the inputs of the run.
    """

    names: dict[int, tuple[str, Tensor]]
    parameters: frozenset[str]
    stack: ModuleStack
    kinds: Kinds
    shadows: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    weights: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    own: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    slots: list[Slot] = field(default_factory=list[Slot])
    starts: list[int] = field(default_factory=list[int])
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    roles: dict[str, list[Role]] = field(default_factory=dict[str, list[Role]])
    edges: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    sums: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    padding: list[Tensor] = field(default_factory=list[Tensor])
    pins: list[Pinning] = field(default_factory=list[Pinning])
    grids: list[Tensor] = field(default_factory=list[Tensor])
    merged: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    calls: list[Call] = field(default_factory=list[Call])
    uncounted: list[Uncounted] = field(default_factory=list[Uncounted])
    convolutions: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    arrivals: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    sites: list[Site] = field(default_factory=list[Site])
    did: dict[str, list[Step]] = field(default_factory=dict[str, list[Step]])
    dependences: list[Dependence] = field(default_factory=list[Dependence])
    statistic: tuple[str, int, str] | None = None
    reading: tuple[str, int, int] | None = None
    atoms: int = 1
    reshaping: bool = False
    paused: bool = False
    calling: bool = False
    handed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    unheard: set[str] = field(default_factory=set[str])
    summing: bool = False
    unreached: dict[str, int] = field(default_factory=dict[str, int])
    aside: frozenset[str] = frozenset()
    training: Inputs | None = None
    gains: dict[str, Gain] = field(default_factory=dict[str, Gain])
    transformed: dict[str, Transformed] = field(default_factory=dict[str, Transformed])
    tied: set[str] = field(default_factory=set[str])
    gates: dict[str, int] = field(default_factory=dict[str, int])
    indices: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    one_sided: set[Place] = field(default_factory=set[Place])
    outputs: Outputs = field(default_factory=Outputs)
    untrained: str = ""
    samples: int = 1

    @staticmethod
    def of(model: nn.Module) -> State:
        """Prepare for a model; parameters and buffers are labelled when first used."""
        parameters = dict(model.named_parameters())
        tensors = {**parameters, **dict(model.named_buffers())}
        return State(
            names={id(tensor): (name, tensor) for name, tensor in reversed(tensors.items())},
            parameters=frozenset(parameters),
            stack=ModuleStack(model),
            transformed=transformed(model),
            kinds=Kinds.of(model),
        )

    @property
    def module(self) -> str:
        """Name of the module whose forward is running."""
        return self.stack.current

    @property
    def linear(self) -> bool:
        """Whether a linear map runs, whatever operators the processor carries it out with."""
        return self.reading is not None and self.reading[2] == LINEAR

    def labels(self, tensor: Tensor) -> Layers:
        """Return the layers of a tensor; an unused parameter or buffer gets fresh atoms for each dimension."""
        found = self.shadows.get(tensor)
        if found is None:
            found = self._adopt(tensor) if id(tensor) in self.names else ()
            self.shadows[tensor] = found
        return found

    def set(self, tensor: Tensor, layers: Sequence[Tensor | None], weight: bool = False) -> None:
        """Attach layers to a tensor; those that do not vary are pinned, those that vary twice are grids."""
        kept: list[Tensor] = []
        for layer in layers:
            dims = () if layer is None else L.varying(layer)
            if layer is None:
                continue
            if not dims:  # one channel is all that is left of it here: without it nothing would remain
                self.pin(layer.reshape(-1), "a single channel that is used on its own")
                continue
            kept.append(layer)
            if len(dims) > 1:
                self.grids.append(layer)
        self.shadows[tensor] = tuple(kept)
        self.weights[tensor] = weight

    def is_weight(self, tensor: Tensor) -> bool:
        """Tell whether zeroing entries of parameters zeroes the same entries of this tensor."""
        return bool(self.weights.get(tensor, False)) or (
            id(tensor) in self.names and self.names[id(tensor)][1] is tensor
        )

    def is_own(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is the network's own, computed of nothing that runs through it."""
        return bool(self.own.get(tensor, id(tensor) in self.names))

    def fresh(self, count: int) -> Tensor:
        """Return ``count`` new atoms that belong to no parameter."""
        self.atoms += count
        return torch.arange(self.atoms - count, self.atoms)

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Labels at the same place live and die together; what meets a fixed position is pinned."""
        a, b = torch.broadcast_tensors(a, b)
        fixed = (a == L.FIXED) | (b == L.FIXED)
        if bool(fixed.any()):
            self.pin(torch.where(a == L.FIXED, b, a)[fixed], "joined with channels that cannot be removed")
        differ = (a != b) & ~fixed
        if bool(differ.any()):
            a, b = a[differ], b[differ]
            if len(a) > MANY:  # a label that fills a map meets another at every place of it
                pairs = torch.unique(a * self.atoms + b)
                a, b = pairs // self.atoms, pairs % self.atoms
            (self.sums if self.summing else self.edges).append((a, b))

    @contextmanager
    def adding(self) -> Generator[None]:
        """Labels that meet inside the block are those of tensors that are added up."""
        self.summing = True
        try:
            yield
        finally:
            self.summing = False

    def merge(self, layer: Tensor, dims: Sequence[int]) -> Tensor:
        """Unite the labels along ``dims`` and return the layer without them (size 1 there)."""
        for d in dims:
            if layer.shape[d] > 1:
                first = layer.narrow(d, 0, 1)
                done: tuple[int, ...] = self.merged.get(layer) or ()
                if d not in done:  # a map of scores is picked from once for every class
                    self.unite(layer, first)
                    self.merged[layer] = (*done, d)
                layer = first
        return layer

    def pin(self, atoms: Tensor, reason: str, remedy: str = "", output: str | None = None) -> None:
        """Forbid the removal of these labels."""
        atoms = atoms[atoms != L.FIXED]
        if atoms.numel() > MANY:
            atoms = torch.unique(atoms)
        if atoms.numel():
            place = unparametrized(self.module)
            where = f" in '{place}'" if place else ""
            reason, remedy = reason_at(self.transformed, place) or (reason + where, remedy)
            self.pins.append(Pinning(atoms, reason, remedy, output))

    def with_pins(self, pins: Sequence[Pinning]) -> State:
        """Return the same state with further pins, whose reasons come first."""
        return replace(self, pins=[*pins, *self.pins])

    def depend(self, atoms: Tensor, dim: int, reason: str) -> None:
        """The running call takes a statistic over these labels; they may go only if that call can be found again."""
        if self.statistic is None or self.stack.entered.get(self.statistic[0], 0) > 1:
            self.pin(atoms, reason)
        else:
            self.dependences.append(Dependence(*self.statistic[:2], dim, atoms, kind_of(self.statistic[2])))

    def silence_at_call(self, atoms: Tensor, reason: str) -> None:
        """The running call reads these labels with a weight that is computed: they go if the call can be found again.

        Silenced, what it reads them with is set to zero there.
        """
        if self.reading is None:
            self.pin(atoms, reason)
        else:
            self.dependences.append(Dependence(*self.reading, atoms, READING))

    def makes(self, atoms: Tensor) -> bool:
        """Tell whether a dimension of a parameter that these atoms come from makes channels."""
        return any(self.roles[slot.tensor][slot.dim] == "makes" for slot in self._slots_of(atoms))

    def vector(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Return the labels along one dimension, ``(size,)``, uniting whatever varies beside it."""
        found: Tensor | None = None
        for layer in self.labels(tensor):
            if layer.shape[dim] == 1:
                continue
            row = self.merge(layer, [d for d in range(layer.dim()) if d != dim]).reshape(-1)
            if found is None:
                found = row
            else:
                self.unite(found, row)
        return found

    def mark(self, atoms: Tensor | None, role: Role, gates: int = 1) -> None:
        """Give the parameter dimensions that these atoms come from a role, with so many rows for each unit."""
        if atoms is None:
            return
        for slot in self._slots_of(atoms):
            if {self.roles[slot.tensor][slot.dim], role} == {"makes", "reads"}:
                # a weight that is used from both sides, see ``mix.contract``: zeros that silence what it reads are in
                # what it makes of a removed unit, and the other way round they are set where it is used
                self.tied.add(slot.tensor)
                continue
            self.roles[slot.tensor][slot.dim] = role
            if gates > 1:
                self.gates[slot.tensor] = gates

    def buffer(self, tensor: Tensor) -> str:
        """Return the name of the buffer of one dimension that a tensor is; empty if it is none."""
        slots = self._slots_of(layers[0].reshape(-1)) if len(layers := self.labels(tensor)) == 1 else []
        if len(slots) != 1 or slots[0].tensor in self.parameters:
            return ""
        held = next(own for name, own in self.names.values() if name == slots[0].tensor)
        return slots[0].tensor if held.dtype == tensor.dtype and torch.equal(held, tensor) else ""

    def _slots_of(self, atoms: Tensor) -> list[Slot]:
        """Return the parameter dimensions that atoms come from."""
        atoms = atoms[atoms != L.FIXED]
        if not len(atoms):
            return []
        first = bisect(self.starts, int(atoms.min())) - 1
        near = self.slots[max(0, first) : bisect(self.starts, int(atoms.max()))]
        # between the atoms of two slots lie those of paddings and of other tensors
        return [s for s in near if bool(s.has(atoms).any())]

    def _adopt(self, tensor: Tensor) -> Layers:
        name, original = self.names[id(tensor)]
        if original is not tensor:
            return ()
        shape = tuple(tensor.shape)
        self.shapes[name] = shape
        self.roles[name] = ["scales"] * len(shape)
        layers: list[Tensor] = []
        # of the weight of a layer the trailing ones are kernel positions, of a lone parameter they may be channels
        alone = unparametrized(name.rpartition(".")[0]) not in self.kinds.convolutions
        for d in range(len(shape) if alone or len(shape) <= 3 else 2):
            if shape[d] > 1:
                start = self.atoms
                atoms = self.fresh(shape[d])
                self.slots.append(Slot(name, d, start, shape[d]))
                self.starts.append(start)
                layers.append(atoms.reshape([-1 if i == d else 1 for i in range(len(shape))]))
        return tuple(layers)
