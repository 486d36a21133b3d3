"""Is a thin network what is left of a dense one? Judged by the values of its weights alone.

Neither plan nor graph nor masks of the library are asked. Which positions of each tensor of the dense network are left
in the thin one is found by matching values. In a copy of the dense network, what is not left is set to zero, and means
over the channels of a norm are taken over those that are left. What the two put out must be the same.

All positions that are gone are zeroed first: of what makes channels, so that these are zero where activations leave
zero at zero, and of what reads them. Elsewhere (a hidden zero becomes one half in a sigmoid, two zeros divided are NaN)
zeroing what reads them alone is right. Where the code of a network itself takes a mean over channels, that may be right
over those that are left, which are those that are not zero throughout. One of the three must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_map

from secateur.core.surgery import relative_difference, run
from secateur.core.surgery.precision import InDouble
from secateur.core.surgery.steady_draws import Steady
from zoo_norms import OverKept

EXACT, PRECISE = 1e-4, 1e-6  # relative, in float32; in float64, where the weights are still those of float32
CONVOLUTIONS = (nn.modules.conv._ConvNd,)
TRANSPOSED = (nn.modules.conv._ConvTransposeNd,)
MANY = 32  # values that surely outvote those that collide
MOST = 2**28  # entries of a table of votes
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        exact: whether thin and zeroed dense network agree.
        difference: the least relative difference of outputs that was found; in float64, or with constants in the
            place of what is drawn, where that was needed.
        zeroed: how it was found: with "all" zeroed, with what "reads", or with all and "means" over what is left.
        removed: how many tensors of the thin network have fewer values than those of the dense one.
        unmatched: those among them whose values were not found again in the dense network.
        effect: relative difference of what the thin network and the whole dense one put out; nothing can be judged
            where there is none.
    """

    exact: bool
    difference: float
    zeroed: str
    removed: int
    unmatched: tuple[str, ...]
    effect: float


def judge(dense: nn.Module, thin: nn.Module, inputs: Any) -> Verdict:
    """Compare, in evaluation mode, with the same random numbers; dense and thin network are left as they were."""
    masks, unmatched = left(dense, thin)
    effect = relative_difference(outputs_of(dense, inputs), outputs_of(thin, inputs))
    whole = plain(duplicate(dense), masks)
    ways = {"all": masks, "reads": reading(whole, masks), "means": masks}
    stages = (
        (nullcontext, inputs, EXACT),
        (InDouble, double(inputs), PRECISE),  # what chooses may choose otherwise after an error in the last digit
        (Steady, inputs, EXACT),  # how many numbers are drawn, and in which order of memory, may depend on the widths
    )
    found: dict[tuple[float, str], bool] = {}
    for stage, given, limit in stages:
        with suppress(Exception):  # not all code can be run in float64
            differences = _differences(whole, thin, given, masks, ways, limit, stage)
            found |= {(value, way): value <= limit for way, value in differences.items()}
        if any(found.values()):
            break
    difference, zeroed = min(found, key=lambda key: (not found[key], key))
    removed = len(masks) + len(unmatched)
    return Verdict(any(found.values()), difference, zeroed, removed, tuple(unmatched), effect)


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """Run in evaluation mode with the same random numbers each time."""
    torch.manual_seed(0)
    return run(model, inputs)


def duplicate(model: nn.Module) -> Any:
    """Return a copy, also of a network that keeps weights which it has computed."""
    with torch.no_grad():
        for module in model.modules():
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, WeightNorm):
                    hook(module, None)
    return copy.deepcopy(model)


def double(value: Any) -> Any:
    """Return a copy of a network, or of inputs, in float64."""
    if isinstance(value, nn.Module):
        return duplicate(value).double()
    return tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, value)


def _differences(
    dense: nn.Module,
    thin: nn.Module,
    inputs: Any,
    masks: Masks,
    ways: dict[str, Masks],
    limit: float,
    stage: Callable[[], Any],
) -> dict[str, float]:
    """Return how far each way of zeroing is from the thin network, up to the first that is near enough."""
    with stage():
        got = outputs_of(thin, inputs)
    found: dict[str, float] = {}
    for way, zeros in ways.items():
        silent = duplicate(dense)
        with torch.no_grad():
            for name, tensor in tensors(silent):
                if name in zeros:
                    tensor.mul_(zeros[name])
        try:
            kept = [(tensor, masks[name]) for name, tensor in tensors(silent) if name in masks]
            with stage(), OverKept(kept, means=way == "means"):  # which knows weights before these are widened
                expected = outputs_of(silent, inputs)
            found[way] = relative_difference(expected, got)
        except Exception:  # the zeroed network need not run: a choice among zeros can come out empty
            found[way] = float("inf")
        if found[way] <= limit:
            break
    return found


