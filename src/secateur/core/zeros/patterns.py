"""Zeros by pattern: whole kernels, regular positions inside kernels, single weights, N of every M.

A *kernel* is the small window of weights by which one output map reads one input map. All functions here make
``ZeroWeights`` edits or the boolean masks (True = keep) that go into them; nothing is removed for real.

Source of the granularities: Anwar, Sung, "Coarse Pruning of Convolutional Neural Networks with Random Masks", 2017;
of the strided pattern: Anwar, Hwang, Sung, "Structured Pruning of Deep Convolutional Neural Networks", 2017.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.core.graph import Graph, Group, layer_of, maker_of
from secateur.core.plan import ZeroWeights
from secateur.errors import PlanError, SettingError

Polarity = Literal["keep", "drop"]


def stem_of(graph: Graph) -> str:
    """Return the name of the first convolution's weight, in the order of execution; empty if there is none."""
    return next((n for n, roles in graph.roles.items() if "makes" in roles and len(graph.tensors[n][0]) > 2), "")


def maskable(graph: Graph, *, stem: bool = False, linear: bool = False, mapwise: bool = False) -> tuple[str, ...]:
    """Return the weights that patterns may thin out, in the order of execution.

    Depthwise convolutions are not among them, since a kernel of theirs is a whole map, nor are layers that make a
    group which is left alone. A first convolution that reads grey images looks like one and is not.

    Args:
        graph: the network.
        stem: whether the first convolution is among them.
        linear: whether linear layers are.
        mapwise: only those whose input maps have a dimension of the weight to themselves, which is not known of
            convolutions that lose whole groups of channels.
    """
    first = stem_of(graph)
    left = {layer for group in graph.groups if group.name in graph.left for layer in group.layers}
    return tuple(
        name
        for name, roles in graph.roles.items()
        if "makes" in roles
        and ("reads" in roles or (not mapwise and (name == first or layer_of(name) in graph.convolutions)))
        and name in graph.parameters
        and (stem or name != first)
        and (linear or len(graph.tensors[name][0]) > 2)
        and maker_of(name) not in left
    )


def map_groups(graph: Graph, *, stem: bool = False, linear: bool = False) -> list[Group]:
    """Return the groups of feature maps that may go.

    Args:
        graph: the network.
        stem: whether those are among them that the first convolution makes.
        linear: whether the units of linear layers are.
    """
    first = maker_of(stem_of(graph))
    return [
        group
        for group in graph.free
        if (stem or first not in group.layers)
        and (linear or any(len(graph.tensors[m.tensor][0]) > 2 for m in group.members if m.role == "makes"))
    ]


def by_kernel(values: Tensor) -> Tensor:
    """Return what has the shape of a weight by its kernels, (rows, columns, positions); linear layers have one each."""
    return values.reshape(*values.shape[:2], -1)


def kernel_mask(shape: tuple[int, ...], keep: Tensor) -> Tensor:
    """Spread a choice of kernels over their weights.

    Args:
        shape: of the weight, kernels along its first two dimensions.
        keep: ``shape[:2]``, boolean.

    Raises:
        PlanError: if the choice is of a layer with other numbers of maps.
    """
    if tuple(keep.shape) != tuple(shape[:2]):
        raise PlanError(
            f"the choice of kernels has shape {tuple(keep.shape)} where the weight has {tuple(shape[:2])} kernels; "
            "is it of another layer?"
        )
    return keep.reshape(*shape[:2], *[1] * (len(shape) - 2)).expand(shape)


def stride_mask(window: tuple[int, ...], stride: int, offset: int, polarity: Polarity = "keep") -> Tensor:
    """Return the mask of one kernel: every ``stride``-th position from ``offset`` on is kept, or dropped.

    Positions are counted row by row.

    Args:
        window: height and width of the kernel (any number of dimensions).
        stride: 2 or more, at most the number of positions.
        offset: of the first position, below the stride.
        polarity: what happens to the positions hit: ``keep`` drops all others, ``drop`` drops only these.

    Raises:
        SettingError: if stride or offset do not fit the kernel.
    """
    check_stride(window, stride)
    if polarity not in get_args(Polarity):
        raise SettingError(f"unknown polarity '{polarity}'; choose keep or drop")
    if not 0 <= offset < stride:
        raise SettingError(f"offset {offset} does not fit stride {stride}: it must lie in 0 to {stride - 1}")
    hit = torch.arange(math.prod(window)) % stride == offset
    return (hit if polarity == "keep" else ~hit).reshape(window)


def check_stride(window: tuple[int, ...], stride: int, where: str = "") -> None:
    """Refuse a stride that does not fit a kernel.

    Raises:
        SettingError: saying which would.
    """
    size = math.prod(window)
    if not 2 <= stride <= size:
        text, of = "x".join(map(str, window)), f" of '{where}'" if where else ""
        raise SettingError(f"stride {stride} does not fit the {text} kernels{of}: it must lie in 2 to {size}")


