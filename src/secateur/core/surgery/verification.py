"""Does the thin network compute what the silenced original computes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.graph import Graph, staying
from secateur.core.plan import Plan
from secateur.core.surgery.forward import Inputs, run
from secateur.core.surgery.silence import masked
from secateur.errors import ModelError

TOLERANCE = 1e-4  # relative, in float32; see Verification


@dataclass(frozen=True)
class Verification:
    """How far the thin network is from the silenced original.

    Attributes:
        difference: largest absolute difference of the outputs, relative to their largest absolute value.
        exact: whether that is within rounding (1e-4 in float32).
        layer: the first layer whose output differs; empty if exact.
    """

    difference: float
    exact: bool
    layer: str = ""


def verify(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> Verification:
    """Compare the thin network with the silenced original on the given inputs, in evaluation mode.

    Args:
        model: the dense network, left as it was.
        graph: its graph.
        plan: what was removed.
        thin: what ``apply`` returned.
        inputs: any inputs that the network accepts.

    Raises:
        ModelError: if one of the networks does not run.
    """
    with masked(model, graph, plan):
        expected = run(model, inputs)
    found = run(thin, inputs)
    difference = relative_difference(expected, found)
    if difference <= TOLERANCE:
        return Verification(difference, True)
    return Verification(difference, False, _first_difference(model, graph, plan, thin, inputs))


def relative_difference(expected: Any, found: Any) -> float:
    """Return the largest absolute difference over all output tensors, relative to the largest expected value."""
    pairs = list(zip(_tensors(expected), _tensors(found), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    scale = max((float(a.abs().max()) for a, _ in pairs if a.numel()), default=0.0)
    worst = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    if worst != worst:
        return float("inf")
    return worst / scale if scale > 0 else worst


def _tensors(value: Any) -> list[Tensor]:
    opened = vars(value) if hasattr(value, "__dict__") and not isinstance(value, (Tensor, dict)) else value
    return [t.detach().double() for t in tree_leaves(opened) if isinstance(t, Tensor)]


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
        dim = 1 if wanted.dim() >= 4 else wanted.dim() - 1
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
