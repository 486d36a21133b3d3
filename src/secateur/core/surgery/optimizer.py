"""Carry an optimizer, with its momentum and moments, over to the thin network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph import Graph
from secateur.core.plan import Plan, Regroup
from secateur.core.sizes.size import sliced, zero_masks
from secateur.errors import ModelError, PlanError


@checked
def migrate_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, thin: nn.Module, graph: Graph, plan: Plan
) -> None:
    """Make an optimizer of the dense network steer the thin one, in place, as if it had never known the rest.

    Momentum, moments and whatever else the optimizer keeps for each weight lose the positions that the weight lost.
    Parameter groups and step counts stay, and so do schedulers and gradient scalers that hold the optimizer.

    Args:
        optimizer: over parameters of ``model``.
        model: the dense network.
        thin: what ``apply(model, graph, plan)`` returned.
        graph: the graph of the dense network.
        plan: what was removed.

    Raises:
        ModelError: if the optimizer holds parameters that are not the model's, or keeps something for a weight whose
            shape does not follow the weight's; nothing has been changed then.
        PlanError: if the plan regroups layers, whose weights are others afterwards.
    """
    migrate_through(optimizer, model, thin, [(graph, plan)])


def migrate_through(
    optimizer: torch.optim.Optimizer, model: nn.Module, thin: nn.Module, cuts: Sequence[tuple[Graph, Plan]]
) -> None:
    """Do what ``migrate_optimizer`` does for a network that was cut several times.

    Args:
        optimizer: over parameters of ``model``.
        model: the dense network.
        thin: what the last cut has left.
        cuts: what was removed, each with the graph of the network that it was removed from.

    Raises:
        ModelError: see ``migrate_optimizer``.
        PlanError: likewise.
    """
    migrated(optimizer, model, dict(thin.named_parameters()), cuts)()


def migrated(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    successors: Mapping[str, nn.Parameter],
    cuts: Sequence[tuple[Graph, Plan]],
    *,
    others: bool = False,
) -> Callable[[], None]:
    """Return what does the work of ``migrate_through``, when everything that can be refused has been.

    Args:
        optimizer: over parameters of ``model``.
        model: the dense network, with its shapes.
        successors: the parameters that the optimizer is to have, by name.
        cuts: see ``migrate_through``.
        others: let parameters stay that are not the model's, such as those of a loss.

    Raises:
        ModelError: see ``migrate_optimizer``.
        PlanError: likewise.
    """
    if any(isinstance(edit, Regroup) for _, plan in cuts for edit in plan.edits):
        raise PlanError("regrouped layers have new parameters, which no old moments fit; make a new optimizer")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    steps = [(graph, keep, zero_masks(graph, plan, keep)) for graph, plan in cuts for keep in [graph.kept(plan)]]
    moved: dict[int, tuple[nn.Parameter, dict[str, Any]]] = {}
    for old in [parameter for group in optimizer.param_groups for parameter in group["params"]]:
        name, state = names.get(id(old)), optimizer.state.get(old, {})
        if name is None and others:
            moved[id(old)] = (old, state)
            continue
        if name is None:
            raise ModelError("the optimizer holds a parameter that is not the model's; migrate the one that is")
        if name not in successors:
            raise ModelError(f"the thin network has no parameter '{name}'; give what apply returned for this plan")
        shape = tuple(old.shape)
        for graph, keep, masks in steps:
            shape = graph.tensors[name][0] if name in graph.tensors else shape
            state = _thin_state(state, shape, name, graph, keep, masks)
        moved[id(old)] = (successors[name], state)

    def move() -> None:
        optimizer.state.clear()
        for group in optimizer.param_groups:
            group["params"] = [moved[id(old)][0] for old in group["params"]]
        for new, state in moved.values():
            if state:
                optimizer.state[new] = state

    return move


def _thin_state(
    state: Mapping[str, Any],
    shape: tuple[int, ...],
    name: str,
    graph: Graph,
    keep: Tensor,
    masks: Mapping[str, Tensor],
) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            new[key] = value.clone() if isinstance(value, Tensor) else value
            continue
        if value.dim() != len(shape) or any(a not in (1, b) for a, b in zip(value.shape, shape, strict=True)):
            raise ModelError(
                f"the optimizer keeps '{key}' of shape {tuple(value.shape)} for '{name}' of shape {shape}, "
                "which cannot be made thinner with it; make a new optimizer"
            )
        # factored moments have size one along the dimensions that they average over
        known = graph.tensors[name][1] if name in graph.tensors else (None,) * len(shape)  # what no forward uses stays
        dims = tuple(units if value.shape[d] > 1 else None for d, units in enumerate(known))
        thin = sliced(value.detach(), dims, keep).clone()
        if name in masks and thin.shape == masks[name].shape:
            thin.mul_(masks[name].to(thin.device, thin.dtype))
        new[key] = thin
    return new
