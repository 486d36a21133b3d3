"""How large a network is on paper: exact sizes under a plan, without cutting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from secateur import rules
from secateur.arguments import checked
from secateur.core.graph import Graph, staying
from secateur.core.graph.written_sizes import Axis
from secateur.core.operator_macs import Uncounted, remark
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.sizes.regrouped import layouts, saved_macs, saved_params
from secateur.errors import PlanError, SettingError
from secateur.reading import written

Measure = Literal["macs", "params", "nonzero", "units"]
_NAMES = {"macs": "MACs", "params": "parameters"}
_OF = rules.one_of(Measure)
_SHARE = rules.number(lambda keep: 0.0 < keep <= 1.0, "in (0, 1]")


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        params: number of parameters (buffers not counted).
        macs: multiply-accumulates of one forward of the example inputs (1 MAC = 2 FLOPs).
        nonzero: parameters that the plan does not set to zero; storage, not speed.
        units: units left in the groups.
        uncounted: operators that multiply and are not in ``macs``.
    """

    params: int
    macs: int
    nonzero: int
    units: int
    uncounted: tuple[Uncounted, ...] = ()

    @property
    def missing(self) -> str:
        """Say what is not counted; empty if everything is."""
        return self.remark(self, None)

    def remark(self, dense: Size, keep: float | None) -> str:
        """Say what is not counted, and what that means for a target of MACs; empty if everything is counted.

        Args:
            dense: size of the dense network.
            keep: the fraction of its MACs that was asked for; None if it was not.
        """
        names, least = ", ".join(map(str, self.uncounted)), sum(each.least for each in self.uncounted)
        return remark(names, least, dense.macs, self.macs, keep)

    def of(self, measure: Measure) -> int:
        """Return the size in one measure."""
        return int(getattr(self, measure))


@checked
@dataclass(frozen=True)
class Target:
    """Keep at most the fraction ``keep`` of the dense network's ``of``.

    Raises:
        SettingError: if ``keep`` is not in (0, 1] or the measure is unknown.
    """

    keep: float
    of: Measure = "macs"

    def __post_init__(self) -> None:
        of, wrong = rules.judged(self.of, _OF)
        if wrong:
            raise SettingError(f"unknown measure {written(self.of)}; choose one of {', '.join(get_args(Measure))}")
        object.__setattr__(self, "of", of)
        keep, wrong = rules.judged(self.keep, replace(_SHARE, remark=self._instead))
        if wrong:
            raise SettingError(f"keep {wrong}")
        object.__setattr__(self, "keep", keep)

    def _instead(self, keep: Any) -> str:
        """Return what a fraction is, and what to write for a number of MACs or parameters, or for percent."""
        wanted = ": it is the fraction that stays"
        if self.of in _NAMES and rules.is_count(keep):
            return f"{wanted}; for a number of {_NAMES[self.of]} give budget=Budget(max_{self.of}={keep!r}) instead"
        return f"{wanted}; {keep!r} % is {keep / 100:g}" if rules.is_percentage(keep) else wanted

    def most(self, whole: int) -> int:
        """Return the most that may be left of a dense network of this size."""
        # sizes are whole numbers; the product of two decimals may fall a hair below the one that was meant
        return int(self.keep * whole * (1 + 1e-12) + 1e-9)


class _Products:
    """A sum of products of axes, each of them as long as what is left of it."""

    def __init__(self, terms: Sequence[tuple[int, Sequence[Axis]]], units: int) -> None:
        axes = [axis for _, factors in terms for axis in factors]
        self._scales = np.array([scale for scale, _ in terms], dtype=np.float64)
        self._spans = np.cumsum([0] + [len(factors) for _, factors in terms])[:-1]
        self._fixed = np.array([axis.fixed for axis in axes], dtype=np.float64)
        rows = np.repeat(np.arange(len(axes)), [len(axis.units) for axis in axes])
        columns = torch.cat([axis.units for axis in axes]).numpy() if axes else np.zeros(0, np.int64)
        self._positions = sp.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(axes), units))

    def left(self, keep: Tensor) -> int:
        """Return the sum when the units with ``keep`` False are gone."""
        if not len(self._scales):
            return 0
        left = self._fixed + self._positions @ keep.numpy().astype(np.float64)
        # float64 holds integers exactly up to 2**53, beyond any network; the products stay below that
        return int((np.multiply.reduceat(left, self._spans) * self._scales).sum())


