"""Remove units for real: a new, smaller network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.attention import is_attention, set_attention_sizes
from secateur.core.graph import Graph, layer_of, staying, tensor_of
from secateur.core.graph.written_sizes import count
from secateur.core.layer_families import CHANNEL_NORMS, CONVOLUTIONS, GATES, RECURRENT, SHAPED_NORMS
from secateur.core.plan import Plan
from secateur.core.sizes.regrouped import layouts, why_not
from secateur.core.sizes.size import sliced, zero_masks
from secateur.core.surgery.attributes import Number, assign
from secateur.core.surgery.foreign import refuse_odd_tensors, refuse_wrapped
from secateur.core.surgery.forward import modes_kept
from secateur.core.surgery.gains import follow_gains, refresh
from secateur.core.surgery.indices import follow_indices
from secateur.core.surgery.leftovers import drop_leftovers
from secateur.core.surgery.ordering import fold_orders
from secateur.core.surgery.regrouping import regroup, renumber
from secateur.core.surgery.rewriting import Change, Ways, rewrite
from secateur.core.surgery.untouched import computed, copied
from secateur.core.surgery.widths import follow_widths
from secateur.core.zeros.blocks import BlockLayer
from secateur.core.zeros.strided import StridedConv2d, alike
from secateur.errors import PlanError


@checked
def apply(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """Return a new, physically smaller network; the argument is left untouched.

    Device, dtype, memory format, training mode, hooks and ``requires_grad`` carry over; gradients do not.

    Args:
        model: the network that ``graph`` was traced from, or one of the same architecture.
        graph: its groups.
        plan: what to remove.

    Raises:
        PlanError: if the plan or graph belongs to another network, or would leave a group without units.
        ModelError: if the model cannot be copied.
    """
    refuse_odd_tensors(model)
    with modes_kept(model) as modes:  # in training mode, looking at a weight may be enough to change it
        thin = _applied(model, graph, plan)
    for name, module in thin.named_modules():
        module.training = modes.get(name, model.training)
    return thin


def _applied(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """Do the same for a network that is in evaluation mode."""
    keep = graph.kept(plan)
    check(model, graph, keep, plan)
    masks = zero_masks(graph, plan, keep)
    tensors = {name: _thin(tensor_of(model, name), name, graph, keep, masks) for name in graph.tensors}
    follow_gains(model, graph, plan, keep, tensors)
    follow_indices(graph, keep, tensors)
    thin = _copy_with(model, tensors)
    refresh(thin)
    drop_leftovers(thin)
    if bool((~keep).any()):
        _set_sizes(thin, graph, keep)
        renumber(thin, graph, keep)
        _assign(thin, graph, keep)
        _rewrite_code(thin, graph, keep)
        follow_widths(thin, graph, keep)
    found = layouts(graph, plan, keep)
    regroup(thin, found)
    fold_orders(thin, graph, found, masks)
    for name, mask in masks.items():
        layer = thin.get_submodule(layer_of(name))
        if name.endswith(".weight") and alike(mask) and StridedConv2d.can(layer):
            StridedConv2d.take(cast("nn.Conv2d", layer))
    return thin


def check(model: nn.Module, graph: Graph, keep: Tensor, plan: Plan) -> None:
    """Refuse a model of another architecture than the graph, and plans that cannot be carried out on it."""
    refuse_wrapped(model)
    for name, (shape, _) in graph.tensors.items():
        found = tuple(tensor_of(model, name).shape)
        if found != shape:
            raise PlanError(f"'{name}' has shape {found} where the traced network has {shape}; trace this model first")
    for group in graph.groups:
        first = graph.offsets[group.name]
        if not bool(keep[first : first + group.size].any()):
            raise PlanError(f"the plan removes all {group.size} units of group '{group.name}'; at least one must stay")
    for layer, layout in layouts(graph, plan, keep).items():
        reason = why_not(model, graph, layer)
        if reason:
            raise PlanError(f"'{layer}' cannot be regrouped: {reason}; take it out of the plan")
        if not layout.pairs:
            raise PlanError(f"the plan removes all that the blocks of '{layer}' read; let at least one input stay")


def _thin(tensor: Tensor, name: str, graph: Graph, keep: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor without the removed positions, with silenced weights at zero; never a view of the old."""
    with torch.no_grad():
        new = sliced(tensor.detach(), graph.tensors[name][1], keep)
        if tensor.layout != torch.strided:  # a sparse buffer has no place in memory of its own
            return new.clone()
        new = new.clone() if new.data_ptr() == tensor.data_ptr() else new
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
            new = new.contiguous(memory_format=torch.channels_last)
        if name in masks:
            new.mul_(masks[name].to(new.device))
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _copy_with(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Deep-copy a model, but put the given tensors in the place of the old ones, ties included."""
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in computed(model)}
    memo |= {id(tensor_of(model, name)): new for name, new in tensors.items()}
    return copied(model, memo)


def _set_sizes(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    """Bring the size attributes of standard modules in line with their tensors."""
    for name, module in thin.named_modules():
        if isinstance(module, BlockLayer):
            continue  # its numbers are brought in line by ``renumber``
        if isinstance(module, CONVOLUTIONS):
            if name in graph.convolutions:
                units = graph.convolutions[name]
                inner = len(units) // module.groups
                if module.groups > inner:  # whole groups went, see the tracer's rule
                    module.groups = int(staying(units, keep).sum()) // inner
            rows, columns = module.weight.shape[:2]
            module.in_channels = rows if module.transposed else columns * module.groups
            module.out_channels = columns * module.groups if module.transposed else rows
            continue
        if type(module) in RECURRENT:
            _set_recurrent_sizes(module)
            continue
        if is_attention(module):
            set_attention_sizes(cast("nn.MultiheadAttention", module))
            continue
        owned: Any = next(
            (t for t in (getattr(module, n, None) for n in ("weight", "running_mean")) if t is not None), None
        )
        if owned is None:
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = owned.shape
        elif isinstance(module, CHANNEL_NORMS):
            module.num_features = len(owned)
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(owned)
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.embedding_dim = owned.shape[1]
        elif isinstance(module, nn.GroupNorm):
            inner = module.num_channels // module.num_groups
            if module.num_groups > inner:  # whole groups went, see the tracer's rule
                module.num_groups = len(owned) // inner
            module.num_channels = len(owned)
        elif isinstance(module, SHAPED_NORMS):
            cast("nn.LayerNorm", module).normalized_shape = tuple(owned.shape)


def _set_recurrent_sizes(module: Any) -> None:
    end = "_l0" if isinstance(module, nn.RNNBase) else ""
    module.input_size = getattr(module, f"weight_ih{end}").shape[1]
    hidden = getattr(module, f"weight_hh{end}")
    module.hidden_size = hidden.shape[0] // GATES.get(type(module), 1)
    if isinstance(module, nn.RNNBase):
        module.proj_size = hidden.shape[1] if module.proj_size else 0
        module.flatten_parameters()


def _assign(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    for entry in graph.assignments:
        number = Number(entry.name, entry.path, 0)
        assign(thin.get_submodule(entry.module), {number: count(entry.axis, keep)})


def _rewrite_code(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    by_module: dict[str, list[Change]] = {}
    others = {entry.module for entry in graph.assignments}  # whose code sees other numbers than before
    for entry in graph.rewrites:
        for size in entry.literals:
            left = count(size.axis, keep)
            owner = entry.module if size.spot is None else size.spot.module
            numbered = owner == entry.module and not entry.training
            change = Change(entry.call, entry.function, size.path, size.sign * left, size.spot, numbered)
            by_module.setdefault(owner, []).append(change)
            if left < count(size.axis, torch.ones_like(keep)) or size.spot is None or not size.spot.own:
                others.add(owner)
    ways = Ways()
    for name, changes in by_module.items():
        if name in others:  # the rest is right as it is, and keeps its class
            rewrite(thin.get_submodule(name), changes, ways)
