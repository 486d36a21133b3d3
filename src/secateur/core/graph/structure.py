"""What lives and dies together in a network, what cannot go, and what everything costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.core.graph.computed_weights import Gain, Transformed
from secateur.core.graph.names import within
from secateur.core.graph.outputs import Output
from secateur.core.graph.units import Group, Role
from secateur.core.graph.written_sizes import Assignment, Axis, Rewrite
from secateur.core.operator_macs import Uncounted
from secateur.core.plan import Plan
from secateur.errors import PlanError

Groups = Literal["all", "inside blocks"]
INSIDE: Groups = "inside blocks"  # all but those that several layers put out whose outputs are added up


@dataclass(frozen=True)
class Pin:
    """Why positions of a tensor's dimension cannot be removed."""

    tensor: str
    dim: int
    count: int
    reason: str
    remedy: str


@dataclass(frozen=True, eq=False)
class Cost:
    """Multiply-accumulates of one call of a layer: ``scale`` times the product of what is left of the axes."""

    layer: str
    scale: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Statistic:
    """A call that averages, compares or normalises over channels: the ``call``-th of its kind in ``module``.

    Or one that multiplies with a weight that is computed, so that no parameter can be set to zero instead.

    Attributes:
        dim: dimension of its first argument that the statistic runs over; of the weight that the product sums over.
        units: graph-wide unit of each position along it, -1 = fixed.
    """

    module: str
    call: int
    dim: int
    units: Tensor
    kind: str = "statistic"


@checked
@dataclass(frozen=True, eq=False)
class Structure:
    """What reading a network finds: groups of units, and everything that depends on them.

    Attributes:
        groups: prunable groups, in the order of execution.
        pins: what cannot be removed, and why.
        tensors: for each parameter and buffer that was used, its shape and for each dimension the unit of each
            position (numbered over the whole graph, -1 = fixed), or None where nothing can be removed.
        parameters: which of the tensors are parameters (the others are buffers).
        costs: multiply-accumulates, call by call.
        convolutions: for grouped convolutions, module name -> unit of each input channel.
        rewrites: sizes written into code that surgery must adapt.
        statistics: calls over channels, which silencing must restrict to the kept ones.
        roles: for each tensor, the role of each of its dimensions.
        gates: rows for each unit of the weights of recurrent layers, which ``width`` counts once.
        gains: weights under weight norm, whose gains surgery adapts.
        transformed: layers and observers whose weights are computed in a way in which no channel can go.
        tied: parameters one of whose dimensions both makes and reads channels, as in a decoder with transposed weights.
        unreached: layers that the example inputs do not run, with their widths; what they could meet stays.
        untrained: why the network did not run in training mode; empty if it did, or does there what it does otherwise.
        aside: parameters and buffers that are used in training alone.
        streams: groups whose units several layers, or a layer and a padding, put out that are added up.
        left: groups that are left alone.
        patterns: the names of layers, or of modules around them (``fnmatch``), that were to be left alone.
        inside: whether streams are left alone as such.
        uncounted: operators that multiply and are not in the costs.
        assignments: numbers in attributes that surgery must set.
        indices: for buffers that hold numbers of channels, the unit of each channel that they may point to.
        tried: plans that the network was read again for, see ``Plan.tried``.
        free_outputs: patterns of outputs that may lose channels.
        outputs: what the network returns, tensor by tensor.
        trained_outputs: the same in training mode, if it was read there.
    """

    groups: tuple[Group, ...]
    pins: tuple[Pin, ...]
    tensors: Mapping[str, tuple[tuple[int, ...], tuple[Tensor | None, ...]]]
    parameters: frozenset[str]
    costs: tuple[Cost, ...]
    convolutions: Mapping[str, Tensor]
    rewrites: tuple[Rewrite, ...]
    statistics: tuple[Statistic, ...]
    roles: Mapping[str, tuple[Role, ...]]
    unreached: Mapping[str, int] = field(default_factory=dict[str, int])
    untrained: str = ""
    gates: Mapping[str, int] = field(default_factory=dict[str, int])
    aside: frozenset[str] = field(default=frozenset())
    streams: frozenset[str] = field(default=frozenset())
    gains: tuple[Gain, ...] = ()
    transformed: Mapping[str, Transformed] = field(default_factory=dict[str, Transformed])
    tied: frozenset[str] = field(default=frozenset())
    left: frozenset[str] = field(default=frozenset())
    inside: bool = False
    patterns: tuple[str, ...] = ()
    uncounted: tuple[Uncounted, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    indices: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    tried: tuple[Plan, ...] = ()
    free_outputs: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    trained_outputs: tuple[Output, ...] = ()

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """First graph-wide unit number of each group, those left alone included."""
        offsets: dict[str, int] = {}
        total = 0
        for group in self.groups:
            offsets[group.name] = total
            total += group.size
        return offsets

    def width(self, tensor: str, rows: int) -> int:
        """Return how many units so many rows of a weight make: of a recurrent layer hidden units, not gates."""
        return rows // self.gates.get(tensor, 1)

    @cached_property
    def units(self) -> int:
        """Number of units in the whole graph."""
        return sum(group.size for group in self.groups)

    @cached_property
    def free(self) -> tuple[Group, ...]:
        """The groups from which methods may remove units: all but those left alone."""
        return tuple(group for group in self.groups if group.name not in self.left)

    def group(self, name: str) -> Group:
        """Return the group of this name.

        Raises:
            PlanError: if there is none, as when a plan was made for another network.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise PlanError(f"the plan names group '{name}', which this network does not have; is it of another network?")

    def without(self, *patterns: str) -> Self:
        """Leave alone every group that a layer within what one of the patterns names makes, see ``within``."""
        names = {
            group.name
            for group in self.groups
            if any(within(layer, p) for p in patterns for layer in (group.name, *group.layers))
        }
        return replace(self, left=self.left | names, patterns=(*self.patterns, *patterns))

    def choose(self, groups: Groups) -> Self:
        """Leave all streams alone where the choice is ``"inside blocks"``.

        Then what is added up keeps its width: of a residual block only the layers inside it lose filters, as in Li et
        al. (2017).
        """
        return self if groups == "all" else replace(self, left=self.left | self.streams, inside=True)

    @property
    def spared(self) -> str:
        """Say in words which streams are left alone as such; empty where none were to be."""
        if not self.inside:
            return ""
        units = sum(self.group(name).size for name in self.streams)
        some = "1 group" if len(self.streams) == 1 else f"{len(self.streams)} groups"
        what = f"left alone: {some} of {units} units that several layers put out and add up"
        return f"{what if units else 'nothing to leave alone: no group is added up'} (groups = {INSIDE})"

    def leaves(self, layer: str) -> bool:
        """Say whether a layer was to be left alone by its own name, be it pinned or not."""
        return any(within(layer, pattern) for pattern in self.patterns)

    def kept(self, plan: Plan) -> Tensor:
        """Return a boolean vector over all units: True = stays.

        Raises:
            PlanError: if the plan names a group or unit that the network does not have.
        """
        keep = torch.ones(self.units, dtype=torch.bool)
        for name, units in plan.dropped().items():
            group = self.group(name)
            if units and units[-1] >= group.size:
                raise PlanError(
                    f"the plan drops unit {units[-1]} of group '{name}', which has {group.size} units; "
                    "is it of another network?"
                )
            keep[self.offsets[name] + torch.tensor(units, dtype=torch.long)] = False
        return keep
