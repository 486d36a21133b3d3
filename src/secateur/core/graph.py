"""What lives and dies together: the result of reading a network."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.computed import Gain, Transformed
from secateur.core.explain import Explanation, explain
from secateur.core.explain import layer_of as layer_of
from secateur.core.plan import Plan
from secateur.core.work import Uncounted
from secateur.core.written_sizes import Assignment, Axis, Rewrite
from secateur.errors import PlanError

if TYPE_CHECKING:
    from secateur.core.outputs import Output

Role = Literal["makes", "scales", "reads"]
Groups = Literal["all", "inside blocks"]
INSIDE: Groups = "inside blocks"  # all but those that several layers put out whose outputs are added up


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter or buffer, and which unit each of its positions belongs to.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: dimension.
        role: ``makes`` (rows of a convolution), ``reads`` (columns of the next) or ``scales`` (batch norm, bias).
        unit: ``(size of the dimension,)`` int64; number of the unit in its group, -1 = not of this group.
        gain: says how the weight is computed from this tensor, if weight norm does so.
    """

    tensor: str
    dim: int
    role: Role
    unit: Tensor
    gain: Gain | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Units that touch the same tensors; ``name`` is the layer that makes them first."""

    name: str
    size: int
    members: tuple[Member, ...]

    def rows(self, model: nn.Module, role: Role) -> Iterator[Tensor]:
        """Yield for every member with this role a ``(size, k)`` tensor: the weights of each unit, zero-padded.

        Rows are read from ``model`` without gradient, under weight norm from the weight itself; ``k``
        is the number of weights of the largest unit there.
        """
        for member in self.members:
            if member.role == role:
                yield unit_rows(_weight_of(model, member), member, self.size)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that make the units."""
        return tuple(dict.fromkeys(layer_of(m.tensor) for m in self.members if m.role == "makes"))

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """How many positions one unit has in each dimension that makes or reads the units; 1 where units differ."""
        found: list[int] = []
        for member in self.members:
            if member.role in ("makes", "reads"):
                counts = torch.bincount(member.unit[member.unit >= 0], minlength=self.size)
                found.append(int(counts[0]) if bool((counts == counts[0]).all()) and counts[0] else 1)
        return tuple(found)


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
class Graph:
    """A network read into groups of units.

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

    def without(self, *patterns: str) -> Graph:
        """Leave alone every group that a layer within what one of the patterns names makes, see ``within``."""
        names = {
            group.name
            for group in self.groups
            if any(within(layer, p) for p in patterns for layer in (group.name, *group.layers))
        }
        return replace(self, left=self.left | names, patterns=(*self.patterns, *patterns))

    def choose(self, groups: Groups) -> Graph:
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

    def explain(self) -> Explanation:
        """List every layer as prunable (with whom) or pinned (why, and what could be done)."""
        return explain(self)


def _weight_of(model: nn.Module, member: Member) -> Tensor:
    tensor, gain = tensor_of(model, member.tensor), member.gain
    if gain is None:
        return tensor
    with torch.no_grad():
        return torch._weight_norm(tensor, tensor_of(model, gain.gain), gain.dim)  # pyright: ignore


def within(layer: str, pattern: str) -> bool:
    """Say whether a layer, or a module that it is part of, matches a pattern (``fnmatch``)."""
    parts = layer.split(".")
    return any(fnmatch.fnmatch(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by name.

    Raises:
        PlanError: if the model has none of that name.
    """
    owner, _, leaf = name.rpartition(".")
    try:
        return getattr(model.get_submodule(owner), leaf)
    except AttributeError:
        raise PlanError(f"the model has no tensor '{name}'; was it traced from another network?") from None


def positions(member: Member, size: int) -> Tensor:
    """Return the positions of units along the dimension of a member, ``(size, slots)``, -1 where there are fewer."""
    counts = torch.bincount(member.unit[member.unit >= 0], minlength=size)
    order = torch.argsort(member.unit, stable=True)
    order = order[member.unit[order] >= 0]
    unit = member.unit[order]
    slot = torch.arange(len(order)) - (counts.cumsum(0) - counts)[unit]
    out = torch.full((size, int(counts.max()) if len(counts) else 0), -1)
    out[unit, slot] = order
    return out


def unit_rows(tensor: Tensor, member: Member, size: int) -> Tensor:
    """Return the elements of ``tensor`` unit by unit, ``(size, k)``; shorter units are padded with zeros."""
    rows = tensor.detach().movedim(member.dim, 0).reshape(tensor.shape[member.dim], -1)
    if torch.equal(member.unit, torch.arange(size)):
        return rows
    table = positions(member, size).to(rows.device)
    out = rows[table]
    out[table < 0] = 0
    return out.flatten(1)


def staying(units: Tensor, keep: Tensor) -> Tensor:
    """Return which positions stay under ``keep``: those of kept units, and those that belong to none (-1)."""
    stays = units < 0
    stays[~stays] = keep[units[~stays]]
    return stays
