"""Carry an optimizer, with its momentum and moments, over to the thin network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph import Graph
from secateur.core.plan import Plan, Regroup
from secateur.core.sizes.size import zero_masks
from secateur.core.surgery.optimizer_contents import Step, check_common, optimizers_in, thinned, with_successors
from secateur.errors import ModelError, PlanError


@checked
def migrate_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, thin: nn.Module, graph: Graph, plan: Plan
) -> None:
    """Make an optimizer of the dense network steer the thin one, in place, as if it had never known the rest.

    Momentum, moments and whatever else the optimizer keeps for each weight lose the positions that the weight lost.
    Parameter groups and step counts stay, and so do schedulers and gradient scalers that hold the optimizer. Optimizers
    that it wraps, in any of its attributes, follow with it.

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
    successors = dict(thin.named_parameters())
    for move in [migrated(each, model, successors, cuts) for each in optimizers_in(optimizer)]:
        move()


def migrated(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    successors: Mapping[str, nn.Parameter],
    cuts: Sequence[tuple[Graph, Plan]],
    *,
    others: bool = False,
) -> Callable[[], None]:
    """Return what does the work of ``migrate_through`` for one optimizer, when all that can be refused has been.

    Args:
        optimizer: over parameters of ``model``; those that it wraps are left as they are.
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
    kinds = type(optimizer).__mro__[:-1]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    steps = [Step(graph, keep, zero_masks(graph, plan, keep)) for graph, plan in cuts for keep in [graph.kept(plan)]]
    settled = any(kind is not torch.optim.Optimizer and kind.__module__.startswith("torch.") for kind in kinds)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moved: dict[int, nn.Parameter] = {}
    for old in held:
        name = names.get(id(old))
        if name is None and not others:
            raise ModelError("the optimizer holds a parameter that is not the model's; migrate the one that is")
        if name is not None and name not in successors:
            raise ModelError(f"the thin network has no parameter '{name}'; give what apply returned for this plan")
        moved[id(old)] = old if name is None else successors[name]

    def thin(old: nn.Parameter, key: str, value: Any) -> Any:
        name, shape = names.get(id(old), ""), tuple(old.shape)
        for step in steps if name else ():
            shape = step.graph.tensors[name][0] if name in step.graph.tensors else shape
            value = thinned(value, key, name, shape, step, settled=settled)
        return value

    def of_each(kept: Mapping[Any, Any], called: str) -> dict[Any, Any]:
        """Return what is kept by parameter for their successors, and what is kept by anything else as it is."""
        return {moved.get(id(key), key): by_name(key, called, value) for key, value in kept.items()}

    def by_name(key: Any, called: str, value: Any) -> Any:
        if id(key) not in moved:
            check_common(key, value, moved)
            return value
        if isinstance(value, dict):
            return {name: thin(key, str(name), each) for name, each in cast("dict[Any, Any]", value).items()}
        return thin(key, called, value)

    kept = cast("dict[Any, Any]", optimizer.state)
    known = {key: value for key, value in kept.items() if not isinstance(key, Tensor) or id(key) in moved}
    state = of_each(known, "state")
    groups = list[tuple[dict[str, Any], dict[str, Any]]]()
    for group in optimizer.param_groups:
        for key, value in group.items():
            check_common(key, value, moved)
        groups.append((group, {key: with_successors(value, moved) for key, value in group.items()}))
    attributes = dict[str, Any]()
    for key, value in vars(optimizer).items():
        if key not in ("state", "param_groups"):
            by_parameter = isinstance(value, dict) and any(id(each) in moved for each in cast("dict[Any, Any]", value))
            new = of_each(value, key) if by_parameter else with_successors(value, moved)
            if new is not value:
                attributes[key] = new

    def move() -> None:
        for group, new in groups:
            group.update(new)
        optimizer.state.clear()
        optimizer.state.update({key: value for key, value in state.items() if not isinstance(value, dict) or value})
        vars(optimizer).update(attributes)

    return move
