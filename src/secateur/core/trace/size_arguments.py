"""Which arguments of reshaping calls are sizes, and of which dimension each speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from secateur.core.code.written_numbers import Path

Found = tuple[Path, Tensor, int, slice, int]  # path, tensor, dim, window, sign


def sizes_in(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> list[Found]:
    """Return the sizes in the arguments of a call, each with the tensor and the positions that it counts."""
    everything = slice(None)
    if name in ("view", "reshape", "expand", "broadcast_to"):
        named = next((key for key in ("shape", "size") if key in kwargs), "")
        spread = not named and not (len(args) > 1 and isinstance(args[1], (tuple, list)))
        sizes = kwargs[named] if named else (args[1:] if spread else args[1])
        base: Path = ("kwargs", named) if named else ("args", 1)
        paths: list[Path] = [("args", i + 1) if spread else (*base, i) for i in range(len(sizes))]
        return [
            (path, out, d, everything, 1)
            for d, (path, size) in enumerate(zip(paths, sizes, strict=True))
            if isinstance(size, int) and size >= 0
        ]
    if name.startswith("conv"):
        return _depthwise(args, kwargs)
    if name == "repeat":
        return _repeat(args, out)
    if name == "unflatten":
        (_, dim), (path, sizes) = _at(args, kwargs, 1, "dim"), _at(args, kwargs, 2, "sizes")
        first = int(dim) % args[0].dim()
        return [((*path, i), out, first + i, everything, 1) for i, size in enumerate(sizes) if size >= 0]
    if name == "pad":
        return _pad(args, kwargs, out)
    if name.removeprefix("unsafe_") in ("split", "split_with_sizes"):
        return _split(args, kwargs, out)
    if name == "narrow":
        dim = int(_at(args, kwargs, 1, "dim")[1])
        (begin, start), (end, length) = _at(args, kwargs, 2, "start"), _at(args, kwargs, 3, "length")
        return [
            (begin, args[0], dim, slice(0, int(start)), 1),
            (end, args[0], dim, slice(int(start), int(start) + int(length)), 1),
        ]
    return _getitem(args) if name == "__getitem__" else []


def _at(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, *names: str) -> tuple[Path, Any]:
    """Return where an argument is, by its place or one of its names, and the argument; None where it is left out."""
    if len(args) > place:
        return ("args", place), args[place]
    name = next((name for name in names if name in kwargs), names[0])
    return ("kwargs", name), kwargs.get(name)


def _depthwise(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Found]:
    """The number of groups of a convolution, where each channel is one."""
    path, number = _at(args, kwargs, 6, "groups")
    alone = number is not None and args[0].dim() > 2 and 1 < number == args[0].shape[1]
    return [(path, args[0], 1, slice(None), 1)] if alone else []


def _repeat(args: Sequence[Any], out: Tensor) -> list[Found]:
    """How often single positions are copied."""
    spread = not isinstance(args[1], (tuple, list)) if len(args) > 1 else False
    times = args[1:] if spread else args[1] if len(args) > 1 else ()
    old = [1] * (out.dim() - args[0].dim()) + list(args[0].shape)
    return [
        (("args", i + 1) if spread else ("args", 1, i), out, i, slice(None), 1)
        for i, number in enumerate(times)
        if old[i] == 1 and number > 1
    ]


def _pad(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> list[Found]:
    base, amounts = _at(args, kwargs, 1, "pad")
    found: list[Found] = []
    for i in range(len(amounts) // 2):
        dim, before, after = out.dim() - 1 - i, amounts[2 * i], amounts[2 * i + 1]
        if before > 0:
            found.append(((*base, 2 * i), out, dim, slice(0, before), 1))
        if after > 0:
            found.append(((*base, 2 * i + 1), out, dim, slice(out.shape[dim] - after, None), 1))
    return found


def _split(args: Sequence[Any], kwargs: Mapping[str, Any], out: Sequence[Tensor]) -> list[Found]:
    base, sizes = _at(args, kwargs, 1, "split_size_or_sections", "split_size", "split_sizes")
    dim = int(_at(args, kwargs, 2, "dim")[1] or 0)
    if isinstance(sizes, int):
        return [(base, out[0], dim, slice(None), 1)]
    return [((*base, i), piece, dim, slice(None), 1) for i, piece in enumerate(out)]


def _getitem(args: Sequence[Any]) -> list[Found]:
    tensor, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    base: Path = ("args", 1)
    found: list[Found] = []
    dim = 0
    for i, part in enumerate(index):
        if part is None:
            continue
        if part is Ellipsis:
            dim = tensor.dim() - sum(1 for later in index[i + 1 :] if later is not None)
            continue
        if isinstance(part, slice):
            path = (*base, i) if isinstance(args[1], tuple) else base
            for name in ("start", "stop"):
                bound = getattr(part, name)
                if isinstance(bound, int) and 0 < abs(bound) < tensor.shape[dim]:
                    window = slice(0, bound) if bound > 0 else slice(tensor.shape[dim] + bound, None)
                    found.append(((*path, name), tensor, dim, window, 1 if bound > 0 else -1))
        dim += 1
    return found
