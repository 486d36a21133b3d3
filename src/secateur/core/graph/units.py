"""Units, which live or die as a whole: where in the tensors of a network each of them stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.core.graph.computed_weights import Gain
from secateur.core.graph.names import maker_of
from secateur.errors import PlanError

Role = Literal["makes", "scales", "reads"]


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
        """Names of the layers that make the units, or of parameters of the network itself."""
        return tuple(dict.fromkeys(maker_of(m.tensor) for m in self.members if m.role == "makes"))

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """How many positions one unit has in each dimension that makes or reads the units; 1 where units differ."""
        found: list[int] = []
        for member in self.members:
            if member.role in ("makes", "reads"):
                counts = torch.bincount(member.unit[member.unit >= 0], minlength=self.size)
                found.append(int(counts[0]) if bool((counts == counts[0]).all()) and counts[0] else 1)
        return tuple(found)


def _weight_of(model: nn.Module, member: Member) -> Tensor:
    tensor, gain = tensor_of(model, member.tensor), member.gain
    if gain is None:
        return tensor
    with torch.no_grad():
        return torch._weight_norm(tensor, tensor_of(model, gain.gain), gain.dim)  # pyright: ignore


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by name.

    Raises:
        PlanError: if the model has none of that name.
    """
    owner, _, leaf = name.rpartition(".")
    module: nn.Module | None = model
    for part in owner.split(".") if owner else ():  # faster than get_submodule, which finds the rest
        parts: Any = {} if module is None else module._modules  # pyright: ignore[reportPrivateUsage]
        module = parts[part] if part in parts else None  # noqa: SIM401  (those of scripted modules have no get)
    try:
        return getattr(model.get_submodule(owner) if module is None else module, leaf)
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
    fixed = units < 0
    return fixed | keep[units] if keep.numel() else fixed  # -1 is a place too, the last
