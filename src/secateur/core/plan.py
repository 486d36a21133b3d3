"""What to change in a network: immutable data without tensors, the only thing that methods produce.

All edits of one plan speak of the same traced network: names, unit numbers and shapes are those before any
of them is carried out, so that their order does not matter to the result.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from secateur import reading
from secateur.arguments import checked
from secateur.errors import PlanError, first_line
from secateur.rules import Text
from secateur.typed import check_types

FORMAT = 1
MOST_EDITS = 2**16
MOST_NUMBERS = 2**21
"""Unit and channel numbers in one plan: a few letters stand for a range, and each number in it takes 40 bytes."""

MOST_CUTS = 64
"""Edits that regroup one layer: what they leave is worked out for every pair of their blocks."""

MOST_FREE = 2**10
"""Paths of free outputs in one plan."""

_MOST_DIMS, _WIDEST, _LONGEST = 8, 2**31, 1000
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


@dataclass(frozen=True)
class DropUnits:
    """Remove units of a group: their channels vanish and a thinner dense network remains.

    Attributes:
        group: name of the group in the traced graph.
        units: unit numbers in ``range(group.size)``, ascending.
    """

    group: str
    units: tuple[int, ...]

    def __post_init__(self) -> None:
        check_types(self)
        rising = all(first < second for first, second in itertools.pairwise(self.units))
        if not rising or (self.units and self.units[0] < 0):
            raise PlanError(f"units of group '{self.group}' must be distinct, ascending and not negative")


@dataclass(frozen=True)
class Block:
    """Some outputs of a layer together with the only inputs that they read (indices, ascending)."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Regroup:
    """Turn a dense layer into a diverse group convolution; what lies outside the blocks becomes zero.

    Attributes:
        layer: name of the convolution or linear layer (its weight is ``layer + ".weight"``).
        blocks: every output appears in exactly one block; inputs may be shared between blocks.
    """

    layer: str
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        check_types(self)


@checked
@dataclass(frozen=True)
class ZeroWeights:
    """Set single weights, kernels or patterns to zero without removing them; saves storage, not time.

    Attributes:
        tensor: parameter name.
        shape: its shape in the traced network.
        keep: one bit per element in row-major order, 1 = keep, packed as by ``numpy.packbits``.
    """

    tensor: str
    shape: tuple[int, ...]
    keep: bytes

    def __post_init__(self) -> None:
        check_types(self)
        expected = (math.prod(self.shape) + 7) // 8
        if len(self.keep) != expected:
            raise PlanError(
                f"the mask of '{self.tensor}' has {len(self.keep)} bytes where shape {reading.written(self.shape)} "
                f"needs {expected}"
            )

    @staticmethod
    def of(tensor: str, keep: Tensor) -> ZeroWeights:
        """Pack a boolean mask (True = keep) that has the shape of the parameter ``tensor``."""
        try:
            bits = np.packbits(keep.detach().cpu().bool().numpy().reshape(-1))
        except (RuntimeError, TypeError) as error:  # tensors without values, and such as numpy does not know
            raise PlanError(f"the mask of '{tensor}' cannot be read: {first_line(error)}; give a dense one") from error
        return ZeroWeights(tensor, tuple(keep.shape), bits.tobytes())

    def mask(self) -> Tensor:
        """Return the boolean mask, True = keep, of shape ``self.shape``, on the CPU."""
        bits = np.unpackbits(np.frombuffer(self.keep, np.uint8), count=math.prod(self.shape))
        return torch.from_numpy(bits.astype(bool)).reshape(self.shape)


Edit = DropUnits | Regroup | ZeroWeights


