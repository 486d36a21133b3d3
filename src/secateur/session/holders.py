"""What a training loop holds beside its network: optimizers, schedulers, averages of the weights, wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.graph import Graph, tensor_of
from secateur.core.plan import Plan, Regroup
from secateur.core.surgery import Inputs, apply, become, migrated, optimizers_in, prove
from secateur.errors import ModelError, PlanError, SettingError
from secateur.session.wrappers import is_around, wrappers_in

_SCALERS = ("GradScaler", "ShardedGradScaler")  # which count steps and note no sizes


@dataclass(frozen=True)
class Holders:
    """What follows a cut.

    Attributes:
        optimizers: each once, those that wrap others and those that are wrapped.
        averages: networks like the one that trains, with weights of their own.
        wrappers: of the network that trains, to be made anew.
    """

    optimizers: tuple[torch.optim.Optimizer, ...] = ()
    averages: tuple[nn.Module, ...] = ()
    wrappers: tuple[DistributedDataParallel, ...] = ()

    @staticmethod
    def of(model: nn.Module, given: Iterable[Any], wrapper: Sequence[DistributedDataParallel] = ()) -> Holders:
        """Sort what a loop holds.

        Args:
            model: the network that trains.
            given: optimizers, what holds one (schedulers), averages, wrappers of the network, gradient scalers, None.
            wrapper: wrappers that are known already.

        Raises:
            SettingError: for what is none of these.
            ModelError: if it belongs to another network.
        """
        own = {id(parameter) for parameter in model.parameters()}
        optimizers, averages, wrappers = dict[int, Any](), dict[int, nn.Module](), {id(each): each for each in wrapper}
        for each in _flat(given):
            inside = optimizers_in(each)
            if inside:
                _check_optimizers(inside, own)
                optimizers |= {id(one): one for one in inside}
            elif isinstance(each, nn.Module) and is_around(each, model):
                wrappers |= {id(one): one for one in wrappers_in(each)}
            elif (average := _average_in(each, model)) is not None:
                averages[id(average)] = average
            elif each is not None and type(each).__name__ not in _SCALERS:
                raise SettingError(
                    f"a session cannot carry a {type(each).__name__} along: give optimizers, schedulers, averages of "
                    "the network (such as AveragedModel) and what wraps it"
                )
        return Holders(tuple(optimizers.values()), tuple(averages.values()), tuple(wrappers.values()))

    def check(self, plans: Iterable[Plan]) -> None:
        """Refuse plans that nothing here can follow.

        Raises:
            PlanError: for regrouped layers, where there are optimizers or averages.
        """
        if (self.optimizers or self.averages) and any(
            isinstance(edit, Regroup) for plan in plans for edit in plan.edits
        ):
            raise PlanError(
                "regrouped layers have new parameters, which no moments and averages of the old ones fit: give none "
                "along, and make new ones afterwards"
            )

    def prepared(self, model: nn.Module, graph: Graph, plan: Plan, inputs: Inputs) -> Callable[[], None]:
        """Return what lets all of them follow a cut of the network in place, when nothing can be refused any more.

        Args:
            model: the network before the cut.
            graph: of it.
            plan: what goes.
            inputs: on which the averages are proved.

        Raises:
            SecateurError: one of its kinds; nothing has been changed then.
        """
        self.check([plan])
        successors = dict(model.named_parameters())  # which stay the objects that they are
        moves = [migrated(each, model, successors, [(graph, plan)], others=True) for each in self.optimizers]
        thin = [(average, _thinned(average, graph, plan, inputs)) for average in self.averages]

        def move() -> None:
            for each in moves:
                each()
            for average, new in thin:
                become(average, new)

        return move


def _flat(given: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for each in given:
        found += cast("list[Any]", each) if isinstance(each, list | tuple) else [each]
    return found


def _check_optimizers(found: Sequence[torch.optim.Optimizer], own: set[int]) -> None:
    held = [parameter for each in found for group in each.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in held):
        raise ModelError(
            f"the {type(found[-1]).__name__} holds no weight of the network that this session cuts, so it trains "
            "another one, such as a copy: make it from session.model.parameters()"
        )


def _average_in(value: Any, model: nn.Module) -> nn.Module | None:
    """Return the network in an average of the weights, or the average itself; None where the value is no such thing.

    Raises:
        ModelError: if it is a network in which not one is like the one that trains.
    """
    parts = (value, getattr(value, "module", None), getattr(value, "ema", None))
    whole = next((each for each in parts if isinstance(each, nn.Module)), None)
    if whole is None:
        return None
    wanted = shapes_of(model)
    alike = [each for each in whole.modules() if shapes_of(each) == wanted]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise ModelError(
            f"{type(value).__name__} holds {len(alike)} networks of the shapes that the one of this session has: give "
            "those that are its averages one by one"
        )
    raise ModelError(
        f"{type(value).__name__} neither is nor holds (as .module or .ema) a network of the shapes that the one of "
        "this session has: give every average of the weights to each step and to load_state_dict, to be cut alike"
    )


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a network's parameters, by their names."""
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def _thinned(average: nn.Module, graph: Graph, plan: Plan, inputs: Inputs) -> nn.Module:
    thin = apply(average, graph, plan)
    if plan.edits and all(bool(tensor_of(average, name).isfinite().all()) for name in graph.parameters):
        prove(average, graph, plan, thin, inputs)
    return thin
