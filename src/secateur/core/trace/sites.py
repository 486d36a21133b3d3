"""Sizes in the arguments of reshaping calls: which of them are written into the code and must follow the widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from secateur.core.graph import Rewrite, WrittenSize
from secateur.core.labels import FIXED
from secateur.core.literals import Path, is_written, record
from secateur.core.trace.components import Components
from secateur.core.trace.resolve import Units
from secateur.core.trace.state import Pinning, Site, State

Found = tuple[Path, Tensor, int, slice, int]  # path, tensor, dim, window, sign


def note(state: State, call: int, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Remember every integer of a reshaping call that speaks of a dimension along which labels vary."""
    for path, tensor, dim, window, sign in _sizes(name, args, kwargs, out):
        for layer in state.labels(tensor):
            if layer.shape[dim] > 1:
                state.sites.append(Site(state.module, call, name, path, layer, dim, window, sign))


def _sizes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> list[Found]:
    everything = slice(None)
    if name in ("view", "reshape", "expand"):
        spread = not isinstance(args[1], (tuple, list)) if len(args) > 1 else False
        sizes = args[1:] if spread else (args[1] if len(args) > 1 else kwargs.get("shape", ()))
        paths: list[Path] = [("args", i + 1) if spread else ("args", 1, i) for i in range(len(sizes))]
        return [
            (path, out, d, everything, 1)
            for d, (path, size) in enumerate(zip(paths, sizes, strict=True))
            if isinstance(size, int) and size >= 0
        ]
    if name == "unflatten":
        sizes, dim = args[2], int(args[1]) % args[0].dim()
        return [(("args", 2, i), out, dim + i, everything, 1) for i, size in enumerate(sizes) if size >= 0]
    if name == "pad":
        return _pad(args, kwargs, out)
    if name in ("split", "split_with_sizes"):
        return _split(args, kwargs, out)
    if name == "narrow":
        dim, start, length = int(args[1]), int(args[2]), int(args[3])
        return [
            (("args", 2), args[0], dim, slice(0, start), 1),
            (("args", 3), args[0], dim, slice(start, start + length), 1),
        ]
    return _getitem(args) if name == "__getitem__" else []


def _pad(args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor) -> list[Found]:
    amounts = args[1] if len(args) > 1 else kwargs["pad"]
    base: Path = ("args", 1) if len(args) > 1 else ("kwargs", "pad")
    found: list[Found] = []
    for i in range(len(amounts) // 2):
        dim, before, after = out.dim() - 1 - i, amounts[2 * i], amounts[2 * i + 1]
        if before > 0:
            found.append(((*base, 2 * i), out, dim, slice(0, before), 1))
        if after > 0:
            found.append(((*base, 2 * i + 1), out, dim, slice(out.shape[dim] - after, None), 1))
    return found


def _split(args: Sequence[Any], kwargs: Mapping[str, Any], out: Sequence[Tensor]) -> list[Found]:
    key = next((k for k in ("split_size_or_sections", "split_size", "split_sizes") if k in kwargs), "")
    sizes = args[1] if len(args) > 1 else kwargs[key]
    base: Path = ("args", 1) if len(args) > 1 else ("kwargs", key)
    dim = int(args[2]) if len(args) > 2 else int(kwargs.get("dim", 0))
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


def written(model: nn.Module, state: State, components: Components) -> tuple[list[Site], list[Site]]:
    """Split the sites that matter into constants that can be rewritten and those that nobody can vouch for.

    Sizes that the code computes from shapes follow by themselves and appear in neither list.
    """
    constants: list[Site] = []
    doubtful: list[Site] = []
    recorded: dict[str, fx.Graph | None] = {}
    for site in state.sites:
        if not _follows_units(site, components):
            continue
        if site.module not in recorded:
            recorded[site.module] = record(model.get_submodule(site.module))
        found = is_written(recorded[site.module], site.call, site.function, site.path)
        if found is None or (found and state.stack.entered.get(site.module, 0) > 1):
            doubtful.append(site)
        elif found:
            constants.append(site)
    return constants, doubtful


def _follows_units(site: Site, components: Components) -> bool:
    """Whether removing a unit can change the number at all."""
    units = components.prunable(site.layer)
    rows = units.movedim(site.dim, 0).reshape(site.layer.shape[site.dim], -1)
    varies = bool((rows != rows[:1]).any())
    return varies and bool((rows[site.window, 0] >= 0).any())


def rewrites(sites: Sequence[Site], units: Units) -> list[Rewrite]:
    """Describe how each written size follows from the widths."""
    calls: dict[tuple[str, int, str], list[WrittenSize]] = {}
    for site in sites:
        atoms = site.layer.movedim(site.dim, 0).reshape(site.layer.shape[site.dim], -1)[site.window, 0]
        size = WrittenSize(site.path, site.sign, units.axis(atoms))
        calls.setdefault((site.module, site.call, site.function), []).append(size)
    return [Rewrite(module, call, name, tuple(sizes)) for (module, call, name), sizes in calls.items()]


def pin(state: State, sites: Sequence[Site]) -> None:
    """Give up on these sites: the channels that they speak of stay."""
    for site in sites:
        where = f" in '{site.module}'" if site.module else ""
        reason = f"its size is written into the code ({site.function}{where})"
        remedy = "compute the size from the input's shape, or use -1"
        state.pins.insert(0, Pinning(site.layer[site.layer != FIXED], reason, remedy))
