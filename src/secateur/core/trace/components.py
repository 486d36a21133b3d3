"""Which atoms live and die together, once everything that was learned is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.graph.outputs import named
from secateur.core.trace.clock import Clock
from secateur.core.trace.slots import Pinning
from secateur.core.trace.state import State

NOT_PRUNABLE = -1

Edges = tuple[Tensor, Tensor]


class Components:
    """Which atoms live and die together.

    Attributes:
        clock: stops what takes too long.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self.clock = clock
        for edges in (state.edges, state.sums):  # joined once, not at every call
            edges[:] = [(torch.cat([a for a, _ in edges]), torch.cat([b for _, b in edges]))] if edges else []
        bound = self._bind_grids()
        self.of = self._tied([*state.edges, *state.sums, *bound])  # (atoms,) component of each atom
        self.apart = self._tied([*state.edges, *bound])  # the same, were nothing added up
        self.reasons: dict[int, tuple[str, str]] = {}
        returned: dict[int, list[Pinning]] = {}
        for pinning in state.pins:
            for component in torch.unique(self.of[pinning.atoms]).tolist():
                self.reasons.setdefault(component, (pinning.reason, pinning.remedy))
                if pinning.output is not None:
                    returned.setdefault(component, []).append(pinning)
        self._name_outputs(returned)
        self.reasons.setdefault(int(self.of[L.FIXED]), ("joined with channels that cannot be removed", ""))
        self._pinned = torch.zeros(int(self.of.max()) + 1, dtype=torch.bool)
        self._pinned[torch.tensor(list(self.reasons))] = True

    def _name_outputs(self, returned: Mapping[int, Sequence[Pinning]]) -> None:
        """Let the reasons name all outputs of a component: those that must keep their width, else all that may not."""
        for component, pinnings in returned.items():
            if self.reasons[component] == (pinnings[0].reason, pinnings[0].remedy):
                worst = [each for each in pinnings if not each.remedy] or pinnings
                self.reasons[component] = named([each.output or "" for each in worst]), worst[0].remedy

    def _tied(self, edges: Sequence[Edges]) -> Tensor:
        if not edges:
            return torch.arange(self._state.atoms)
        a, b = (torch.cat([edge[i] for edge in edges]) for i in (0, 1))
        return _connected(a, b, self._state.atoms)

    def _bind_grids(self) -> list[Edges]:
        """Tie what must go together so that what is left of a tensor stays a rectangle.

        A channel may vary along one dimension only. Grids are settled one after the other, in the order of execution:
        ties only ever make others simpler. What stays counts as one channel, which is never tied to itself.
        """
        state, bound = self._state, list[Edges]()
        pins = torch.cat([torch.tensor([L.FIXED]), *(pinning.atoms for pinning in state.pins)])
        fixed = (pins, torch.full_like(pins, L.FIXED))
        ties = Ties(self._tied([*state.edges, *state.sums, fixed]))
        for grid in state.grids:
            self.clock.check("binding channels that meet in a grid")
            if _is_rectangular(ties.of[grid]):
                continue
            channel = _channel_dim(grid)
            first = grid
            for d in L.varying(grid):
                if d != channel:
                    first = first.narrow(d, 0, 1)
            differ = grid != first
            edge = (grid[differ], first.expand_as(grid)[differ])
            bound.append(edge)
            ties.tie(*edge)
        return bound

    def why_pinned(self, atoms: Tensor) -> list[tuple[str, str]]:
        """Return reason and remedy for each of the atoms that is pinned."""
        component = self.of[atoms]
        return [self.reasons[c] for c in component[self._pinned[component]].tolist()]

    def prunable(self, atoms: Tensor) -> Tensor:
        """Return the component of each atom, -1 where it is pinned."""
        component = self.of[atoms]
        return torch.where(self._pinned[component] | (atoms == L.FIXED), NOT_PRUNABLE, component)


class Ties:
    """Components to which ties are added: each costs as much as the atoms that it renames, the fewer of those tied.

    Attributes:
        of: ``(atoms,)`` component of each atom.
    """

    def __init__(self, of: Tensor) -> None:
        self.of = of
        self._members: dict[int, list[Tensor]] | None = None

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Put the components of atoms at the same places together."""
        if self._members is None:  # most networks tie nothing
            counts = torch.bincount(self.of).tolist()
            self._members = {c: [part] for c, part in enumerate(torch.argsort(self.of).split(counts))}
        pairs = torch.unique(torch.stack([self.of[a], self.of[b]]), dim=1)
        names, places = torch.unique(pairs, return_inverse=True)
        classes = _connected(places[0], places[1], len(names))
        order = torch.argsort(classes, stable=True)
        for alike in names[order].split(torch.bincount(classes).tolist()):
            self._rename(alike.tolist())

    def _rename(self, components: Sequence[int]) -> None:
        assert self._members is not None
        members = self._members
        largest = max(components, key=lambda c: sum(map(len, members[c])))
        for component in components:
            if component != largest:
                parts = members.pop(component)
                self.of[torch.cat(parts)] = largest
                members[largest] += parts


def _connected(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Return the component of each of so many nodes under edges, numbered from 0."""
    graph = sp.coo_matrix((np.ones(len(a), np.int8), (a.numpy(), b.numpy())), shape=(count, count))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))


def _is_rectangular(units: Tensor) -> bool:
    return len(L.varying(L.compact(units))) <= 1


def _channel_dim(grid: Tensor) -> int:
    """Choose the dimension that shrinks: the last one, but maps (the last two of four or more) keep their size."""
    dims = L.varying(grid)
    before_map = [d for d in dims if d < grid.dim() - 2]
    if grid.dim() < 4 or not before_map:
        return dims[-1]
    return before_map[-1]
