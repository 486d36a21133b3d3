"""Does the thin network compute what the silenced original computes?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph import Graph, staying
from secateur.core.graph.outputs import left_of
from secateur.core.interrupts import deferred
from secateur.core.module_calls import ModuleStack
from secateur.core.plan import Plan
from secateur.core.surgery.channel_differences import gap, largest
from secateur.core.surgery.forward import Inputs, in_evaluation, run, tensors_in
from secateur.core.surgery.precision import InDouble, widened
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.silence import masked
from secateur.core.surgery.steady_draws import Steady
from secateur.errors import CutError, ModelError, first_line
from secateur.spelling import setting

TOLERANCE = 1e-4  # relative, in float32; see Verification
ROUNDING = 1e-9  # relative, in float64

Training = Callable[[nn.Module], bool]  # which modules run in training mode


@dataclass(frozen=True)
class Verification:
    """How far the thin network is from the silenced original.

    Attributes:
        difference: largest absolute difference of an output tensor, relative to its largest absolute value. Of outputs
            that may lose channels, those are compared that are left.
        exact: whether that is within rounding (1e-4 in float32, 1e-9 in float64).
        layer: the first layer whose output differs; empty if exact.
        draws: whether that holds with constants in the place of all that the networks draw at random, because the two
            draw different many numbers.
    """

    difference: float
    exact: bool
    layer: str = ""
    draws: bool = False


@checked
@apart("model", "thin")
def verify(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> Verification:
    """Compare the thin network with the silenced original on the given inputs, in evaluation mode.

    Where they differ by more than rounding, both are compared in float64: a network that chooses (which
    boxes survive, which values are the largest) may choose otherwise after an error in the last digit, and a real
    error stays. The difference is then the one in float64.

    Both draw the same random numbers. Where how many they draw depends on their widths, these cannot be the same: then
    both are compared with constants in their place.

    Args:
        model: the dense network, left as it was.
        graph: its graph.
        plan: what was removed.
        thin: what ``apply`` returned.
        inputs: any inputs that the network accepts.

    Raises:
        CutError: if the thin network does not run where the dense one does.
        ModelError: if the dense network does not run.
    """
    return verified(model, graph, plan, thin, inputs)[0]


def verified(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    thin: nn.Module,
    inputs: Inputs,
    *,
    training: Training = in_evaluation,
    around: AbstractContextManager[object] | None = None,
) -> tuple[Verification, Any]:
    """Return what ``verify`` does, and what the thin network puts out.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left.
        inputs: any inputs that the dense network accepts.
        training: which modules run in training mode.
        around: a context for the first run of the thin network.
    """
    difference, outputs = _difference(model, graph, plan, thin, inputs, training, around)
    if difference <= TOLERANCE:
        return Verification(difference, True), outputs
    precise = _difference_in_double(model, graph, plan, thin, inputs, training)
    if precise <= ROUNDING:
        return Verification(precise, True), outputs
    steady = _difference_if_steady(model, graph, plan, thin, inputs, training)
    if steady <= TOLERANCE:
        return Verification(steady, True, draws=True), outputs
    return Verification(difference, False, _first_difference(model, graph, plan, thin, inputs, training)), outputs


def _difference(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    thin: nn.Module,
    inputs: Inputs,
    training: Training,
    around: AbstractContextManager[object] | None = None,
) -> tuple[float, Any]:
    with masked(model, graph, plan):
        expected = run(model, inputs, training=training)
    with around or contextlib.nullcontext():
        found = run_cut(thin, inputs, training=training)
    return relative_difference(left(graph, plan, expected, training), found), found


def left(graph: Graph, plan: Plan, outputs: Any, training: Training = in_evaluation) -> list[Tensor]:
    """Return what a thin network has of the outputs of the dense one, see ``left_of``.

    Args:
        graph: of the dense network.
        plan: what is removed from it.
        outputs: of the dense network.
        training: which modules ran in training mode.
    """
    return left_of(graph.outputs if training is in_evaluation else graph.trained_outputs, outputs, graph.kept(plan))


def run_cut(thin: nn.Module, inputs: Inputs, *, training: Training = in_evaluation) -> Any:
    """Run a thin network; if it does not, that is no fault of the inputs.

    Raises:
        CutError: naming where it fails, and why.
    """
    stack = ModuleStack(thin)
    try:
        with stack:
            return run(thin, inputs, training=training)
    except ModelError as error:
        place = f" in '{stack.current}'" if stack.current else ""
        why = first_line(error.__cause__ or error)
        raise CutError(
            "the cut failed: the dense network runs on the example inputs, but without the channels that were to go "
            f"it does not{place} ({why}); leave these layers alone ({setting('leave')}), or take sizes in the code "
            "from the shape of the tensor that is reshaped",
            stack.current,
        ) from error


def _difference_in_double(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, training: Training
) -> float:
    """Return the difference in float64; infinite where a network does not run in it."""
    precise = widened(inputs)
    try:
        with InDouble():
            return _difference(model, graph, plan, thin, cast(Inputs, precise), training)[0]
    except (CutError, ModelError):
        return float("inf")


def _difference_if_steady(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, training: Training
) -> float:
    """Return the difference where nothing is drawn at random; infinite where nothing is anyway.

    Under the same random states two networks draw the same numbers, unless how many depends on their widths.
    """
    try:
        with masked(model, graph, plan), Steady() as steady:
            expected = run(model, inputs, training=training)
        if not steady.used:
            return float("inf")
        with Steady():
            found = run_cut(thin, inputs, training=training)
    except (CutError, ModelError):
        return float("inf")
    return relative_difference(left(graph, plan, expected, training), found)


def relative_difference(expected: Any, found: Any) -> float:
    """Return the largest absolute difference over all output tensors, each relative to its own largest value.

    An output of which little more than rounding is left (below a millionth of the largest) is held against that.
    """
    wanted, got = tensors_in(expected), tensors_in(found)
    if [a.shape for a in wanted] != [b.shape for b in got]:
        return float("inf")
    pairs = [(a.detach(), b.detach()) for a, b in zip(wanted, got, strict=True) if a.numel()]
    scales = [largest(a) for a, _ in pairs]
    floor = 1e-6 * max(scales, default=0.0)
    worst = 0.0
    for (a, b), scale in zip(pairs, scales, strict=True):
        difference = float(gap(a, b).max()) / (max(scale, floor) or 1.0)
        if math.isnan(difference):
            return float("inf")
        worst = max(worst, difference)
    return worst


def _first_difference(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, training: Training
) -> str:
    """Return the first layer that makes channels whose kept channels differ between the two networks."""
    keep = graph.kept(plan)
    expected: dict[str, Tensor] = {}
    same: dict[str, bool] = {}

    def compare(name: str, got: Tensor) -> None:
        wanted = expected.get(name)
        if wanted is None or name in same:
            return
        units = graph.tensors[f"{name}.weight"][1][graph.roles[f"{name}.weight"].index("makes")]
        # linear layers put their channels last, convolutions after the batch
        dim = wanted.dim() - 1 if isinstance(model.get_submodule(name), nn.Linear) else min(1, wanted.dim() - 1)
        if units is not None and len(units) == wanted.shape[dim]:
            wanted = wanted.index_select(dim, torch.nonzero(staying(units, keep)).flatten().to(wanted.device))
        same[name] = relative_difference(wanted, got) <= TOLERANCE

    with contextlib.suppress(ModelError), masked(model, graph, plan):  # what ran before a failure is what we came for
        _at_layers(model, graph, inputs, training, lambda name, output: expected.setdefault(name, output))
    with contextlib.suppress(ModelError):
        _at_layers(thin, graph, inputs, training, compare)
    return next((name for name in expected if not same.get(name)), "the output")


def _at_layers(
    model: nn.Module, graph: Graph, inputs: Inputs, training: Training, act: Callable[[str, Tensor], object]
) -> None:
    """Run the network and act on the output of each layer that makes channels."""

    def made(name: str, module: nn.Module, given: object, output: Tensor) -> None:
        act(name, output.detach())

    hooks = [
        module.register_forward_hook(partial(made, name))
        for name, module in model.named_modules()
        if "makes" in graph.roles.get(f"{name}.weight", ())
    ]
    try:
        run(model, inputs, training=training)
    finally:
        with deferred:
            for hook in hooks:
                hook.remove()
