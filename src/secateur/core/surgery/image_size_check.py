"""Does the thin network compute what it should on inputs of other sizes than those of the example?

Code that compares a width with the size of an image or a batch (``min(x.shape)``, ``if len(x) > x.shape[1]``) takes
another way in a thinner network, on some sizes only: those between the two widths.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.code.written_numbers import call_name
from secateur.core.graph import Graph
from secateur.core.interrupts import deferred
from secateur.core.plan import Plan
from secateur.core.surgery.batch_size_check import agrees_on, one_by_one, repeated
from secateur.core.surgery.forward import Inputs, describe, run
from secateur.core.torch_modes import FunctionMode

_MOST = 1.0  # times the elements of the example (channels aside) that a further input may have ...
_FREE = 2**13  # ... or so many, where even that costs next to nothing
_MULTIPLE = 32  # of which sizes stay multiples where those of the example are, for networks that halve them so often
_SHORTER, _LONGER, _HALF = 0.75, 1.5, 0.5
_ASKING = frozenset(
    {"size", "numel", "nelement", "__len__", "__iter__", "split", "split_with_sizes", "chunk", "unbind", "tensor_split",
     "stride", "storage_offset", "nbytes", "_shape_as_tensor", "unsafe_split", "unsafe_chunk", "tolist", "numpy",
     "__array__"}
)  # fmt: skip
_SHAPES = tuple(vars(torch._C.TensorBase)[name] for name in ("shape", "nbytes"))  # pyright: ignore[reportPrivateUsage]
_BETWEEN = ("torch.overrides", "torch._tensor", "torch.functional")  # of methods that torch writes in Python


@dataclass(frozen=True)
class Size:
    """How many inputs there are, and how long they are along the dimensions behind the channels."""

    count: int
    lengths: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements of one channel."""
        return self.count * math.prod(self.lengths)


@dataclass(frozen=True)
class Spot:
    """A layer that has lost channels: how many it had, how many it has, and how long the map is that it makes."""

    before: int
    after: int
    length: int

    def flips(self, length: float) -> bool:
        """Whether a size lies between both widths, so that a comparison with it turns out otherwise."""
        return self.after < length < self.before


def check_sizes(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, *, asked: bool | None = None
) -> None:
    """Run the thin network on inputs of other sizes, and on more of them, where the dense one can do so.

    Inputs that would cost much more than the example are left out. So are all where no code but that of torch looks
    at a size: it takes the same way whatever the sizes are.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network on the inputs.
        inputs: the example.
        asked: whether code that is not torch's looks at sizes, see ``SizesAsked``; None: not known yet.

    Raises:
        CutError: if the thin network does not run, or computes something else than the silenced one.
    """

    def agrees(size: Size, start: int) -> bool:
        other, times = resized(inputs, size, start), Fraction(size.count, size_of(inputs, start).count)
        return agrees_on(model, graph, plan, thin, other, f"inputs of other sizes ({describe(other)})", times)

    if not (looks_at_sizes(thin, inputs) if asked is None else asked):
        return
    more = False
    for start in starts(inputs):
        size = size_of(inputs, start)
        even = next((even for even in (False, True) if agrees(_reshaped(size, even=even), start)), None)
        if even is not None:
            sizes = others(size, _spots(graph, thin, inputs, start), even=even)
            ran = [other for other in sizes if agrees(other, start)]
            more = any(other.count > size.count for other in ran)
            break
    if not more:
        many = repeated(inputs, 3)
        if many is not None and not one_by_one(thin, inputs, many):
            agrees_on(model, graph, plan, thin, many, "three times as many of them", Fraction(3))


class SizesAsked(FunctionMode):
    """Hears whether code that is not torch's looks at the size of a tensor, or takes one apart along a dimension.

    To be entered after all other modes, which would ask for the code.

    Attributes:
        asked: whether any has.
    """

    asked = False

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self.asked and (call_name(func) in _ASKING or getattr(func, "__self__", None) in _SHAPES):
            frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
            while frame.f_back is not None and frame.f_globals.get("__name__", "") in _BETWEEN:
                frame = frame.f_back
            self.asked = not frame.f_globals.get("__name__", "").startswith("torch.")
        return func(*args, **named)


def looks_at_sizes(model: nn.Module, inputs: Inputs) -> bool:
    """Run a network and tell whether its code, other than that of torch, can know a size."""
    with SizesAsked() as sizes:
        run(model, inputs)
    return sizes.asked


def starts(inputs: Inputs) -> tuple[int, ...]:
    """Return the dimension, or several to try, from which on the first tensor has sizes that may be others."""
    first = _first(inputs)
    if first is None or first.dim() < 2:
        return ()
    if first.dim() == 2:
        return () if first.is_floating_point() else (1,)
    return (2, 1) if first.dim() == 3 else (2,)


def _first(inputs: Inputs) -> Tensor | None:
    return next(
        (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.numel() and leaf.dim()), None
    )


def size_of(inputs: Inputs, start: int) -> Size:
    """Return the size of the first tensor; ``start`` as of ``starts``."""
    first = _first(inputs)
    assert first is not None
    return Size(first.shape[0], tuple(first.shape[start:] if start == 2 else first.shape[1:2]))


