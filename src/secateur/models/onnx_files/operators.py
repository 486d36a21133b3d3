"""How ONNX operators are called in torch, where onnx2torch does not know them or leaves sizes in tensors.

Each rule looks at one operator and says which function is called with which values and numbers; an operator without a
rule is left to onnx2torch as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from secateur.models.onnx_files.resizing import resize
from secateur.models.onnx_files.site import Call, Site

Rule: TypeAlias = Callable[[Site], Call | None]


def _same(site: Site) -> Call:
    return Call("identity", [site.x])


def reshape(site: Site) -> Call:
    """Return what gives a value the shape of what comes out of an operator."""
    before, after = site.before, site.after
    if len(after) == 2 and after[0] == before[0] and len(before) > 2:
        return Call("flatten", [site.x], {"start_dim": 1})
    if sum(size is None for size in after) > 1:
        raise site.refusal("more than one of its sizes grow with the batch")
    return Call("reshape", [site.x], {"shape": [-1 if size is None else size for size in after]})


def _squeeze(site: Site) -> Call:
    axes = site.axes(1, len(site.before))
    if axes is None:
        axes = [axis for axis, size in enumerate(site.before) if size == 1]
    return Call("squeeze", [site.x], {"dims": axes})


def _unsqueeze(site: Site) -> Call:
    return Call("unsqueeze", [site.x], {"dims": site.axes(1, len(site.after))})


def _pad(site: Site) -> Call:
    rank = len(site.before)
    pads, axes = site.numbers("pads", 1) or [], list(range(rank))
    if site.has(3):
        axes = [int(axis) % rank for axis in site.constant(3)]
    half = len(pads) // 2
    by_axis = {axis: (pads[i], pads[half + i]) for i, axis in enumerate(axes)}
    value = float(site.constant(2).reshape(-1)[0]) if site.has(2) else float(site.attribute("value", 0.0))
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(site.attribute("mode", "constant"))
    if mode is None:
        raise site.refusal(f"its mode is {site.attribute('mode')}")
    touched = [axis for axis, pad in by_axis.items() if any(pad)]
    if not touched:
        return _same(site)
    first = min(touched) if mode == "constant" else 2
    flat = [each for axis in range(rank - 1, first - 1, -1) for each in by_axis.get(axis, (0, 0))]
    fill = {"value": value} if mode == "constant" else {}
    return Call("pad", [site.x], {"pad": flat, "mode": mode, **fill})


def _slice(site: Site) -> Call:
    rank = len(site.before)
    starts, ends = site.numbers("starts", 1) or [], site.numbers("ends", 2) or []
    axes = [axis % rank for axis in site.numbers("axes", 3) or range(len(starts))]
    steps = site.numbers("steps", 4) or [1] * len(starts)
    parts: list[list[int | None]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size, left = site.before[axis], site.after[axis]
        if size is None:
            if left is not None or (start, step) != (0, 1):
                raise site.refusal("it takes some images of the batch")
            continue
        if step < 0 and (step != -1 or left != size):
            raise site.refusal(f"its step is {step}")
        begin, last = (min(max(at + size if at < 0 else at, 0), size) for at in (start, end))
        if step == -1:
            parts.append([axis, None, None, -1])
        elif (begin, step) != (0, 1) or last != size:
            parts.append([axis, begin or None, None if last == size else last, step])
    return Call("slice", [site.x], {"parts": parts})


def _split(site: Site) -> Call:
    axis = site.attribute("axis", 0) % len(site.before)
    if not all(site.node.output):
        raise site.refusal("one of its outputs has no name")
    return Call(
        "split", [site.x], {"split_size_or_sections": [site.shapes[o][axis] for o in site.node.output], "dim": axis}
    )


def _expand(site: Site) -> Call:
    shape = [1] * (len(site.after) - len(site.before)) + list(site.before)
    sizes = [-1 if a == b else b for a, b in zip(shape, site.after, strict=True)]
    return Call("expand", [site.x, site.image], {"sizes": sizes})


def _tile(site: Site) -> Call:
    return Call("repeat", [site.x], {"repeats": [int(each) for each in site.constant(1)]})


def _gather(site: Site) -> Call | None:
    if site.x in site.known or site.node.input[1] not in site.known:
        return None
    axis, index = site.attribute("axis", 0) % len(site.before), site.constant(1)
    size = site.before[axis]
    if size is None:
        raise site.refusal("it takes some images of the batch")
    if not index.size:
        raise site.refusal("it takes nothing, as it has no indices")
    index = np.where(index < 0, index + size, index)
    if index.ndim == 0:
        return Call("select", [site.x], {"dim": axis, "index": int(index)})
    if index.ndim > 1:
        if index.size == size and all(place == each for place, each in enumerate(index.reshape(-1).tolist())):
            return reshape(site)  # as torch writes the strides of what it has pooled
        return Call("taken", [site.x, index.reshape(-1).astype(np.int64)], {"dim": axis, "sizes": list(index.shape)})
    if all(after == before + 1 for before, after in pairwise(index.tolist())):
        end = int(index[-1]) + 1
        return Call("slice", [site.x], {"parts": [[axis, int(index[0]), None if end == size else end, 1]]})
    return Call("index_select", [site.x, index.astype(np.int64)], {"dim": axis})


def _transpose(site: Site) -> Call:
    return Call("permute", [site.x], {"dims": list(site.attribute("perm") or range(len(site.before))[::-1])})


def _concat(site: Site) -> Call:
    return Call("concat", list(site.node.input), {"dim": site.attribute("axis", 1) % len(site.after)})


def _clip(site: Site) -> Call:
    low, high = site.attribute("min"), site.attribute("max")
    if any(site.has(number) and site.constant(number).size != 1 for number in (1, 2)):
        raise site.refusal("its bounds are not one number each")
    low = float(site.constant(1).item()) if low is None and site.has(1) else low
    high = float(site.constant(2).item()) if high is None and site.has(2) else high
    if (low, high) == (0.0, 6.0):
        return Call("relu6", [site.x])
    bounds = {"min": low, "max": high}
    found = {name: value for name, value in bounds.items() if value is not None and abs(value) < 3e38}
    return Call("clamp", [site.x], found) if found else _same(site)


def _softmax(site: Site) -> Call | None:
    logarithm, rank = site.node.op_type == "LogSoftmax", len(site.before)
    axis = site.attribute("axis", -1 if site.opset >= 13 else 1) % rank
    if site.opset < 13 and any(size != 1 for size in site.before[axis + 1 :]):
        raise site.refusal("it is over several dimensions, as up to opset 12; export the network in opset 13")
    return Call("softmax", [site.x], {"dim": axis, "logarithm": logarithm})


def _reduced(function: str) -> Rule:
    def rule(site: Site) -> Call:
        rank = len(site.before)
        axes = site.axes(1, rank)
        if axes is None:
            if site.attribute("noop_with_empty_axes", 0):
                return _same(site)
            axes = list(range(rank))
        return Call(function, [site.x], {"dim": axes, "keepdim": bool(site.attribute("keepdims", 1))})

    return rule


def _global(function: str) -> Rule:
    return lambda site: Call(function, [site.x], {"dim": list(range(2, len(site.before))), "keepdim": True})


def _arithmetic(function: str) -> Rule:
    def rule(site: Site) -> Call:
        values = list(site.node.input)
        if values[0] in site.known and function in ("add", "mul"):
            values.reverse()
        first, second = values
        number = site.known.get(second)
        if number is not None and number.size == 1 and number.ndim <= len(site.shapes[first]):
            return Call(function, [first], {"other": number.item()})
        return Call(function, [first, second])

    return rule


def _group_norm(site: Site) -> Call:
    groups, channels = site.attribute("num_groups"), site.before[1]
    scale, bias = (site.constant(number) for number in (1, 2))
    if channels and scale.size == groups != channels:  # as in opset 18
        scale, bias = (np.repeat(each, channels // groups) for each in (scale, bias))
    numbers = {"groups": groups, "eps": site.attribute("epsilon", 1e-5)}
    return Call("group_norm", [site.x, scale, bias], numbers)


def _several(function: str) -> Rule:
    return lambda site: Call(function, list(site.node.input)) if len(site.node.input) > 1 else _same(site)


def _prelu(site: Site) -> Call:
    slopes, rank = site.constant(1), len(site.before)
    shape = [1] * (rank - slopes.ndim) + list(slopes.shape)
    if rank < 2 or slopes.size != max(shape[1], 1):
        raise site.refusal("its slopes are neither one number nor one for each channel")
    return Call("prelu", [site.x, slopes.reshape(-1)])


def _depth_to_space(site: Site) -> Call | None:
    if site.attribute("mode", "DCR") != "DCR":
        return None
    return Call("depth_to_space", [site.x], {"block": site.attribute("blocksize"), "sizes": list(site.before[1:])})


def _plain(function: str, **numbers: str) -> Rule:
    return lambda site: Call(function, [site.x], {key: site.attribute(key, usual) for key, usual in numbers.items()})


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Identity", "Dropout"), _same),
    **dict.fromkeys(("Reshape", "Flatten"), reshape),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "Transpose": _transpose,
    "Concat": _concat,
    "Clip": _clip,
    "ReduceMean": _reduced("mean"),
    "ReduceSum": _reduced("sum"),
    "ReduceMax": _reduced("amax"),
    "ReduceMin": _reduced("amin"),
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("amax"),
    "Add": _arithmetic("add"),
    "Sub": _arithmetic("sub"),
    "Mul": _arithmetic("mul"),
    "Div": _arithmetic("div"),
    "Max": _several("largest"),
    "Min": _several("smallest"),
    "Mean": _several("average"),
    "Sum": _several("total"),
    "PRelu": _prelu,
    "DepthToSpace": _depth_to_space,
    "GroupNormalization": _group_norm,
    "Gelu": _plain("gelu", approximate="none"),
    "Mish": _plain("mish"),
    "Swish": _plain("silu"),
}
