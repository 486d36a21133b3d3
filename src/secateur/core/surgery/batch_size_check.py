"""Does the thin network run on other numbers of inputs than that of the example?"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.channel_statistics import Fitting
from secateur.core.graph import Graph
from secateur.core.module_calls import ModuleStack
from secateur.core.plan import Plan
from secateur.core.surgery.forward import Inputs, count_of, finite, listed, run, tensors_in
from secateur.core.surgery.verification import TOLERANCE, relative_difference, verify
from secateur.errors import CutError, ModelError


def other_batches(inputs: Inputs) -> list[Inputs]:
    """Return the same inputs in other numbers: the first of several alone, and all of them twice.

    All tensors count as a batch that have as many entries in their first dimension as the first tensor.
    """
    twice = repeated(inputs, 2)
    if twice is None:
        return []
    images = listed(inputs)
    if images is not None and len(images) > 1:
        return [(images[:1],), twice]
    return [twice] if _count(inputs) == 1 else [_each(inputs, lambda leaf: leaf[:1]), twice]


def repeated(inputs: Inputs, times: int) -> Inputs | None:
    """Return all inputs several times in one batch, see ``other_batches``; None if there are none."""
    images = listed(inputs)
    if images is not None:
        return (images * times,)
    if not any(isinstance(leaf, Tensor) and leaf.dim() and leaf.numel() for leaf in tree_leaves(inputs)):
        return None
    return _each(inputs, lambda leaf: torch.cat([leaf] * times))


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    count = _count(inputs)

    def other(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == count else leaf

    return cast(Inputs, tree_map(other, inputs))


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
        if one_by_one(thin, inputs, other, outputs):
            return
        times = Fraction(_count(other), _count(inputs))
        if agrees_on(model, graph, plan, thin, other, f"{_count(other)} of them", times):
            return


def agrees_on(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, other: Inputs, what: str, times: Fraction
) -> bool:
    """Tell whether the thin network agrees with the silenced one on other inputs; False if they cannot be compared.

    So it is where the dense one does not run or puts out no numbers, such as a spread over a batch of one, and where
    pixels lie beside channels in one dimension, of which others are then to be silenced.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network on the example.
        other: the other inputs.
        what: they are, in a message.
        times: how many times as many they are as in the example.

    Raises:
        CutError: if the thin network does not run, or computes something else than the silenced one.
    """
    place = ""
    try:
        found = verify(model, graph, plan, thin, other)
        if found.exact:
            return True
        place = found.layer
        trouble = f"it differs by {found.difference:.2g} (relative), first at '{place}'"
    except CutError as error:
        trouble, place = str(error), error.place
    except ModelError:
        return False
    if not _comparable(model, graph, other, times):
        return False
    raise CutError(
        f"the pruned network computes what it should on the example inputs but not on {what}, as the dense one does: "
        f"{trouble}; nothing was written. Take sizes in its code from the input's shape, the batch's too, and let no "
        "other size decide about widths",
        place,
    )


def _comparable(model: nn.Module, graph: Graph, other: Inputs, times: Fraction) -> bool:
    stack = ModuleStack(model)
    try:
        with stack, Fitting(stack, graph.statistics, times) as fitting:
            outputs = run(model, other)
    except ModelError:
        return False
    tensors = tensors_in(outputs)
    known = graph.outputs if len(graph.outputs) == len(tensors) else ()
    axes = [(tensor.shape[d], len(u)) for out, tensor in zip(known, tensors, strict=False) for d, u in out.axes]
    return fitting.fit and finite(outputs) and all(now in (size, size * times) for now, size in axes)


def one_by_one(thin: nn.Module, inputs: Inputs, other: Inputs, outputs: Any = None) -> bool:
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
    return count_of(inputs) or 0
