"""Which widths a plan may leave: floors, and multiples that kernels compute without waste.

The static rule for ``multiple="auto"``: convolutions and matrix products of oneDNN, ONNX Runtime and OpenVINO work on
blocks of 16 channels where vectors hold 16 floats (AVX-512) and of 8 where they hold 8 (AVX2, pairs of NEON), and
ONNX Runtime leaves its blocked layout, for depthwise convolutions at many times the cost, where a width is no multiple
of the block. So every dimension that a group makes or reads is kept at a multiple of 16.
``benchmarks/channel_widths.py`` measures it; docs/speed.md shows the cliffs. Where layers may be timed,
``secateur.measure.alignment`` refines the rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

from secateur import rules
from secateur.arguments import checked
from secateur.core.graph import Graph, Group
from secateur.core.plan import Plan
from secateur.errors import SettingError

Multiple: TypeAlias = int | Literal["auto"]

BLOCK = 16
"""Channels that kernels compute at once."""
PARTS = 2
"""A group that has fewer than so many multiples gets a finer one, so that every group can lose something."""

MULTIPLE = rules.Rule(
    lambda value: (isinstance(value, str) and value == "auto") or rules.whole(1).accepts(value),
    '"auto" (for each group what runs fast) or a whole number of at least 1',
    ("auto",),
    plain=rules.scalar,
)
NEAR = 0.05
"""By which share of a group a width that was asked for may be missed for the sake of its multiple."""

_RULES = {
    "min_units": rules.whole(1),
    "multiple": MULTIPLE,
    "parts": rules.whole(0),
    "by_group": rules.Rule(lambda value: _are_multiples(value), "pairs of a group and a whole number of at least 1"),
    "source": rules.text("a text"),
    "halvings": rules.whole(0),
}


@checked
@dataclass(frozen=True)
class Limits:
    """What every plan must respect.

    Attributes:
        min_units: at least this many units stay in every group (fewer only where the group is smaller).
        multiple: widths of groups are kept at multiples of this; 1 = any width; ``"auto"`` = for each group what runs
            fast: as measured (``by_group``), else by the static rule (``static_multiple``). A target that such widths
            cannot meet is met with finer ones.
        parts: a group that has fewer than so many multiples halves its own multiple until it has as many, or cannot;
            0 = never. For a number; the rule of ``"auto"`` has its own.
        by_group: multiples that were found by timing layers, by the name of the group; only for ``"auto"``.
        source: where they are from, in words; empty for the static rule, or for a number that was asked for.
        halvings: how many times each multiple is halved, for targets out of the reach of the coarser ones.

    Raises:
        SettingError: if one of them is out of range.
    """

    min_units: int = 1
    multiple: Multiple = "auto"
    parts: int = 0
    by_group: tuple[tuple[str, int], ...] = ()
    source: str = ""
    halvings: int = 0

    def __post_init__(self) -> None:
        for name, refusal in rules.broken(self, _RULES):
            raise SettingError(f"{name} {refusal}")
        pairs = tuple((name, multiple) for name, multiple in self.by_group)  # JSON knows lists only
        object.__setattr__(self, "by_group", pairs)

    @property
    def auto(self) -> bool:
        """Whether each group has a multiple of its own."""
        return self.multiple == "auto"

    def multiple_of(self, group: Group) -> int:
        """Return what the width of a group is to be a multiple of."""
        if self.multiple == "auto":
            found = dict(self.by_group).get(group.name)
            multiple = static_multiple(group) if found is None else small(found, group.size)
            return halved(multiple, self.halvings)
        return small(self.multiple, group.size, self.parts)

    def allow(self, group: Group, width: int) -> bool:
        """Say whether a group that loses units may be left this wide."""
        return width >= min(self.min_units, group.size) and width % self.multiple_of(group) == 0

    def finer(self, groups: Sequence[Group]) -> Limits | None:
        """Return limits of half the multiples; None where the user chose the number, or all are 1 already."""
        if self.auto and any(self.multiple_of(group) > 1 for group in groups):
            return replace(self, halvings=self.halvings + 1)
        return None

    def multiple_near(self, group: Group, width: int) -> int:
        """Return the multiple for a width that somebody asked for: finer where rounding up would miss it by far."""
        multiple = self.multiple_of(group)
        while self.auto and multiple % 2 == 0 and -width % multiple > NEAR * group.size:
            multiple //= 2
        return multiple

    def note(self, graph: Graph) -> str:
        """Return in words which multiples widths are to have, and why."""
        if self.multiple != "auto":
            return f"widths are {self._number()}"
        found = Counter(self.multiple_of(group) for group in graph.free)
        return f"widths are multiples of {_listed(found) or BLOCK}, by {self._why()}"

    def note_of(self, graph: Graph, plan: Plan) -> str:
        """Return in words which multiples the widths have that a plan cuts; empty if it cuts none."""
        gone = plan.dropped()
        cut = [group for group in graph.free if gone.get(group.name)]
        if not cut:
            return ""
        kept = len(graph.free) - len(cut)
        rest = f"; {_groups(kept)} {'keeps its width' if kept == 1 else 'keep their widths'}" if kept else ""
        if self.multiple != "auto":
            return f"widths that are cut are {self._number()}{rest}"
        whole = [group for group in cut if (group.size - len(gone[group.name])) % self.multiple_of(group) == 0]
        found = Counter(self.multiple_of(group) for group in whole)
        finer = len(cut) - len(whole)
        if not found:
            return f"widths that are cut are finer than multiples that run fast, to meet what was asked{rest}"
        more = f"; {_groups(finer)} finer than that, to meet what was asked" if finer else ""
        return f"widths that are cut are multiples of {_listed(found)}, by {self._why()}{more}{rest}"

    def _number(self) -> str:
        what = "any number" if self.multiple == 1 else f"multiples of {self.multiple}"
        return f"{what}, {self.source or 'as asked'}"

    def _why(self) -> str:
        return self.source or f"the rule for kernels that compute {BLOCK} channels at once, finer in small groups"


def _listed(multiples: Mapping[int, int]) -> str:
    """Return multiples with the number of groups that have them."""
    return ", ".join(f"{multiple} in {_groups(count)}" for multiple, count in sorted(multiples.items(), reverse=True))


def _groups(count: int) -> str:
    return f"{count} group{'' if count == 1 else 's'}"


def _are_multiples(value: object) -> bool:
    if not isinstance(value, list | tuple):
        return False
    number = rules.whole(1)
    return all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) and number.accepts(pair[1])
        for pair in cast("Sequence[Sequence[object]]", value)
    )


def halved(multiple: int, times: int) -> int:
    """Return a multiple halved so many times, rounded down, down to 1: measured ones may be odd."""
    return max(1, multiple >> times)


def static_multiple(group: Group, block: int = BLOCK, parts: int = PARTS) -> int:
    """Return by the static rule what the width of a group is to be a multiple of, in units.

    A unit may be several channels of a layer, such as an attention head of 64: then fewer units, or one, are a whole
    block there. The layer that asks for most decides.

    Args:
        group: the group.
        block: channels that kernels compute at once.
        parts: halve the multiple until the group has as many.
    """
    wanted = max((block // math.gcd(block, span) for span in group.spans), default=1)
    return small(wanted, group.size, parts)


def small(multiple: int, size: int, parts: int = PARTS) -> int:
    """Return a multiple halved until so many fit into the size, or it is odd."""
    while multiple % 2 == 0 and size < parts * multiple:
        multiple //= 2
    return multiple