def strided_mask(graph: Graph, name: str, stride: int, offsets: Tensor, polarity: Polarity = "keep") -> Tensor:
    """Return the mask of a convolution in which all kernels that leave an input map share one strided pattern.

    Args:
        graph: the network.
        name: of the weight.
        stride: see ``stride_mask``.
        offsets: ``(input maps,)``, one for each.
        polarity: see ``stride_mask``.

    Raises:
        SettingError: if the stride does not fit the kernels.
        PlanError: if there is not one offset for each input map.
    """
    shape, groups = graph.tensors[name][0], groups_of(graph, name)
    window = tuple(shape[2:])
    check_stride(window, stride, layer_of(name))
    if len(offsets) != input_maps(graph, name):
        raise PlanError(
            f"'{layer_of(name)}' reads {input_maps(graph, name)} maps, but {len(offsets)} offsets are given"
        )
    patterns = torch.stack([stride_mask(window, stride, offset, polarity) for offset in range(stride)])
    chosen = patterns[offsets]
    if graph.roles[name].index("reads") == 0:  # transposed: each row is an input map
        return chosen.unsqueeze(1).expand(shape)
    rows = shape[0] // groups
    return chosen.reshape(groups, 1, shape[1], *window).expand(groups, rows, shape[1], *window).reshape(shape)


def groups_of(graph: Graph, name: str) -> int:
    """Return the number of groups of a convolution; 1 for transposed ones, whose rows are input maps anyway."""
    inputs = graph.convolutions.get(layer_of(name))
    if inputs is None or graph.roles[name].index("reads") == 0:
        return 1
    return len(inputs) // graph.tensors[name][0][1]


def input_maps(graph: Graph, name: str) -> int:
    """Return the number of maps that a convolution reads."""
    shape, dim = graph.tensors[name][0], graph.roles[name].index("reads")
    return shape[0] if dim == 0 else shape[1] * groups_of(graph, name)


def draw_kept(total: int, count: int, gone: Tensor, rng: torch.Generator) -> Tensor:
    """Choose at random which of ``total`` things stay when ``count`` of them go.

    Args:
        total: how many there are.
        count: how many go, those included that have gone already.
        gone: ``(total,)`` boolean; what has gone already.
        rng: the randomness.

    Returns:
        ``(total,)`` boolean.
    """
    keep = ~gone
    left = torch.nonzero(keep).flatten()
    more = max(0, count - (total - len(left)))
    keep[left[torch.randperm(len(left), generator=rng)[:more]]] = False
    return keep


def draw_kernels(graph: Graph, name: str, count: int, rng: torch.Generator, weight: Tensor) -> ZeroWeights:
    """Drop so many of a layer's kernels at random, any pattern; those that are zero already count first."""
    shape = graph.tensors[name][0]
    gone = by_kernel(weight.detach().cpu() == 0).all(2).flatten()
    keep = draw_kept(len(gone), count, gone, rng)
    return ZeroWeights.of(name, kernel_mask(shape, keep.reshape(shape[:2])))


def draw_weights(graph: Graph, name: str, count: int, rng: torch.Generator, weight: Tensor) -> ZeroWeights:
    """Drop so many of a layer's single weights at random; those that are zero already count first."""
    gone = (weight.detach().cpu() == 0).flatten()
    return ZeroWeights.of(name, draw_kept(len(gone), count, gone, rng).reshape(graph.tensors[name][0]))


def draw_strided(
    graph: Graph, name: str, stride: int, rng: torch.Generator, polarity: Polarity, *, even: bool = False
) -> ZeroWeights | None:
    """Draw an offset for every input map of a layer; None if its kernels are single weights.

    Offsets do not all keep as many positions; with ``even`` each is as frequent as the others, as far as the number of
    maps goes, so that all draws of a layer keep as much.
    """
    window = tuple(graph.tensors[name][0][2:])
    if math.prod(window) == 1:
        return None
    maps = input_maps(graph, name)
    offsets = torch.randperm(maps, generator=rng) % stride if even else torch.randint(stride, (maps,), generator=rng)
    return ZeroWeights.of(name, strided_mask(graph, name, stride, offsets, polarity))


def draw_n_of_m(graph: Graph, name: str, n: int, m: int, rng: torch.Generator) -> ZeroWeights | None:
    """Keep a random N of every M weights that follow each other along the inputs of an output, at each position.

    Returns:
        The edit; None if the number of inputs is not a multiple of M, as sparse tensor cores require.

    Raises:
        SettingError: if not 1 <= N < M.
    """
    check_n_of_m(n, m)
    shape, dim = graph.tensors[name][0], graph.roles[name].index("reads")
    if shape[dim] % m:
        return None
    runs = [*shape[:dim], *shape[dim + 1 :], shape[dim] // m]
    order = torch.rand(*runs, m, generator=rng).argsort(-1)
    return ZeroWeights.of(name, (order < n).flatten(-2).movedim(-1, dim))


def check_n_of_m(n: int, m: int) -> None:
    """Refuse patterns that keep nothing or everything.

    Raises:
        SettingError: unless 1 <= N < M.
    """
    if not 1 <= n < m:
        raise SettingError(f"{n}:{m} is not a pattern: N of every M weights stay, with N at least 1 and below M")
