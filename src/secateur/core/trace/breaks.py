"""Where does a thinner network break that is cut on trial, or compute something else than the silenced one?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.module_calls import ModuleStack
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, apply, check_batches, check_sizes, finite, run, verified
from secateur.core.surgery.training_mode_check import breaks_in_training, run_in_training
from secateur.core.trace.state import State
from secateur.core.trace.steps import Progress, progress
from secateur.errors import CutError, SecateurError

REFUSALS = (SecateurError, RuntimeError, ValueError, IndexError, TypeError, AssertionError)


@dataclass(frozen=True)
class Break:
    """The module where a thinner network broke, or the first layer that differs.

    Attributes:
        module: its name; that of the whole network where nothing better is known.
        reached: how far the network came, where it is known.
        thin: the network that broke, where trying other numbers in it can help.
    """

    module: str
    reached: Progress | None = None
    thin: nn.Module | None = None

    @property
    def step(self) -> int | None:
        """Number of the step of the module's own code; None where it is not known."""
        return None if self.reached is None else self.reached.done.get(self.module, 0)


def breaks_at(
    model: nn.Module, graph: Graph, plan: Plan, inputs: Inputs, *, batches: bool, sizes: bool = False
) -> Break | None:
    """Thin the network on trial; None if all is well.

    Args:
        model: the network.
        graph: its graph.
        plan: what goes.
        inputs: the example.
        batches: whether it runs on other numbers of inputs too.
        sizes: whether these are of other sizes too.
    """
    if not plan.edits:
        return None
    try:
        thin = apply(model, graph, plan)
    except REFUSALS:
        return Break("")
    try:
        result, outputs = verified(model, graph, plan, thin, inputs)
    except REFUSALS:
        reached = progress(thin, inputs)
        return Break(reached.module or "", reached, thin)
    if result.exact and batches:
        return _breaks_on_others(model, graph, plan, thin, inputs, outputs, sizes=sizes)
    if result.exact or (not math.isfinite(result.difference) and not finite(run(model, inputs))):
        return None  # of NaN nothing can be learned: whoever cuts the network says so
    return Break(_known(model, result.layer))


def _known(model: nn.Module, place: str) -> str:
    """Return a place if it is a module, else the network."""
    return place if place in dict(model.named_modules()) else ""


def _breaks_on_others(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, outputs: Any, *, sizes: bool
) -> Break | None:
    try:
        check_batches(model, graph, plan, thin, inputs, outputs)
        if sizes:
            check_sizes(model, graph, plan, thin, inputs)
    except CutError as error:
        return Break(_known(model, error.place))
    except REFUSALS:
        return Break(_place_of_failure(thin, inputs))
    return None


def _place_of_failure(thin: nn.Module, inputs: Inputs, run: Callable[[nn.Module, Inputs], object] = run) -> str:
    stack = ModuleStack(thin)
    with contextlib.suppress(*REFUSALS), stack:
        run(thin, inputs)
    return stack.current


def place_in_training(model: nn.Module, graph: Graph, plan: Plan, state: State) -> str | None:
    """Do what ``breaks_at`` does with a run in training mode."""
    assert state.training is not None
    thin = apply(model, graph, plan)
    try:
        return breaks_in_training(model, graph, plan, thin, state.training)
    except CutError as error:
        return error.place
    except REFUSALS:
        return _place_of_failure(thin, state.training, run_in_training)
