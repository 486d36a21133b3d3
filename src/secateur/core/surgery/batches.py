"""Does the thin network run on other numbers of inputs than that of the example?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery.forward import Inputs, finite, run, tensors_in
from secateur.core.surgery.verification import TOLERANCE, relative_difference, verify
from secateur.errors import CutError, ModelError


def other_batches(inputs: Inputs) -> list[Inputs]:
    """Return the same inputs in other numbers: the first of several alone, and all of them twice.

    All tensors count as a batch that have as many entries in their first dimension as the first tensor.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim() and leaf.numel()]
    if not tensors:
        return []
    count = tensors[0].shape[0]

    def each(change: Callable[[Tensor], Tensor]) -> Inputs:
        def other(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == count else leaf

        return cast(Inputs, tree_map(other, inputs))

    twice = each(lambda leaf: torch.cat([leaf, leaf]))
    return [twice] if count == 1 else [each(lambda leaf: leaf[:1]), twice]


def check_batches(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, outputs: Any = None
) -> None:
    """Run the thin network on another number of inputs, if the dense one can do so.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network on the inputs.
        inputs: the example.
        outputs: of the thin network for them, if they are known.

    Raises:
        CutError: if the thin network does not run, or computes something else than the silenced one.
    """
    for other in other_batches(inputs):
        if _one_by_one(thin, inputs, other, outputs):
            return
        with contextlib.suppress(ModelError):  # where the dense one does not run either, that is no fault of the cut
            if not finite(run(model, other)):  # such as a spread over a batch of one
                continue
            _compare(model, graph, plan, thin, other)
            return


def _compare(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, other: Inputs) -> None:
    try:
        found = verify(model, graph, plan, thin, other)
        trouble = "" if found.exact else f"it differs by {found.difference:.2g} (relative), first at '{found.layer}'"
    except (CutError, ModelError) as error:
        trouble = str(error)
    if trouble:
        raise CutError(
            f"the pruned network computes what it should on the example inputs but not on {_count(other)} of them, as "
            f"the dense one does: {trouble}; nothing was written. Take sizes in its code from the input's shape, the "
            "batch's too"
        )


def _one_by_one(thin: nn.Module, inputs: Inputs, other: Inputs, outputs: Any) -> bool:
    """Whether each input gives the same outputs whatever is beside it: then the dense network need not run."""
    try:
        there = tensors_in(run(thin, other))
        here = tensors_in(run(thin, inputs) if outputs is None else outputs)
    except ModelError:
        return False
    more = _count(other) > _count(inputs)
    few, many = (here, there) if more else (there, here)
    times = _count(other) // _count(inputs) if more else _count(inputs)
    if not few or len(few) != len(many):
        return False
    return all(
        a.dim() > 0 and b.dim() > 0 and b.shape[0] == times * a.shape[0] and _repeats(a, b, more)
        for a, b in zip(few, many, strict=True)
    )


def _repeats(a: Tensor, b: Tensor, everywhere: bool) -> bool:
    """Whether a batch begins with the outputs of fewer inputs, or consists of nothing else."""
    blocks = b.split(len(a)) if everywhere and len(a) else (b[: len(a)],)
    return all(relative_difference(a, block) <= TOLERANCE for block in blocks)


def _count(inputs: Inputs) -> int:
    return next(leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim())
