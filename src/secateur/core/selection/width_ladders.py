"""The widths that groups can take, and what the network costs in which they have taken some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
from torch import Tensor

from secateur.core.graph import Graph
from secateur.core.graph.written_sizes import Axis
from secateur.core.selection.costs import Costs, Product, TimeTerm
from secateur.core.selection.target_selection import Step

Values = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ladder:
    """The widths of a group; its places are numbered from the whole group downwards.

    Attributes:
        rungs: the steps that lead from each place to the next.
        lost: what is lost at each place, ``(len(rungs) + 1,)``; never falls.
    """

    rungs: tuple[tuple[Step, ...], ...]
    lost: Values

    @cached_property
    def units(self) -> list[int]:
        """The units of the group in the order in which they go."""
        return [unit for rung in self.rungs for step in rung for unit in step.units]

    @cached_property
    def gone(self) -> list[int]:
        """How many of them are gone at each place."""
        return list(accumulate((sum(len(step.units) for step in rung) for rung in self.rungs), initial=0))

    def thinned(self, places: Sequence[int]) -> Ladder:
        """Return the ladder with some of its places alone, ascending, the first of them 0."""
        joined = [tuple(step for rung in self.rungs[a:b] for step in rung) for a, b in pairwise(places)]
        return Ladder(tuple(joined), self.lost[list(places)])


class Standing:
    """Where all groups stand on their ladders, and what such a network costs.

    Args:
        graph: the network.
        ladders: by the names of groups; the other groups stay as they are.
        costs: what it costs.
        keep: the units that are there when all stand at place 0, ``(graph.units,)`` bool.
    """

    def __init__(self, graph: Graph, ladders: Mapping[str, Ladder], costs: Costs, keep: Tensor) -> None:
        self.graph, self.ladders, self.keep = graph, ladders, keep.clone()
        self.place = dict.fromkeys(ladders, 0)
        self._looks = any(isinstance(term, TimeTerm) for term in costs.terms)
        self.whole = self.total = float(
            sum(term.of(keep) if isinstance(term, Product) else term.milliseconds(keep) for term in costs.terms)
        )
        parts: list[_Part] = []
        for term in costs.terms:
            parts.append(_Looked(term, self) if isinstance(term, TimeTerm) else _Multiplied(term, self))
        self.parts = {name: [part for part in parts if name in part.names] for name in ladders}
        self.partners = {name: {n for part in mine for n in part.names} - {name} for name, mine in self.parts.items()}
        self._known: dict[str, tuple[int, Values]] = {}

    def along(self, name: str, start: int = 0) -> Values:
        """Return the cost of all terms with a part of a group at each of its places, as the others stand.

        Args:
            name: of the group.
            start: place before which nothing is asked for; what is said of earlier ones may be NaN.
        """
        known = self._known.get(name)
        if known is None or known[0] > start:
            total = np.zeros(len(self.ladders[name].lost))
            for part in self.parts[name]:
                total = total + part.along(name, start)
            self._known[name] = known = (start, total)
        return known[1]

    def move(self, name: str, to: int) -> None:
        """Let a group stand at another place."""
        here = self.place[name]
        if to != here:
            along = self.along(name, min(here, to))
            self.total += float(along[to] - along[here])
            self.stand(name, to)
            for part in self.parts[name]:
                part.moved(name, here, to)
            for partner in self.partners[name]:
                self._known.pop(partner, None)

    def stand(self, name: str, place: int) -> None:
        """Let a group stand at a place, without a look at the cost."""
        if self._looks:
            ladder, first = self.ladders[name], self.graph.offsets[name]
            low, high = sorted((ladder.gone[self.place[name]], ladder.gone[place]))
            self.keep[[first + unit for unit in ladder.units[low:high]]] = place < self.place[name]
        self.place[name] = place

    def move_all(self, places: Mapping[str, int]) -> None:
        """Let all groups stand at other places."""
        for name, place in places.items():
            self.move(name, place)

    def shared(self, one: str, other: str) -> list[_Multiplied]:
        """Return the products that both of two groups have a part in."""
        return [part for part in self.parts[one] if other in part.names and isinstance(part, _Multiplied)]

    @property
    def lost(self) -> float:
        """What is lost in all groups together."""
        return float(sum(ladder.lost[self.place[name]] for name, ladder in self.ladders.items()))


class _Looked:
    """A term that is looked up, once for each combination of places."""

    def __init__(self, term: TimeTerm, standing: Standing) -> None:
        self.term, self.standing = term, standing
        self.names = [name for name in standing.ladders if name in term.groups]
        self.known: dict[tuple[int, ...], float] = {}

    def along(self, name: str, start: int) -> Values:
        """Return the term at each place of a group from ``start`` on, NaN before."""
        standing, here = self.standing, self.standing.place[name]
        found = np.full(len(standing.ladders[name].lost), np.nan)
        for place in range(start, len(found)):
            at = tuple(place if other == name else standing.place[other] for other in self.names)
            if at not in self.known:
                standing.stand(name, place)
                self.known[at] = self.term.milliseconds(standing.keep)
            found[place] = self.known[at]
        standing.stand(name, here)
        return found

    def moved(self, name: str, before: int, after: int) -> None:
        """Do nothing: places are read when they are asked for."""


class _Multiplied:
    """A product, with what each place of each group leaves of its axes in tables."""

    def __init__(self, term: Product, standing: Standing) -> None:
        self.scale = term.scale
        self.axes = [_Left(axis, standing) for axis in term.axes]
        self.names = [name for name in standing.ladders if any(name in axis.tables for axis in self.axes)]
        self.constant: Values | None = None  # what does not change, as all of it is one group's
        if len(self.names) == 1:
            self.constant = self._along(self.names[0])

    def along(self, name: str, start: int) -> Values:
        """Return the term at each place of a group."""
        return self._along(name) if self.constant is None else self.constant

    def _along(self, name: str) -> Values:
        found: Values = np.full(1, float(self.scale))
        for axis in self.axes:
            found = found * axis.along(name)
        return found

    def matrix(self, one: str, other: str, rows: Places, columns: Places) -> Values:
        """Return the term for all pairs of some places of two groups, ``(len(rows), len(columns))``."""
        found: Values = np.full((1, 1), float(self.scale))
        for axis in self.axes:
            found = found * axis.matrix(one, other, rows, columns)
        return found

    def moved(self, name: str, before: int, after: int) -> None:
        """Bring the axes up to date."""
        for axis in self.axes:
            axis.moved(name, before, after)


_Part = _Looked | _Multiplied


class _Left:
    """How many positions of an axis are left.

    Attributes:
        now: as the groups stand.
        tables: for each group with a part of the axis, by how many positions it changes at each place of the group.
    """

    def __init__(self, axis: Axis, standing: Standing) -> None:
        counts = np.bincount(axis.units.numpy(), minlength=standing.graph.units) * standing.keep.numpy()
        self.now = float(axis.fixed + counts.sum())
        self.tables: dict[str, Values] = {}
        for name, ladder in standing.ladders.items():
            first = standing.graph.offsets[name]
            taken = counts[[first + unit for unit in ladder.units]]
            if taken.any():
                self.tables[name] = -np.concatenate([[0.0], taken.cumsum()])[ladder.gone]
        self._place = dict.fromkeys(self.tables, 0)

    def along(self, name: str) -> Values:
        """Return what is left at each place of a group; of an axis without it the one number."""
        table = self.tables.get(name)
        return np.full(1, self.now) if table is None else self.now - table[self._place[name]] + table

    def matrix(self, one: str, other: str, rows: Places, columns: Places) -> Values:
        """Return what is left for all pairs of some places of two groups."""
        left: Values = np.full((1, 1), self.now)
        for name, places, shape in ((one, rows, (-1, 1)), (other, columns, (1, -1))):
            if name in self.tables:
                table = self.tables[name]
                left = left + (table[places] - table[self._place[name]]).reshape(shape)
        return left

    def moved(self, name: str, before: int, after: int) -> None:
        """Take over where a group stands."""
        if name in self.tables:
            self.now += float(self.tables[name][after] - self.tables[name][before])
            self._place[name] = after