def resized(inputs: Inputs, size: Size, start: int) -> Inputs:
    """Return inputs of another size, which repeat the given ones; tensors change that are as large as the first."""
    old = size_of(inputs, start)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        lengths = tuple(leaf.shape[start : start + len(old.lengths)])
        begin = start if lengths == old.lengths else leaf.dim() - len(old.lengths)
        if begin > 0 and tuple(leaf.shape[begin : begin + len(old.lengths)]) == old.lengths:
            for dim, length in enumerate(size.lengths, begin):
                leaf = _of_length(leaf, dim, length)
        return _of_length(leaf, 0, size.count) if leaf.shape[0] == old.count else leaf

    return cast(Inputs, tree_map(other, inputs))


def _of_length(tensor: Tensor, dim: int, length: int) -> Tensor:
    places = torch.arange(length, device=tensor.device) % tensor.shape[dim]
    return tensor if length == tensor.shape[dim] else tensor.index_select(dim, places)


def _reshaped(size: Size, *, even: bool) -> Size:
    """Return a size that is longer along the first dimension and shorter along others; shorter along all if even."""
    first = down(size.lengths[0], _SHORTER) if even else up(size.lengths[0], _LONGER)
    return Size(size.count, (first, *(down(length, _SHORTER if even else _HALF) for length in size.lengths[1:])))


def others(size: Size, spots: Sequence[Spot], *, even: bool = False) -> list[Size]:
    """Return further sizes that cost little: a larger batch, longer ones, and some between the widths before and after.

    Args:
        size: of the example.
        spots: the layers that have lost channels.
        even: whether all lengths must be equal.
    """
    most = max(_MOST * size.elements, _FREE)
    longer = tuple(up(length, 2.0 if even or not place else _LONGER) for place, length in enumerate(size.lengths))
    found = [size, _reshaped(size, even=even), Size(size.count, longer), Size(2 * size.count, longer)]
    found[2:] = [each for each in found[2:] if each.elements <= _FREE]
    scale = 1 / size.lengths[0]
    left = [spot for spot in spots if not any(spot.flips(spot.length * scale * each.lengths[0]) for each in found)]
    middles = [(spot.after + spot.before) / 2 / spot.length for spot in left if spot.length]
    lengths = [near(size.lengths[0], times) for times in middles for near in (up, down)]
    between = [Size(count, (each,) * len(size.lengths)) for each in lengths for count in (3 * size.count, size.count)]
    found += _most_telling(
        [each for each in between if each.elements <= most],
        lambda each: (sum(spot.flips(spot.length * scale * each.lengths[0]) for spot in left), each.count),
    )
    short = tuple(down(length, _HALF) for length in size.lengths)
    if not any(each.count > 2 * size.count for each in found):
        found.append(Size(3 * size.count, short))
    left = [spot for spot in spots if not any(spot.flips(each.count) for each in found)]
    batches = [Size((spot.after + spot.before) // 2, short) for spot in left]
    found += _most_telling(
        [each for each in batches if each.elements <= _FREE],
        lambda each: (sum(spot.flips(each.count) for spot in left), 0),
    )
    return found[2:]


def _most_telling(sizes: Sequence[Size], told: Callable[[Size], tuple[int, int]]) -> list[Size]:
    """Return the size that tells most, of several the smallest; none if none tells anything."""
    best = max(sizes, key=lambda size: (*told(size), -size.elements), default=None)
    return [best] if best is not None and told(best)[0] else []


def up(length: int, times: float) -> int:
    """Return about so many times a length, not less, and a multiple of what networks divide the length by."""
    unit = math.gcd(length, _MULTIPLE)
    return math.ceil(length * times / unit) * unit


def down(length: int, times: float) -> int:
    """Return about so many times a length, not more but at least 1, see ``up``."""
    unit = math.gcd(length, _MULTIPLE)
    while unit > 1 and length * times < unit:
        unit //= 2
    return max(1, int(length * times) // unit * unit)


def _spots(graph: Graph, thin: nn.Module, inputs: Inputs, start: int) -> list[Spot]:
    """Run the thin network and return the layers that have lost channels."""
    found: dict[Spot, None] = {}

    def made(module: nn.Module, given: object, output: object) -> None:
        before, after = widths[module]
        if isinstance(output, Tensor) and output.dim() > 2:
            found[Spot(before, after, output.shape[1 if isinstance(module, nn.Linear) else start])] = None

    widths: dict[nn.Module, tuple[int, int]] = {}
    for name, module in thin.named_modules():
        tensor, roles = f"{name}.weight", graph.roles.get(f"{name}.weight", ())
        weight = getattr(module, "weight", None)
        if "makes" in roles and isinstance(weight, Tensor):
            dim = roles.index("makes")
            before, after = graph.tensors[tensor][0][dim], weight.shape[dim]
            if after < before:
                widths[module] = (before, after)
    hooks = [module.register_forward_hook(made) for module in widths]
    try:
        run(thin, inputs)
    finally:
        with deferred:
            for hook in hooks:
                hook.remove()
    return list(found)