@checked
@dataclass(frozen=True)
class Plan:
    """What to change; equal plans on equal networks give equal results.

    Attributes:
        edits: all of them, in any order.
        notes: how it was decided, one sentence each; no part of what it is.
        tried: plans before it for the same network whose cut failed: its groups are those that the network is read
            into with these for further trials.
        free_outputs: patterns of outputs that may lose channels, with which the network is read into its groups.
    """

    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)
    tried: tuple[Plan, ...] = ()
    free_outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def doing(self) -> str:
        """What is done when the plan is carried out, in words that a progress line begins with."""
        kinds = {
            DropUnits: "removing channels",
            Regroup: "removing connections",
            ZeroWeights: "setting weights to zero",
        }
        return ", ".join(dict.fromkeys(kinds[type(edit)] for edit in self.edits)) or "removing nothing"

    def dropped(self) -> dict[str, tuple[int, ...]]:
        """Return the dropped units of every group that loses some, ascending."""
        units: dict[str, set[int]] = {}
        for edit in self.edits:
            if isinstance(edit, DropUnits) and edit.units:
                units.setdefault(edit.group, set()).update(edit.units)
        return {group: tuple(sorted(numbers)) for group, numbers in units.items()}

    def with_zeros(self, other: Plan) -> Plan:
        """Return the plan with the zeros of another one added, in one edit for each tensor."""
        masks: dict[str, Tensor] = {}
        for edit in (*self.edits, *other.edits):
            if isinstance(edit, ZeroWeights):
                masks[edit.tensor] = masks[edit.tensor] & edit.mask() if edit.tensor in masks else edit.mask()
        rest = tuple(edit for edit in self.edits if not isinstance(edit, ZeroWeights))
        return replace(self, edits=(*rest, *(ZeroWeights.of(name, mask) for name, mask in masks.items())))

    def to_json(self) -> str:
        """Return the plan as JSON text; unit numbers are written as ranges, masks in base 64."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        edits = {"edits": [_to_dict(edit) for edit in self.edits]}
        tried = {"tried": [[_to_dict(edit) for edit in plan.edits] for plan in self.tried]} if self.tried else {}
        free = {"free_outputs": list(self.free_outputs)} if self.free_outputs else {}
        return json.dumps({"format": FORMAT, **notes, **edits, **tried, **free}, indent=1)

    @staticmethod
    def from_json(text: Text) -> Plan:
        """Read a plan written by ``to_json``.

        Raises:
            PlanError: if the text is not such a plan, is larger than any plan has reason to be, or comes from a newer
                format.
        """
        try:
            document = reading.values(text)
            if document["format"] > FORMAT:
                raise PlanError(
                    f"the plan has format {document['format']}, this version reads up to {FORMAT}; upgrade secateur"
                )
            notes = document.get("notes", [])
            if not isinstance(notes, list) or not all(isinstance(note, str) for note in cast("list[object]", notes)):
                raise PlanError("the notes of the plan are no list of texts; take them out, or restore the file")
            notes = tuple("".join(filter(str.isprintable, note)) for note in cast("list[str]", notes))
            tried = document.get("tried", [])
            count = sum(map(len, (document["edits"], *tried)))
            if count > MOST_EDITS:
                raise PlanError(f"the plan has {count:,} edits, and at most {MOST_EDITS:,} are read")
            numbers = _Numbers()
            edits = tuple(_from_dict(edit, numbers) for edit in document["edits"])
            cuts = Counter(edit.layer for edit in edits if isinstance(edit, Regroup))
            if cuts and max(cuts.values()) > MOST_CUTS:
                raise PlanError(f"the plan regroups one layer more than {MOST_CUTS} times")
            before = tuple(Plan(tuple(_from_dict(edit, numbers) for edit in each)) for each in tried)
            return Plan(edits, notes, before, tuple(map(_name, _some(document.get("free_outputs", [])))))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise PlanError(f"the text is not a plan ({reading.wrong(error)}); was the file cut short?") from None


EMPTY = Plan()


def _to_dict(edit: Edit) -> dict[str, Any]:
    match edit:
        case DropUnits(group, units):
            return {"drop": group, "units": _to_ranges(units)}
        case Regroup(layer, blocks):
            pairs = [[_to_ranges(block.outputs), _to_ranges(block.inputs)] for block in blocks]
            return {"regroup": layer, "blocks": pairs}
        case ZeroWeights(tensor, shape, keep):
            return {"zero": tensor, "shape": list(shape), "keep": base64.b64encode(keep).decode()}


def _from_dict(entry: dict[str, Any], numbers: _Numbers) -> Edit:
    if "drop" in entry:
        return DropUnits(_name(entry["drop"]), numbers.of(entry["units"]))
    if "regroup" in entry:
        blocks = tuple(Block(numbers.of(outs), numbers.of(ins)) for outs, ins in entry["blocks"])
        return Regroup(_name(entry["regroup"]), blocks)
    shape = _sizes(entry["shape"])
    return ZeroWeights(_name(entry["zero"]), shape, base64.b64decode(entry["keep"], validate=True))


def _some(values: object) -> list[object]:
    if not isinstance(values, list) or len(cast("list[object]", values)) > MOST_FREE:
        raise reading.Unfit(f"free outputs are a list of at most {MOST_FREE} paths, not {reading.written(values)}")
    return cast("list[object]", values)


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise reading.Unfit(f"a name is a text of at most {_LONGEST} letters, not {reading.shown(value)}")
    return value


def _sizes(shape: list[Any]) -> tuple[int, ...]:
    if len(shape) > _MOST_DIMS or not all(type(size) is int and 0 <= size < _WIDEST for size in shape):
        raise reading.Unfit(f"a shape is at most {_MOST_DIMS} whole numbers, not {reading.shown(shape)}")
    return tuple(shape)


def _to_ranges(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers as ``0-3,7,9-10``."""
    parts: list[str] = []
    start = 0
    for i in range(len(numbers)):
        if i + 1 == len(numbers) or numbers[i + 1] != numbers[i] + 1:
            first, last = numbers[start], numbers[i]
            parts.append(f"{first}" if first == last else f"{first}-{last}")
            start = i + 1
    return ",".join(parts)


class _Numbers:
    """Reads the ranges of one plan; their sizes are added up before any of them becomes numbers."""

    def __init__(self) -> None:
        self._left = MOST_NUMBERS

    def of(self, text: object) -> tuple[int, ...]:
        """Return the numbers that a text such as ``0-3,7,9-10`` stands for."""
        if not isinstance(text, str):
            raise reading.Unfit(f"numbers are written as '0-3,7', not as {reading.shown(text)}")
        ranges = [self._range(part) for part in text.split(",")] if text else []
        return tuple(itertools.chain.from_iterable(ranges))

    def _range(self, part: str) -> Iterable[int]:
        found = _RANGE.fullmatch(part)
        if found is None:
            raise reading.Unfit(f"numbers are written as '0-3,7', not as '{reading.shown(part)}'")
        start, end = int(found[1]), int(found[2] or found[1])
        if end < start:
            raise reading.Unfit(f"the range '{part}' runs backwards")
        self._left -= end - start + 1
        if self._left < 0:
            raise reading.Unfit(f"it lists more than {MOST_NUMBERS:,} units and channels")
        return range(start, end + 1)