class Ruler:
    """Sizes of one graph under any choice of units; built once, then fast enough for a search."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._macs = _Products([(cost.scale, cost.axes) for cost in graph.costs], graph.units)

    @cached_property
    def _params(self) -> _Products:
        return _Products([(1, self._axes(name)) for name in self.graph.parameters], self.graph.units)

    def _axes(self, name: str) -> list[Axis]:
        shape, dims = self.graph.tensors[name]
        none = torch.zeros(0, dtype=torch.long)
        axes = [
            Axis(size, none) if units is None else Axis(int((units < 0).sum()), units[units >= 0])
            for size, units in zip(shape, dims, strict=True)
        ]
        return axes or [Axis(1, none)]  # a single number

    def macs(self, keep: Tensor) -> int:
        """Return the MACs left when the units with ``keep`` False are gone."""
        return self._macs.left(keep)

    def params(self, keep: Tensor) -> int:
        """Return the parameters left."""
        return self._params.left(keep)

    def shape(self, name: str, keep: Tensor) -> tuple[int, ...]:
        """Return the shape of a tensor after removal."""
        shape, dims = self.graph.tensors[name]
        return tuple(
            size if units is None else int(staying(units, keep).sum()) for size, units in zip(shape, dims, strict=True)
        )

    def measure(self, measure: Measure, keep: Tensor) -> int:
        """Return one measure of the thin network, single weights set to zero not considered."""
        match measure:
            case "macs":
                return self.macs(keep)
            case "units":
                return int(keep.sum())
            case _:
                return self.params(keep)


@lru_cache(maxsize=8)
def ruler(graph: Graph) -> Ruler:
    """Return the ruler of a graph, made once per graph."""
    return Ruler(graph)


@checked
def size(graph: Graph, plan: Plan = EMPTY) -> Size:
    """Return the exact size of the network under the plan, on paper.

    Raises:
        PlanError: if the plan does not belong to the graph.
    """
    rule, keep = ruler(graph), graph.kept(plan)
    found = layouts(graph, plan, keep)
    params = rule.params(keep) - saved_params(graph, found)
    zeros = 0
    for name, mask in zero_masks(graph, plan, keep).items():
        layout = found.get(name.rpartition(".")[0]) if name.endswith(".weight") else None
        inside = ~mask if layout is None else ~mask[layout.mask()]
        zeros += int(inside.sum())
    macs = rule.macs(keep) - saved_macs(graph, found, keep)
    return Size(params, macs, params - zeros, int(keep.sum()), graph.uncounted)


def zero_masks(graph: Graph, plan: Plan, keep: Tensor) -> dict[str, Tensor]:
    """Return for each tensor with single weights to silence its mask (True = keep), in the shape after removal.

    Raises:
        PlanError: if a mask is of a tensor or shape that the network does not have.
    """
    masks: dict[str, Tensor] = {}
    for edit in plan.edits:
        if not isinstance(edit, ZeroWeights):
            continue
        if edit.tensor not in graph.tensors or graph.tensors[edit.tensor][0] != edit.shape:
            raise PlanError(
                f"the plan masks '{edit.tensor}' with shape {edit.shape}, which this network does not have; "
                "is it of another network?"
            )
        mask = sliced(edit.mask(), graph.tensors[edit.tensor][1], keep)
        masks[edit.tensor] = masks[edit.tensor] & mask if edit.tensor in masks else mask
    return masks


def sliced(tensor: Tensor, dims: tuple[Tensor | None, ...], keep: Tensor) -> Tensor:
    """Return ``tensor`` without the positions whose unit is not kept."""
    for d, units in enumerate(dims):
        if units is not None:
            left = torch.nonzero(staying(units, keep)).flatten()
            if len(left) < len(units):
                tensor = tensor.index_select(d, left.to(tensor.device))
    return tensor
