"""Attributes that say how wide a module is, for methods other than its forward, such as ``fuse()``.

The forward of a thin network is right without them, so nothing forces them to follow, and nothing but their name says
what they mean. They are changed only where the name is one that the field uses for this, the forward does not look at
it, and the width can be one thing only: all the layers inside that are as wide lose the same channels, or another
forward of the class computes what the forward does with one width alone.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.attention import is_attention
from secateur.core.graph import Graph, Role, staying
from secateur.core.layer_families import CONVOLUTIONS
from secateur.core.surgery.attributes import INDIRECT, Number, assign, mentioned, numbers
from secateur.core.zeros.blocks import BlockLayer

ENTERING = frozenset(
    {"in_channels", "in_features", "in_planes", "in_chs", "in_dim", "in_ch", "inplanes", "input_dim", "inp", "c1"}
)
LEAVING = frozenset(
    {"out_channels", "out_features", "out_planes", "out_chs", "out_dim", "out_ch", "output_dim", "oup", "c2"}
)
EITHER = frozenset({"channels", "num_channels", "num_features", "planes", "dim", "embed_dim", "c"})
_SIDE = 8  # of the maps on which two forwards are compared
_EQUAL = 1e-4  # relative to the largest value, in float32


@dataclass(frozen=True)
class _Width:
    """A dimension inside a module: its role, its old and new size, and the units that it holds (none if it stays).

    The units are those of a graph, position by position, as bytes: they are only compared.
    """

    role: Role
    old: int
    new: int
    units: bytes


def follow_widths(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    """Set attributes that name a width of the thin network, where it is certain which.

    Args:
        thin: a network that runs after the cut, changed in place.
        graph: of the network before the cut.
        keep: the units that stay.
    """
    counted: dict[bytes, int] = {}
    widths = {name: list(_widths(graph, name, keep, counted)) for name in graph.tensors}
    above: dict[str, frozenset[str]] = {"": frozenset()}
    known: dict[type, frozenset[str]] = {}
    for name, module in thin.named_modules():
        parent = name.rpartition(".")[0]
        names = above.get(parent, frozenset()) if name else frozenset[str]()
        kind = type(module)
        own = known[kind] = known.get(kind) or mentioned(kind)
        above[name] = names | own
        if (
            isinstance(module, BlockLayer)
            or is_attention(module)
            or type(module).__module__.startswith("torch.")
            or own & INDIRECT
        ):
            continue
        for number in _named(module):
            if number.name in own or number.name in names:
                continue
            inside = _inside(thin, name, widths, graph)
            new = _only(number, inside) or _proved(module, number, inside)
            if new:
                assign(module, {number: new})


def _named(module: nn.Module) -> list[Number]:
    return [n for n in numbers(module) if not n.path and n.name in ENTERING | LEAVING | EITHER and n.value > 1]


def _widths(graph: Graph, tensor: str, keep: Tensor, counted: dict[bytes, int]) -> Iterator[_Width]:
    shape, axes = graph.tensors[tensor]
    for role, size, units in zip(graph.roles.get(tensor, ("scales",) * len(shape)), shape, axes, strict=True):
        yield _width(role, size, units, keep, counted)
    layer, _, leaf = tensor.rpartition(".")
    if layer in graph.convolutions and leaf == "weight":  # the weight says only how wide one of its groups is
        units = graph.convolutions[layer]
        yield _width("reads", len(units), units, keep, counted)


def _width(role: Role, size: int, units: Tensor | None, keep: Tensor, counted: dict[bytes, int]) -> _Width:
    if units is None:
        return _Width(role, size, size, b"")
    named = units.numpy().tobytes()
    if named not in counted:  # most stand in a weight, a bias and a norm
        counted[named] = int(staying(units, keep).sum())
    return _Width(role, size, counted[named], named)


def _inside(thin: nn.Module, name: str, widths: dict[str, list[_Width]], graph: Graph) -> list[_Width]:
    """Return the widths of all that the module holds; what did not run keeps its own."""
    begin = f"{name}." if name else ""
    found = [width for tensor, each in widths.items() if tensor.startswith(begin) for width in each]
    module = thin.get_submodule(name)
    for leaf, tensor in (*module.named_parameters(), *module.named_buffers()):
        if begin + leaf not in graph.tensors:
            found += [_Width("reads", size, size, b"") for size in tensor.shape]
            found += [_Width("makes", size, size, b"") for size in tensor.shape]
    return found


def _only(number: Number, inside: Sequence[_Width]) -> int | None:
    """Return the new width if all that is as wide as the number says, on its side, holds the same units."""
    roles = {"reads"} if number.name in ENTERING else {"makes", "scales"} if number.name in LEAVING else None
    equal = {(w.units, w.new) for w in inside if w.old == number.value and (roles is None or w.role in roles)}
    if len(equal) != 1:
        return None
    units, new = equal.pop()
    return new if units else None


def _proved(module: nn.Module, number: Number, inside: Sequence[_Width]) -> int | None:
    """Return the one width with which another forward of the class computes what the forward computes."""
    others = [name for name in dir(type(module)) if name.startswith("forward_") and _is_other(module, name, number)]
    values = sorted({w.new for w in inside if w.old == number.value} | {number.value})
    if not others or values == [number.value]:
        return None
    twin = copy.deepcopy(module).eval()
    for part in twin.modules():  # what users hang on to layers is not for runs of ours
        part._forward_hooks.clear()  # pyright: ignore[reportPrivateUsage]
        part._forward_pre_hooks.clear()  # pyright: ignore[reportPrivateUsage]
    given = _input(twin)
    expected = None if given is None else _output(twin, "forward", given)
    if expected is None:
        return None
    fitting: list[int] = []
    for value in values:
        assign(twin, {number: value})
        if any(_agree(expected, _output(twin, name, given)) for name in others):
            fitting.append(value)
    return fitting[0] if len(fitting) == 1 and fitting[0] != number.value else None


def _is_other(module: nn.Module, name: str, number: Number) -> bool:
    """Tell whether a method looks at the attribute and takes what the forward takes."""
    kind = type(module)
    if number.name not in mentioned(kind, name):
        return False
    try:
        one, other = (inspect.signature(getattr(kind, each)).parameters for each in ("forward", name))
    except (TypeError, ValueError):
        return False
    return list(one) == list(other)


def _input(module: nn.Module) -> Tensor | None:
    """Return maps that are as wide as the first convolution takes them, which most often is that of the input."""
    first = next((layer for layer in module.modules() if isinstance(layer, CONVOLUTIONS)), None)
    if first is None:
        return None
    numbers_of = torch.Generator().manual_seed(0)
    shape = (2, first.in_channels, *[_SIDE] * (first.weight.dim() - 2))
    return torch.randn(shape, generator=numbers_of).to(first.weight)


def _output(module: nn.Module, name: str, given: Any) -> Tensor | None:
    with contextlib.suppress(Exception), torch.no_grad():  # whatever the code raises that is given a wrong width
        made = getattr(module, name)(given)
        return made if isinstance(made, Tensor) else None
    return None


def _agree(one: Tensor, other: Tensor | None) -> bool:
    if other is None or one.shape != other.shape:
        return False
    return float((one - other).abs().max()) <= _EQUAL * float(one.abs().max())
