"""What the units of a group send, compared by weights alone: the second moments that stand in for those of images.

For inputs of equal variance and without correlation, and a rectifier behind the layer, two units whose filters (batch
norm folded in, the bias one more weight) have the norms ``n`` and ``m`` and the angle ``t`` between them send numbers
whose product has the mean ``n m (sin t + (pi - t) cos t) / (2 pi)`` (Cho and Saul, *Kernel Methods for Deep Learning*,
2009). Behind no rectifier it is ``n m cos t``. A copy of a unit, or a multiple of it, is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group, Member, layer_of, tensor_of, unit_rows
from secateur.core.layer_families import CONVOLUTIONS
from secateur.reconstruction.sites import norm_scale

Behaviour = Literal["linear", "rectified", "other"]

SAME = 1e-6
"""By how much the cosine of copies may fall short of 1, for rounding."""

_NOTHING = 0.01
"""Variance, in terms of what a batch norm adds to it, up to which a unit counts as constant."""
_FAR = 4.0
"""Standard deviations below zero from which a rectifier lets nothing of a unit pass."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A layer of a group with the batch norm that alone reads it.

    Attributes:
        layer: its name.
        weight: which of its rows make which unit.
        norm: name of the batch norm; empty if there is none.
    """

    layer: str
    weight: Member
    norm: str = ""

    def tensors(self) -> tuple[str, ...]:
        """Return the names of all its parameters and buffers."""
        norm = [f"{self.norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var") if self.norm]
        return (f"{self.layer}.weight", f"{self.layer}.bias", *norm)


@dataclass(frozen=True, eq=False)
class Course:
    """How the units of a group come about.

    Attributes:
        makers: the layers that make them; what they put out is added.
        later: layers that read each unit by itself and go on with it, such as depthwise convolutions.
        plain: whether that is all, so that units can be compared by it: one later layer behind one maker and before
            one reader at the most, and no other parameters.
    """

    makers: tuple[Stage, ...]
    later: tuple[Stage, ...]
    plain: bool


def course(model: nn.Module, graph: Graph, group: Group, norms: Mapping[str, str]) -> Course:
    """Sort the parameters of a group.

    Args:
        model: the network.
        graph: its graph.
        group: of the graph.
        norms: the batch norm that alone reads a layer, for each layer that has one, see
            ``secateur.core.batchnorm_folding``.
    """
    makers, later, known = list[Stage](), list[Stage](), set[str]()
    for member in group.members:
        layer = layer_of(member.tensor)
        module = model.get_submodule(layer)
        if member.role == "reads" or member.tensor != f"{layer}.weight" or not _is_layer(module):
            continue
        stage = Stage(layer, member, norms.get(layer, ""))
        alone = layer in graph.convolutions and "reads" not in graph.roles[member.tensor]
        (later if alone or member.role == "scales" else makers).append(stage)
        known.update(stage.tensors())
    reads = sum(member.role == "reads" for member in group.members)
    short = len(later) <= 1 and (not later or (len(makers) == 1 and reads <= 1))
    rest = any(member.role != "reads" and member.tensor not in known for member in group.members)
    fits = all(_fits(model, stage) for stage in (*makers, *later))
    return Course(tuple(makers), tuple(later), bool(makers) and short and fits and not rest)


def _is_layer(module: nn.Module) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return isinstance(module, (*CONVOLUTIONS, nn.Linear)) and "weight" in own


def _fits(model: nn.Module, stage: Stage) -> bool:
    """Tell whether the bias and norm of a layer have one number for each row, which those of some transposed have not.

    A norm that scales an output by nothing is taken too: a unit of nothing is like any other times nothing.
    """
    rows = len(stage.weight.unit)
    layer: Any = model.get_submodule(stage.layer)
    norm: Any = model.get_submodule(stage.norm) if stage.norm else None
    sizes = [len(it) for it in (layer.bias, norm and norm.running_mean) if it is not None]
    return all(size == rows for size in sizes)


def folded(model: nn.Module, stage: Stage, size: int) -> tuple[Tensor, Tensor]:
    """Return the weights and biases of each unit with the batch norm folded in, ``(size, k)`` float64 on the CPU."""
    layer: Any = model.get_submodule(stage.layer)
    weight = layer.weight.detach().double().cpu()
    rows = len(stage.weight.unit)
    bias = torch.zeros(rows, dtype=torch.float64) if layer.bias is None else layer.bias.detach().double().cpu()
    if stage.norm:
        norm: Any = model.get_submodule(stage.norm)
        scale = norm_scale(model, stage.norm, rows)
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach().double().cpu()
        bias = shift + (bias - norm.running_mean.detach().double().cpu()) * scale
        scale = torch.where(_still(norm), 0.0, scale)  # what does not vary would seem to vary much
        weight = weight * scale.reshape([-1 if d == stage.weight.dim else 1 for d in range(weight.dim())])
    return unit_rows(weight, stage.weight, size), unit_rows(bias, replace(stage.weight, dim=0), size)


def _still(norm: Any) -> Tensor:
    """Return which channels of a batch norm do not vary: no weight says then how large what it scales is."""
    return norm.running_var.detach().double().cpu() <= _NOTHING * norm.eps


def _constant(model: nn.Module, stage: Stage, size: int, *, rectified: bool) -> Tensor:
    """Return which units send the same number everywhere, ``(size,)``, as far as a batch norm tells."""
    if not stage.norm:
        return torch.zeros(size, dtype=torch.bool)
    norm: Any = model.get_submodule(stage.norm)
    still = _still(norm)
    if rectified and norm.bias is not None:
        spread = 1.0 if norm.weight is None else norm.weight.detach().double().cpu().abs()
        still = still | (norm.bias.detach().double().cpu() < -_FAR * spread)
    return unit_rows(still, replace(stage.weight, dim=0), size).all(1)


def moments(model: nn.Module, group: Group, found: Course, behaviour: Behaviour) -> tuple[Tensor, Tensor]:
    """Return how alike the units of a group are, and how large.

    Args:
        model: the network.
        group: of its graph.
        found: how its units come about.
        behaviour: what becomes of them before they are read; ``other``: only copies are known to be alike.

    Returns:
        ``(size, size)`` float64, 1 for a unit and its multiples (at least 0 where there is a rectifier), and
        ``(size,)``, in proportion to the root of the mean square of what each unit sends; 0 for units that send a
        constant, which are like no other.
    """
    if behaviour == "other" or not found.plain:
        return _copies(model, group)
    pairs = [folded(model, stage, group.size) for stage in found.makers]
    alike, norm = _angles(sum((w @ w.T + b @ b.T for w, b in pairs), torch.zeros(1, dtype=torch.float64)), behaviour)
    for stage in found.later:
        weight, bias = folded(model, stage, group.size)
        sent = alike * norm[:, None] * norm
        alike, norm = _angles((weight @ weight.T) * sent + bias @ bias.T, behaviour)
    one = behaviour == "rectified" and len(found.makers) == 1
    idle = torch.stack([_constant(model, it, group.size, rectified=one) for it in found.makers]).all(0)
    for stage in found.later:
        idle |= _constant(model, stage, group.size, rectified=one)
    alike = torch.where(idle | idle[:, None], torch.eye(group.size, dtype=torch.float64), alike)
    return alike, torch.where(idle, 0.0, norm)


def _angles(product: Tensor, behaviour: Behaviour) -> tuple[Tensor, Tensor]:
    norm = product.diagonal().clamp(min=0).sqrt()
    lives = norm > 1e-12 * norm.max()
    cosine = product / torch.where(lives, norm, 1.0)[:, None] / torch.where(lives, norm, 1.0)
    cosine = torch.where(lives[:, None] & lives, cosine, 0.0).clamp(-1, 1)
    cosine = torch.where(cosine.abs() > 1 - SAME, cosine.sign(), cosine)
    if behaviour == "rectified":
        angle = torch.arccos(cosine)
        cosine = (torch.sin(angle) + (math.pi - angle) * cosine) / math.pi * (lives[:, None] & lives)
    cosine = cosine.clone()
    cosine.diagonal().fill_(1.0)
    return cosine, torch.where(lives, norm, 0.0)


def _copies(model: nn.Module, group: Group) -> tuple[Tensor, Tensor]:
    """Return which units have the same parameters everywhere, and the norms of what makes them."""
    own = [member for member in group.members if member.role != "reads"]
    parts = [unit_rows(tensor_of(model, it.tensor).double().cpu(), it, group.size) for it in own]
    same = torch.ones(group.size, group.size, dtype=torch.bool)
    for part in parts:
        near = 1e-5 * torch.maximum(part.norm(dim=1)[:, None], part.norm(dim=1))
        same &= torch.cdist(part, part, compute_mode="use_mm_for_euclid_dist") <= near
    same.diagonal().fill_(True)
    made = [part for part, it in zip(parts, own, strict=True) if it.role == "makes"] or parts
    return same.double(), torch.cat(made, 1).norm(dim=1)


def given(alike: Tensor, norm: Tensor, gone: Sequence[int], pull: float) -> Tensor:
    """Return how much of each unit is given to each kept one, ``(size, size)`` float64; kept ones are themselves.

    The units that stay and what is given to them leave the least squared error, copies none.

    Args:
        alike: as ``moments`` returns it.
        norm: the same.
        gone: the units that go.
        pull: ridge, beside the ones on the diagonal.
    """
    left = torch.ones(len(norm), dtype=torch.bool)
    left[list(gone)] = False
    kept, lost = torch.nonzero(left & (norm > 0)).flatten(), torch.nonzero(~left & (norm > 0)).flatten()
    out = torch.diag(left.double())
    if not len(kept) or not len(lost):
        return out
    within = alike[kept][:, kept] + pull * torch.eye(len(kept), dtype=torch.float64)
    across = alike[kept][:, lost]
    share = torch.linalg.solve(within, across)
    best, place = across.abs().max(0)
    copies = best >= 1 - SAME
    share[:, copies] = 0.0
    share[place[copies], torch.nonzero(copies).flatten()] = across[place[copies], copies].sign()
    out[lost[:, None], kept] = (share * norm[lost] / norm[kept][:, None]).T
    return out
