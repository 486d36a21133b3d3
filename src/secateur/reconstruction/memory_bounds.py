"""How many batches may wait at each layer, so that what they hold there stays within bounds.

The first maps of a network are its largest, and a few images give more than enough rows of them; the last maps are
small, and need all images. So only some batches start, and the others, which until then are nothing but their images,
join them at a later layer, where all that wait find room.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil  # pyright: ignore[reportMissingModuleSource]
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.surgery import Inputs
from secateur.core.torch_modes import OperatorMode
from secateur.events import Event, Tell
from secateur.measure.forward import length, part
from secateur.reconstruction.least_squares import MOST
from secateur.reconstruction.passes import Passes
from secateur.reconstruction.rows import columns
from secateur.reconstruction.sites import PAIR, Place, Site, together

ROOM = 2**30
"""Bytes that what waits may take. The same everywhere, so that results do not depend on the machine."""
MATRICES = 5
"""Square matrices of float64 that there are at the same time while a layer is solved."""


PLENTY = 4 * ROOM
"""Free bytes from which on nothing is bounded by the machine."""


@dataclass(frozen=True)
class Memory:
    """What the free memory of this machine allows.

    Attributes:
        waiting: bytes that what waits may take.
        columns: of the widest layer whose normal equations are solved; wider ones take ways that need less.
    """

    waiting: int = ROOM
    columns: int = MOST


def memory() -> Memory:
    """Return what may be used of the memory that is free now."""
    free = int(psutil.virtual_memory().available)
    if free >= PLENTY:
        return Memory()
    share = free // 3
    return Memory(min(ROOM, share), min(MOST, math.isqrt(share // (8 * MATRICES))))


def warn_of_little(model: nn.Module, found: Sequence[Site], many: Room, allowed: Memory, tell: Tell) -> None:
    """Tell once where the free memory of this machine changes how a network is looked at.

    Args:
        model: the network.
        found: its sites.
        many: what finds room.
        allowed: what the memory allows.
        tell: hears the warning.
    """
    wide = [it.layer for it in found if allowed.columns < columns(model.get_submodule(it.layer)) <= MOST]
    less = allowed.waiting < min(ROOM, many.wanted)
    if wide or less:
        what = ["fewer images are looked at in its first layers"] if less else []
        others = f" and {len(wide) - 1} more" if wide[1:] else ""
        what += [f"wide layers are looked at less closely ('{wide[0]}'{others})"] if wide else []
        tell(
            Event(
                "warning",
                f"of {type(model).__name__} {' and '.join(what)}, for too little memory is free: "
                f"free {PLENTY / 2**30:.0f} GiB for the result of other machines",
            )
        )


_trim: Any = None
with suppress(OSError, AttributeError):  # of other C libraries than glibc
    _trim = ctypes.CDLL("libc.so.6").malloc_trim


class Living(OperatorMode):
    """Counts the bytes of all tensors that were made within it and are still there.

    Attributes:
        bytes: how many there are now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._known = set[int]()

    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, named)) if _is_plain(leaf)}
        made = func(*args, **named)
        for leaf in tree_leaves(made):
            if _is_plain(leaf):
                storage = leaf.untyped_storage()
                if id(storage) not in self._known | before:
                    self._known.add(id(storage))
                    self.bytes += storage.nbytes()
                    weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        return made

    def _gone(self, known: int, size: int) -> None:
        self._known.discard(known)
        self.bytes -= size


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


@dataclass(frozen=True)
class Room:
    """What finds room.

    Attributes:
        batches: how many may wait at each layer.
        most: bytes that those that wait hold at most.
        wanted: bytes that all would hold.
    """

    batches: Mapping[str, int]
    most: float
    wanted: float = 0.0

    def tidy(self) -> None:
        """Have the C library give back memory that was freed: it keeps some for each thread, of which there are many.

        Where little is held that would cost more time than it is worth.
        """
        if self.most > ROOM / 4 and _trim is not None:
            _trim(0)


def room(
    model: nn.Module, found: Sequence[Site], batches: Sequence[Inputs], *, networks: int = 1, most: int = ROOM
) -> Room:
    """Return how many batches may wait at each layer, never fewer than at the layers before it, and one at least.

    Args:
        model: run once on two images, in evaluation mode.
        found: the sites at whose layers batches wait.
        batches: what its forward takes.
        networks: how many like it have batches waiting at the same time.
        most: bytes that what waits may take.

    Raises:
        ModelError: if it does not run on the images.
    """
    pair = part(batches[0], PAIR)
    each = networks * max(length(batch) for batch in batches) / max(1, length(pair))
    living, stops, held = Living(), list[str | Place](), list[float]()
    passes = Passes(model, found, [pair], lambda *_: None, behind=together(found), within=living)
    with passes.running() as advance:
        while arrived := advance():
            stops.append(arrived[0].where)
            held.append(living.bytes * each)
    fits = [len(batches) if not size else max(1, min(len(batches), int(most // size))) for size in held]
    for number in range(len(fits) - 2, -1, -1):
        fits[number] = min(fits[number], fits[number + 1])
    closed = _closed(found, stops)
    for number in range(1, len(fits)):
        if number in closed:
            fits[number] = fits[number - 1]
    at = {stop: fit for stop, fit in zip(stops, fits, strict=True) if isinstance(stop, str)}
    most_held = max((fit * size for fit, size in zip(fits, held, strict=True)), default=0.0)
    return Room(at, most_held, max(held, default=0.0) * len(batches))


def _closed(found: Sequence[Site], stops: Sequence[str | Place]) -> set[int]:
    """Return the stops between a layer and the sum that it is part of: who joins there would miss one of its parts."""
    place = {stop: number for number, stop in enumerate(stops)}
    closed = set[int]()
    for sum_, sites in together(found).items():
        first = min((place[site.layer] for site in sites if site.layer in place), default=len(stops))
        closed.update(range(first + 1, place.get(sum_, len(stops) - 1) + 1))
    return closed