# -- which positions are left ----------------------------------------------------------------------------------


def left(dense: nn.Module, thin: nn.Module) -> tuple[Masks, list[str]]:
    """Return for each tensor that shrank which of its positions are left, and the names of those where none is known.

    What makes the values of a weight norm again is known by its direction: the length is another one without what went.
    """
    few, masks, unmatched = dict(tensors(thin)), Masks(), list[str]()
    for name, tensor in tensors(dense):
        other = few.get(name)
        if other is None or other.shape == tensor.shape or not tensor.is_floating_point():
            continue
        owner = dense.get_submodule(name.rpartition(".")[0].partition(".parametrizations")[0])
        groups = int(getattr(owner, "groups", 1)) if isinstance(owner, CONVOLUTIONS) and tensor.dim() > 1 else 1
        mask = positions(tensor.detach(), other.detach(), groups)
        if mask is not None:
            masks[name] = mask
        elif not name.endswith(("weight_g", "weight.original0", "running_var")):
            unmatched.append(name)
    return masks, unmatched


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers, shared ones under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def positions(dense: Tensor, thin: Tensor, groups: int = 1) -> Tensor | None:
    """Return which values of a tensor are those of a thinner one; None where that cannot be seen.

    Values collide, so a slice lies where most of its values do. In a grouped convolution each group reads its own
    channels, so the second dimension is matched group by group.
    """
    if dense.dim() != thin.dim() or any(a < b for a, b in zip(dense.shape, thin.shape, strict=True)):
        return None
    if dense.dim() > 2 and dense.shape[2:] == thin.shape[2:] and min(thin.shape[:2]) >= MANY:
        corner = (slice(None), slice(None), *[0] * (dense.dim() - 2))  # which has votes enough
        mask = positions(dense[corner], thin[corner], groups)
        return None if mask is None else mask.reshape(*mask.shape, *[1] * (dense.dim() - 2)).expand(dense.shape)
    if dense.dim() == 2 and groups == 1 and min(thin.shape) >= MANY:
        where = [*_coordinates(dense, _spread(thin, 1))[:1], *_coordinates(dense, _spread(thin, 0))[1:]]
    else:
        where = _coordinates(dense, thin)
    places = [_mode(where[d], d, dense.shape[d]) for d in range(dense.dim())]
    if any(int(place.min()) < 0 or len(place.unique()) < len(place) for place in (places[0], *places[2:])):
        return None
    mask = torch.zeros(dense.shape, dtype=torch.bool)
    size = dense.shape[0] // groups
    for group in range(groups):
        rows = torch.nonzero(places[0] // size == group).flatten()
        if not len(rows):
            continue
        kept = [places[0][rows], *places[1:]]
        if groups > 1 and dense.shape[1] != thin.shape[1]:
            kept[1] = _mode(where[1][rows], 1, dense.shape[1])
        if len(kept) > 1 and (int(kept[1].min()) < 0 or len(kept[1].unique()) < len(kept[1])):
            return None
        mask[torch.meshgrid(*kept, indexing="ij")] = True
    return mask


def _spread(values: Tensor, dim: int) -> Tensor:
    """Return some slices, evenly spread over a dimension: votes enough, where all would be sought for minutes."""
    return values[:, :: values.shape[1] // MANY] if dim else values[:: len(values) // MANY]


def _coordinates(dense: Tensor, thin: Tensor) -> list[Tensor]:
    """Return for each dimension where each value of the thin tensor lies in the dense one; -1 where it is not there."""
    wanted, whole = thin.flatten().contiguous(), dense.flatten()
    asked = torch.zeros(1 << 24, dtype=torch.bool)
    asked[_hash(wanted)] = True
    near = asked[_hash(whole)].nonzero().flatten()  # sorting all of a large layer would take most of the time
    if not len(near):
        return [torch.full(thin.shape, -1) for _ in dense.shape]
    values, order = whole[near].sort(stable=True)
    order = near[order]
    at = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    flat = torch.where(values[at] == wanted, order[at], -1).view(thin.shape)
    found: list[Tensor] = []
    for size in reversed(dense.shape):
        found.insert(0, torch.where(flat < 0, -1, flat % size))
        flat = torch.where(flat < 0, -1, flat // size)
    return found


def _hash(values: Tensor) -> Tensor:
    return (values.float().view(torch.int32) & 0xFFFFFF).int()


def _mode(where: Tensor, dim: int, size: int) -> Tensor:
    """Return the most frequent position of each slice across a dimension; -1 where none of its values was found."""
    slices = where.movedim(dim, 0).reshape(where.shape[dim], -1)
    number = torch.arange(len(slices))[:, None].expand_as(slices)
    keys = (number * (size + 1) + slices + 1).flatten()
    if len(slices) * (size + 1) > MOST:
        return _sparse_mode(keys, len(slices), size)
    votes = torch.bincount(keys, minlength=len(slices) * (size + 1))
    votes = votes.view(len(slices), size + 1)[:, 1:]
    return torch.where(votes.sum(1) > 0, votes.argmax(1), -1)


def _sparse_mode(keys: Tensor, slices: int, size: int) -> Tensor:
    """Return the same of the votes that there are, where a table of all that there could be has no room."""
    values, counts = keys.unique(return_counts=True)
    row, place = values // (size + 1), values % (size + 1) - 1
    row, place, counts = row[place >= 0], place[place >= 0], counts[place >= 0]
    most = torch.zeros(slices, dtype=torch.long).scatter_reduce(0, row, counts, "amax")
    first = counts == most[row]
    found = torch.full((slices,), size).scatter_reduce(0, row[first], place[first], "amin")
    return torch.where(found < size, found, -1)


# -- what is zeroed --------------------------------------------------------------------------------------------


def plain(model: nn.Module, masks: Masks) -> nn.Module:
    """Put computed weights in the place of weight norms, so that zeros change no length; masks get their names too.

    The variances of norms are left as they are: with zeros, nothing would be said about it but that it is large.
    """
    for name in [name for name in masks if name.endswith("running_var")]:
        del masks[name]
    for name, module in list(model.named_modules()):
        hooks = [h for h in module._forward_pre_hooks.values() if isinstance(h, WeightNorm)]
        for hook in hooks:
            remove_weight_norm(module, hook.name)
            _rename(masks, f"{name}.{hook.name}_v", f"{name}.{hook.name}")
        if parametrize.is_parametrized(module):
            values = {weight: getattr(module, weight).detach() for weight in module.parametrizations}
            module.__class__ = type(module).__mro__[
                1
            ]  # removing one would also change the module that this is a copy of
            del module.parametrizations
            for weight, value in values.items():
                module.register_parameter(weight, nn.Parameter(value))
                for original in ("original", "original1"):
                    _rename(masks, f"{name}.parametrizations.{weight}.{original}", f"{name}.{weight}")
    return model


def _rename(masks: Masks, old: str, new: str) -> None:
    if old in masks:
        masks[new.removeprefix(".")] = masks.pop(old)


def reading(model: nn.Module, masks: Masks) -> Masks:
    """Return of the masks what concerns the inputs of layers."""
    found: Masks = {}
    for place, module in model.named_modules():
        for own, tensor in module.named_parameters(recurse=False):
            name = f"{place}.{own}".removeprefix(".")
            mask = masks.get(name)
            if mask is None or tensor.dim() < 2 or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                continue
            kernel = tuple(range(2, tensor.dim()))
            if isinstance(module, TRANSPOSED):
                found[name] = mask.any(dim=tuple(range(1, tensor.dim())), keepdim=True)
            elif isinstance(module, CONVOLUTIONS) and module.groups > 1:
                rows = mask.reshape(module.groups, -1, *mask.shape[1:])
                some = rows.any(dim=(1, *(k + 1 for k in kernel)), keepdim=True).expand_as(rows)
                found[name] = some.reshape(mask.shape)
            else:
                found[name] = mask.any(dim=(0, *kernel), keepdim=True)
    return found
