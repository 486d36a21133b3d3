"""The widths that lose the least within a limit of size: exchanges between pairs of groups.

A descent stops where the next jump would go too far below the limit, and what it did early was done at the prices of
the whole network: a layer's cost is the product of what it reads and what it makes. From where it stops, pairs of
groups are given the best widths that the others leave room for, all of them tried, until no pair can do better. Groups
that share layers with many others are then pushed to other widths, in case all would do better there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from secateur.core.selection.descent import Descent
from secateur.core.selection.width_ladders import Places, Standing

_PAIRS = 20_000
"""Most pairs that are looked at: many pushes for few groups, few or none for many."""
_NEAR, _FAR = 24, 48
"""Of a longer ladder these places are tried: so many on either side of where a group stands, and so many in all."""
_PUSHES = tuple(sign * share for share in (0.5, 0.25, 0.125, 0.0625, 0.75, 0.375, 0.1875, 0.03) for sign in (1, -1))
"""By which shares of its ladder a group is pushed."""
_LESS = 1 - 1e-9


def least_lost(standing: Standing, goal: float) -> dict[str, int] | None:
    """Return the places of all groups at which the least is lost of all networks that cost no more than a limit.

    Near the best rather than proven: the tests compare with all combinations.

    Args:
        standing: all groups at place 0, with exact sizes for costs; left where the search ended.
        goal: the limit, a whole number.

    Returns:
        Places; None if even the thinnest network costs more.
    """
    Descent(standing).down({}, goal + 0.5)
    if standing.total > goal + 0.5:
        return None
    search = _Exchange(standing, goal + 0.5)
    search.settle()
    best, least = dict(standing.place), standing.lost
    pushes = search.pushes()
    while search.left > 0 and (push := next(pushes, None)) is not None:
        name, by = push
        to = best[name] + round(by * len(standing.ladders[name].rungs))
        if to == best[name] or not 0 <= to < len(standing.ladders[name].lost):
            continue
        standing.move(name, to)
        Descent(standing).down({name: to}, search.goal)
        if standing.total <= search.goal:
            search.settle(held=name)  # or what it has left would go back to it at once
            search.settle()
        if standing.total <= search.goal and standing.lost < _LESS * least:
            best, least = dict(standing.place), standing.lost
            pushes = search.pushes()
        standing.move_all(best)
    return best


class _Exchange:
    """Gives pairs of groups the best widths that the others leave room for.

    Attributes:
        left: how many pairs may still be looked at.
    """

    def __init__(self, standing: Standing, goal: float) -> None:
        self.standing, self.goal, self.left = standing, goal, _PAIRS
        # of widths that lose the same only the last is of use
        self.useful = {
            name: np.flatnonzero(np.append(np.diff(ladder.lost) > 0, True)) for name, ladder in standing.ladders.items()
        }

    def pushes(self) -> Iterator[tuple[str, float]]:
        """Return which groups to push by how much, those that share layers with many others first."""
        partners = self.standing.partners
        for name in sorted(partners, key=lambda name: -len(partners[name])):
            for by in _PUSHES:
                yield name, by

    def settle(self, held: str = "") -> None:
        """Exchange until no pair can do better, one group perhaps held where it stands."""
        names = [name for name in self.standing.ladders if name != held]
        better = True
        while better:
            better = False
            for name in names:
                better |= self.widen(name)
            for one, other in combinations(names, 2):
                if self.left <= 0:
                    return
                self.left -= 1
                better |= self.exchange(one, other)

    def widen(self, name: str) -> bool:
        """Give back to a group what still fits; tell whether that was anything."""
        standing, ladder = self.standing, self.standing.ladders[name]
        along, here = standing.along(name), standing.place[name]
        to = int((along <= self.goal - standing.total + along[here]).argmax())  # the widest, as costs fall
        if not ladder.lost[to] < _LESS * ladder.lost[here]:
            return False
        standing.move(name, to)
        return True

    def exchange(self, one: str, other: str) -> bool:
        """Give two groups the best widths that the others leave room for; tell whether that lost less."""
        standing = self.standing
        rows, columns = self.candidates(one), self.candidates(other)
        here = standing.place[one], standing.place[other]
        first, second = standing.along(one), standing.along(other)
        now = first[here[0]] + second[here[1]]
        first, second = first[rows], second[columns]
        costs = np.zeros((1, 1))
        for part in standing.shared(one, other):
            along = part.along(one, 0), part.along(other, 0)
            now -= along[0][here[0]]
            first, second = first - along[0][rows], second - along[1][columns]
            costs = costs + part.matrix(one, other, rows, columns)
        fits = costs + first[:, None] + second <= self.goal - standing.total + now
        column = fits.argmax(1)  # the widest that fits, as costs fall along a ladder
        lost = standing.ladders[one].lost[rows] + standing.ladders[other].lost[columns[column]]
        lost[~fits[np.arange(len(rows)), column]] = np.inf
        row = int(lost.argmin())
        before = standing.ladders[one].lost[here[0]] + standing.ladders[other].lost[here[1]]
        if not lost[row] < _LESS * before:
            return False
        standing.move(one, int(rows[row]))
        standing.move(other, int(columns[column[row]]))
        return True

    def candidates(self, name: str) -> Places:
        """Return places of a group to try, ascending."""
        useful, here = self.useful[name], self.standing.place[name]
        if len(useful) > 2 * _NEAR + _FAR:
            middle = int(np.searchsorted(useful, here))
            near = useful[max(0, middle - _NEAR) : middle + _NEAR]
            useful = np.concatenate([near, useful[np.linspace(0, len(useful) - 1, _FAR).astype(int)]])
        return np.unique(np.append(useful, here))
