"""What widths could do for the speed of a CIFAR ResNet, by the table of its layers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Group
from secateur.core.selection.target_selection import plan_of
from secateur.core.sizes.size import ruler
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.measure import count
from secateur.measure.forecast import Forecast
from secateur.measure.layer_table import LayerTable
from speed_networks import Variant
from speed_tables import Row, possible

GRIDS = (4, 8, 16)
LEAST = 0.49  # of the MACs; networks between this and half of them count as half


@dataclass(eq=False)
class Possible:
    """The networks of half of the MACs whose widths are on a grid.

    All blocks of a stage are alike; the widths inside its blocks and of what the stages hand on are free.

    Attributes:
        model: a CIFAR ResNet.
        image: one image.
        graph: of the model.
        kinds: the groups that share a width.
        candidates: for each grid, MACs left and a width for each kind.
    """

    model: nn.Module
    image: Tensor
    graph: Graph
    kinds: dict[str, list[Group]]
    candidates: dict[int, list[tuple[float, tuple[int, ...]]]]

    @staticmethod
    def of(model: nn.Module, image: Tensor) -> Possible:
        """List the networks; the image is one."""
        graph = trace(model, image)
        kinds: dict[str, list[Group]] = {}
        for group in graph.free:
            inner = "." in group.name and group.name.endswith("conv1")
            kinds.setdefault(f"inside {group.name.partition('.')[0]}" if inner else group.name, []).append(group)
        it = Possible(model, image, graph, kinds, {})
        dense = ruler(graph).macs(torch.ones(graph.units, dtype=torch.bool))
        for grid in GRIDS:
            options = [range(grid, groups[0].size + 1, grid) for groups in kinds.values()]
            shares = ((ruler(graph).macs(it.kept(w)) / dense, w) for w in itertools.product(*options))
            it.candidates[grid] = [(share, widths) for share, widths in shares if LEAST < share <= 0.5]
        return it

    def kept(self, widths: tuple[int, ...]) -> Tensor:
        """Return the units, ``(graph.units,)`` bool, of which every group keeps as many as its kind has."""
        keep = torch.ones(self.graph.units, dtype=torch.bool)
        for groups, width in zip(self.kinds.values(), widths, strict=True):
            for group in groups:
                start = self.graph.offsets[group.name]
                keep[start + width : start + group.size] = False
        return keep

    def by_table(self, runtime: str, whole: float) -> dict[str, Any]:
        """Return what the table of layers says of one runtime, one thread.

        Args:
            runtime: see ``Runtime``.
            whole: milliseconds of the dense network there.

        Returns:
            ``rest``, the share of the dense time outside convolutions and linear layers, and under ``grids`` for each
            grid the best time ratio with its MACs ratio and widths, None where the grid cannot reach half.
        """
        table = LayerTable.here(runtime, 1, torch.device("cpu"))
        forecast = Forecast.of(self.model, self.graph, self.image, table, whole)
        grids = {str(grid): self._best(forecast, grid) for grid in GRIDS}
        table.save()
        return {"rest": round(forecast.rest, 4), "grids": grids}

    def best(self, row: Row) -> Variant:
        """Return the network that is the fastest by the table, cut from the model."""
        found = possible(row)
        assert found is not None
        widths = tuple(found[1]["widths"][kind] for kind in self.kinds)
        thin = apply(self.model, self.graph, plan_of(self.graph, self.kept(widths)))
        return Variant(thin, count(thin, self.image).macs, "")

    def _best(self, forecast: Forecast, grid: int) -> dict[str, Any] | None:
        if not self.candidates[grid]:
            return None
        times = [(forecast.milliseconds(self.kept(widths)), share, widths) for share, widths in self.candidates[grid]]
        time, share, widths = min(times)
        names = dict(zip(self.kinds, widths, strict=True))
        return {"time": round(forecast.whole / time, 4), "macs": round(1 / share, 4), "widths": names}
