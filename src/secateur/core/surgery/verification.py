"""Does the thin network compute what the silenced original computes?"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.core.graph import Graph, staying
from secateur.core.plan import Plan
from secateur.core.surgery.forward import Inputs, run, tensors_in
from secateur.core.surgery.silence import masked
from secateur.errors import ModelError

TOLERANCE = 1e-4  # relative, in float32; see Verification
ROUNDING = 1e-9  # relative, in float64


@dataclass(frozen=True)
class Verification:
    """How far the thin network is from the silenced original.

    Attributes:
        difference: largest absolute difference of an output tensor, relative to its largest absolute value.
        exact: whether that is within rounding (1e-4 in float32, 1e-9 in float64).
        layer: the first layer whose output differs; empty if exact.
    """

    difference: float
    exact: bool
    layer: str = ""


def verify(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> Verification:
    """Compare the thin network with the silenced original on the given inputs, in evaluation mode.

    Where they differ by more than rounding, copies of both are compared in float64: a network that chooses (which
    boxes survive, which values are the largest) may choose otherwise after an error in the last digit, and a real
    error stays. The difference is then the one in float64.

    Args:
        model: the dense network, left as it was.
        graph: its graph.
        plan: what was removed.
        thin: what ``apply`` returned.
        inputs: any inputs that the network accepts.

    Raises:
        ModelError: if one of the networks does not run.
    """
    difference = _difference(model, graph, plan, thin, inputs)
    if difference <= TOLERANCE:
        return Verification(difference, True)
    precise = _difference_in_double(model, graph, plan, thin, inputs)
    if precise <= ROUNDING:
        return Verification(precise, True)
    return Verification(difference, False, _first_difference(model, graph, plan, thin, inputs))


def _difference(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> float:
    with masked(model, graph, plan):
        expected = run(model, inputs)
    return relative_difference(expected, run(thin, inputs))


def _difference_in_double(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> float:
    """Return the difference in float64; infinite where a network does not run in it."""
    precise = tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
    try:
        return _difference(
            copy.deepcopy(model).double(), graph, plan, copy.deepcopy(thin).double(), cast(Inputs, precise)
        )
    except ModelError:
        return float("inf")


def relative_difference(expected: Any, found: Any) -> float:
    """Return the largest absolute difference over all output tensors, each relative to its own largest value.

    An output of which little more than rounding is left (below a millionth of the largest) is held against that.
    """
    wanted, got = _tensors(expected), _tensors(found)
    if [a.shape for a in wanted] != [b.shape for b in got]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(wanted, got, strict=True) if a.numel()]
    scales = [float(a.abs().max()) for a, _ in pairs]
    floor = 1e-6 * max(scales, default=0.0)
    worst = 0.0
    for (a, b), scale in zip(pairs, scales, strict=True):
        difference = float((a - b).abs().max()) / (max(scale, floor) or 1.0)
        if math.isnan(difference):
            return float("inf")
        worst = max(worst, difference)
    return worst


def _tensors(value: Any) -> list[Tensor]:
    return [tensor.detach().double() for tensor in tensors_in(value)]


def _first_difference(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> str:
    """Return the first layer that makes channels whose kept channels differ between the two networks."""
    keep = graph.kept(plan)
    with masked(model, graph, plan):
        expected = _outputs(model, graph, inputs)
    found = _outputs(thin, graph, inputs)
    for name, wanted in expected.items():
        got = found.get(name)
        units = graph.tensors[f"{name}.weight"][1][graph.roles[f"{name}.weight"].index("makes")]
        if got is None:
            return name
        # linear layers put their channels last, convolutions after the batch
        dim = wanted.dim() - 1 if isinstance(model.get_submodule(name), nn.Linear) else min(1, wanted.dim() - 1)
        if units is not None and len(units) == wanted.shape[dim]:
            wanted = wanted.index_select(dim, torch.nonzero(staying(units, keep)).flatten().to(wanted.device))
        if relative_difference(wanted, got) > TOLERANCE:
            return name
    return "the output"


def _outputs(model: nn.Module, graph: Graph, inputs: Inputs) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: outputs.setdefault(name, o.detach()))
        for name, module in model.named_modules()
        if "makes" in graph.roles.get(f"{name}.weight", ())
    ]
    try:
        run(model, inputs)
    except ModelError:
        pass  # the layers before the failure are what we came for
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
