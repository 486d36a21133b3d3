"""Which atoms live and die together, once everything that was learned is put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from secateur.core import labels as L
from secateur.core.trace.state import State

NOT_PRUNABLE = -1


class Components:
    """Which atoms live and die together."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._bind_grids()
        self.of = self._solve()  # (atoms,) component of each atom
        self.apart = self._tied(self._state.edges)  # the same, were nothing added up
        self.reasons = {int(self.of[L.FIXED]): ("joined with channels that cannot be removed", "")}
        for pinning in state.pins:
            for component in torch.unique(self.of[pinning.atoms]).tolist():
                self.reasons.setdefault(component, (pinning.reason, pinning.remedy))
        self._pinned = torch.zeros(int(self.of.max()) + 1, dtype=torch.bool)
        self._pinned[torch.tensor(list(self.reasons))] = True

    def _solve(self) -> Tensor:
        for edges in (self._state.edges, self._state.sums):  # joined once, not at every call
            edges[:] = [(torch.cat([a for a, _ in edges]), torch.cat([b for _, b in edges]))] if edges else []
        return self._tied([*self._state.edges, *self._state.sums])

    def _tied(self, edges: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        if not edges:
            return torch.arange(self._state.atoms)
        a, b = (torch.cat([edge[i] for edge in edges]) for i in (0, 1))
        graph = sp.coo_matrix((np.ones(len(a), np.int8), (a.numpy(), b.numpy())), shape=(self._state.atoms,) * 2)
        return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))

    def _bind_grids(self) -> None:
        """What is left of a tensor must stay a rectangle: a channel may vary along one dimension only."""
        pending = list(self._state.grids)
        while pending:
            component = self._solve()
            touched: set[int] = set()
            waiting: list[Tensor] = []
            for grid in pending:
                units = component[grid]
                if _is_rectangular(units):
                    continue
                waiting.append(grid)
                present = set(torch.unique(units).tolist())
                if present & touched:
                    continue  # an earlier decision of this pass may settle it
                touched |= present
                self._state.merge(grid, [d for d in L.varying(grid) if d != _channel_dim(grid)])
            pending = waiting

    def why_pinned(self, atoms: Tensor) -> list[tuple[str, str]]:
        """Return reason and remedy for each of the atoms that is pinned."""
        component = self.of[atoms]
        return [self.reasons[c] for c in component[self._pinned[component]].tolist()]

    def prunable(self, atoms: Tensor) -> Tensor:
        """Return the component of each atom, -1 where it is pinned."""
        component = self.of[atoms]
        return torch.where(self._pinned[component] | (atoms == L.FIXED), NOT_PRUNABLE, component)


def _is_rectangular(units: Tensor) -> bool:
    return len(L.varying(L.compact(units))) <= 1


def _channel_dim(grid: Tensor) -> int:
    """Choose the dimension that shrinks: the last one, but maps (the last two of four or more) keep their size."""
    dims = L.varying(grid)
    before_map = [d for d in dims if d < grid.dim() - 2]
    if grid.dim() < 4 or not before_map:
        return dims[-1]
    return before_map[-1]
