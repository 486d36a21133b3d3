"""Prune a network of the zoo by Torch-Pruning, and decide by its values whether what is left is exact."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.surgery import run
from secateur.core.trace import trace
from zoo_memory import peak_of
from zoo_networks import network

EXACT = 1e-4  # relative
Row = dict[str, Any]


def torch_pruning(kind: str, name: str) -> Row:
    import torch_pruning as tp

    model, inputs = network(kind, name)
    model, inputs = (
        model.double(),
        tuple(x.double() if isinstance(x, Tensor) else [y.double() for y in x] for x in inputs),
    )
    with torch.no_grad():
        for parameter in model.parameters():  # no two alike, so that each can be told by its value
            parameter.add_(torch.rand_like(parameter) * 1e-9)
    forward = peak_of(lambda: run(model, inputs))
    times: dict[str, float] = {}
    ends = outputs_of(kind, model, inputs)

    def prune() -> nn.Module:
        start = time.process_time()
        thin = copy.deepcopy(model)
        keep_whole = [new for old, new in zip(model.modules(), thin.modules(), strict=True) if old in ends]
        pruner = tp.pruner.MagnitudePruner(
            thin, inputs if len(inputs) > 1 or not isinstance(inputs[0], Tensor) else inputs[0],
            importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=keep_whole,
        )  # fmt: skip
        times["graph"] = time.process_time() - start
        pruner.step()
        times["prune"] = time.process_time() - start
        return thin

    thin, peak = peak_of(prune)
    found: Row = {**times, "seconds": times["prune"], "peak": peak, "forward": forward[1]}
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, thin))
    outputs = floats(run(thin, inputs))
    if before == after:
        return {**found, "outcome": "nothing"}
    silence(model, thin)
    expected = floats(run(model, inputs))
    same = [a.shape == b.shape for a, b in zip(expected, outputs, strict=True)]
    difference = max(
        (float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(expected, outputs, strict=True)),
        default=0.0,
    ) if all(same) else float("inf")  # fmt: skip
    outcome = "exact" if difference <= EXACT else "differs"
    return {**found, "outcome": outcome, "difference": difference, "params_kept": after / before}


def outputs_of(kind: str, model: nn.Module, inputs: tuple[Any, ...]) -> set[nn.Module]:
    """Return the layers that Torch-Pruning is told to leave alone, because their channels are answers.

    Networks with several answers get the benefit of all layers that Secateur knows to be pinned.
    """
    if kind in ("detection", "segmentation", "flow"):
        return {model.get_submodule(row.layer) for row in trace(model, inputs).explain().rows if not row.prunable}
    return {[m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]}


def floats(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def silence(dense: nn.Module, thin: nn.Module) -> None:
    """Zero the weights of the dense network that read an input which the thin one lost; found by their values."""
    left = dict(thin.named_parameters())
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            few = left.get(name)
            if few is None or weight.dim() < 2 or few.shape == weight.shape or few.shape[1] == weight.shape[1]:
                continue
            first = weight.reshape(*weight.shape[:2], -1)[:, :, 0]
            place = torch.isin(first, few.reshape(*few.shape[:2], -1)[:, :, 0])
            lost = ~place.any(0)
            weight[:, lost] = 0.0
