"""Let filters that value the same inputs share a group, and let each group read only the inputs that it values.

Idea.         Fixed equal groups ignore what was learned. Filters whose importance over the input channels is alike
              form a group, and the centroid of the group says which inputs the whole group can do without: a group
              convolution with groups of different size and different, perhaps overlapping, inputs. No output goes,
              so residual sums are no obstacle.
Rule.         Importance of input c to filter j: sum of |w| over the kernel (j, c). k-means puts the filters of a
              layer into ``groups`` clusters. One threshold for the layer: the p-th percentile of the centroids'
              entries, each counted once for every member, what is already dropped as zero. A group keeps the inputs
              in which its centroid is above the threshold, at least one. p is ``conv`` for convolutions and ``fc``
              for linear layers, reached in steps of 10 or at once; the first convolution and projection shortcuts
              stay dense.
Needs.        Weights only.
Cost.         One k-means with ``restarts`` restarts for each layer and step; minutes for large linear layers.
Differences.  The paper's text was not open to us; this is the released code. There the mask of a group's first
              member stands for all members, here each filter keeps its own, and a group keeps its last input unless
              ``min_inputs`` is 0.
              The paper trains between the steps. For that write a chain of stages with rising percentages (a recipe's
              [[then]], ``then`` of ``prune``), as in recipes/self_grouping_resnet56.toml: ``rounds`` would ask for
              the same percentage again and again, and percentages count what is dropped already. Within one round the
              steps follow each other without training. With a target, p is the smallest percentage that meets it, for
              linear layers at most ``fc``. Inputs that no group reads are removed from the layer that makes them,
              unless ``drop_unread`` is off; the paper counts them on. ``normalize`` makes every filter's importances
              sum to one, so that filters with large weights do not decide alone. ``align`` moves filters at the least
              cost in squared distance between clusters, and ``align_inputs`` takes the inputs that a centroid values
              most up to a multiple, so that groups have widths that run fast; the paper has neither, 1 is as there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import nn

from secateur.core.graph import Graph, within
from secateur.core.method import Method, Paper
from secateur.core.plan import Plan, Regroup
from secateur.core.problem import Problem
from secateur.core.sizes.limits import BLOCK, Multiple, small
from secateur.core.sizes.regrouped import blocks_of, without_unread
from secateur.core.sizes.size import size
from secateur.core.zeros.blocks import BlockLayer
from secateur.core.zeros.regroupable import can_be_regrouped, is_convolution, is_projection, layers_of
from secateur.errors import SettingError, TargetError

Schedule = Literal["steps", "once"]
_PARTS = 4  # groups that a layer has at least where multiples are chosen for it
_PRECISION = 16  # halvings of the range of percentages when a target is approached


@dataclass(frozen=True)
class SelfGrouping(Method):
    """Groups of filters found by clustering, each with the inputs that it values.

    Attributes:
        conv: percentage of kernels to drop from each convolution, 0 to 100; with a target, the target decides.
        fc: the same for linear layers; with a target, an upper bound.
        groups: clusters in each layer; fewer in layers with fewer outputs.
        schedule: steps (10, 20, ... percent, each clustering what the last one left) or once.
        normalize: divide each filter's importances by their sum.
        dense: patterns of layer names that stay as they are; so do those that are left alone (``leave``), whose units
            stay as well.
        stem: also regroup the first convolution.
        projections: also regroup the projection shortcuts of residual networks.
        drop_unread: remove what no group reads any more.
        min_inputs: every group keeps at least this many inputs; with 0, as in the released code, filters may end
            up without any and put out their bias alone.
        align: groups hold a multiple of this many filters (as far as the layer has them), at most as many groups as
            that leaves; processors compute 16 or so outputs at once, and a group of 4 takes as long as one of 16.
            1 = any number, as in the paper; auto = the run's multiple, or 16, less where a layer has less than 64
            filters.
        align_inputs: groups read a multiple of this many inputs, the nearest to what the percentage gives them, so the
            share dropped is near the percentage only in layers that are wide enough; 1 and auto as for ``align``.
        restarts: of each k-means.
    """

    conv: float = 60.0
    fc: float = 60.0
    groups: int = 16
    schedule: Schedule = "steps"
    normalize: bool = False
    dense: Sequence[str] = ()
    stem: bool = False
    projections: bool = False
    drop_unread: bool = True
    min_inputs: int = 1
    align: Multiple = "auto"
    align_inputs: Multiple = "auto"
    restarts: int = 10

    paper: ClassVar[Paper] = Paper(
        title="Self-grouping Convolutional Neural Networks",
        authors="Qingbei Guo, Xiao-Jun Wu, Josef Kittler, Zhiquan Feng",
        venue="Neural Networks 132:491-505",
        year=2020,
        link="doi:10.1016/j.neunet.2020.09.015",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("conv", "fc"):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise SettingError(f"{name} is a percentage and must be in 0 to 100, not {getattr(self, name)}")
        for name in ("groups", "align", "align_inputs", "restarts"):
            if getattr(self, name) != "auto" and getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.min_inputs < 0:
            raise SettingError(f"min_inputs must not be negative, not {self.min_inputs}")
        object.__setattr__(self, "dense", (self.dense,) if isinstance(self.dense, str) else tuple(self.dense))

    def plan(self, problem: Problem) -> Plan:
        """Group every layer at its percentage, or with a target all at the smallest that meets it.

        Raises:
            TargetError: if no layer can be regrouped, or the target cannot be reached.
        """
        names = self.layers(problem.model, problem.graph)
        if not names:
            raise TargetError(
                "no layer can be regrouped: only plain convolutions and linear layers with two inputs or more can, "
                "and the first convolution and projections only if asked (stem, projections)"
            )
        seeds = torch.randint(2**31 - 1, (len(names),), generator=problem.rng).tolist()
        layers = [
            _Layer(problem.model, name, self, problem.limits.multiple, seed)
            for name, seed in zip(names, seeds, strict=True)
        ]
        if problem.target is None:
            return self._at(problem, layers, self.conv, self.fc)
        return self._meet(problem, layers)

    def layers(self, model: nn.Module, graph: Graph) -> list[str]:
        """Return the layers to regroup, in the order of execution."""
        names = layers_of(model, graph)
        convolutions = [name for name in names if is_convolution(model.get_submodule(name))]
        stay = {name for name in names if any(within(name, pattern) for pattern in self.dense)}
        if not self.stem:
            stay |= set(convolutions[:1])
        if not self.projections:
            stay |= {name for name in convolutions if is_projection(model, graph, name)}
        return [name for name in names if name not in stay and can_be_regrouped(model, graph, name)]

    def _at(self, problem: Problem, layers: Sequence[_Layer], conv: float, fc: float) -> Plan:
        edits = tuple(edit for layer in layers for edit in layer.edits(fc if layer.linear else conv))
        return without_unread(problem.graph, Plan(edits), problem.limits) if self.drop_unread else Plan(edits)

    def _meet(self, problem: Problem, layers: Sequence[_Layer]) -> Plan:
        graph, target = problem.graph, problem.target
        assert target is not None
        whole = size(graph).of(target.of)
        goal = target.keep * whole

        def at(percent: float) -> Plan:
            return self._at(problem, layers, percent, min(percent, self.fc))

        best, low, high = at(100.0), 0.0, 100.0
        smallest = size(graph, best).of(target.of)
        if smallest > goal:
            raise TargetError(
                f"cannot keep only {target.keep:.3g} of the {target.of}: with as few inputs in every group as may be "
                f"{smallest / whole:.3g} remain; ask for at least that, raise fc, or let more layers take part",
                smallest / whole,
            )
        for _ in range(_PRECISION):
            middle = (low + high) / 2
            plan = at(middle)
            if size(graph, plan).of(target.of) <= goal:
                best, high = plan, middle
            else:
                low = middle
        return best


class _Layer:
    """One layer on its way from dense to grouped; what was found once is remembered."""

    def __init__(self, model: nn.Module, name: str, method: SelfGrouping, multiple: Multiple, seed: int) -> None:
        self.name = name
        self._module = model.get_submodule(name)
        self._method, self._seed = method, seed
        weight: Any = self._module.weight
        self.linear = weight.dim() == 2
        self._align = _multiple(method.align, multiple, weight.shape[0])
        self._align_inputs = _multiple(method.align_inputs, multiple, weight.shape[1])
        self._importance = weight.detach().float().abs().flatten(2).sum(2) if not self.linear else weight.detach().abs()
        self._importance = self._importance.cpu().numpy().astype(np.float32)
        if not np.isfinite(self._importance).all():
            raise SettingError(f"the weights of '{name}' contain NaN or infinite values; the network cannot be grouped")
        if method.normalize:
            self._importance = self._importance / np.maximum(self._importance.sum(1, keepdims=True), 1e-12)
        dense = np.ones(self._importance.shape, dtype=bool)
        start = self._module.layout().mask().numpy() if isinstance(self._module, BlockLayer) else dense
        self._stages: list[tuple[float, _Clusters]] = [(100.0 * (1 - start.mean()), self._cluster(start))]

    def edits(self, percent: float) -> list[Regroup]:
        """Return the edits that leave the layer with about this percentage of its kernels dropped."""
        mask = torch.from_numpy(self._mask(percent))
        if isinstance(self._module, BlockLayer):
            own: list[Regroup] = []
            for number, block in enumerate(self._module.layout().blocks):
                part = mask[list(block.outputs)][:, list(block.inputs)]
                if block.inputs and not bool(part.all()):
                    own.append(Regroup(f"{self.name}.blocks.{number}", blocks_of(part)))
            return own
        return [] if bool(mask.all()) else [Regroup(self.name, blocks_of(mask))]

    def _mask(self, percent: float) -> Any:
        grid = [float(p) for p in range(10, 100, 10)] if self._method.schedule == "steps" else []
        for step in grid:
            if step >= percent:
                break
            if step > self._stages[-1][0]:
                self._stages.append((step, self._cluster(self._stages[-1][1].drop(step))))
        # the last stage that lies below the percentage: a search may have gone further before
        return next((c for done, c in reversed(self._stages) if done < percent), self._stages[0][1]).drop(percent)

    def _cluster(self, mask: Any) -> _Clusters:
        rows = self._importance * mask
        groups = min(self._method.groups, max(1, len(rows) // self._align))
        labels = _aligned(rows, _kmeans(rows, groups, self._method.restarts, self._seed), self._align)
        return _Clusters(rows, mask, labels, self._method.min_inputs, self._align_inputs)


class _Clusters:
    """The filters of a layer in clusters, before inputs are dropped."""

    def __init__(self, rows: Any, mask: Any, labels: Any, least: int, multiple: int) -> None:
        self._least, self._multiple = least, multiple
        members = np.eye(labels.max() + 1, dtype=rows.dtype)[labels]  # (filters, clusters)
        centroids = (members.T @ rows) / np.maximum(members.sum(0), 1)[:, None]
        self._mask = mask
        self._values = centroids[labels] * mask  # (filters, inputs)
        self._sorted = np.sort(self._values, axis=None)

    def drop(self, percent: float) -> Any:
        """Return which inputs each filter keeps when this percentage of all kernels is dropped."""
        place = percent / 100.0 * (self._sorted.size - 1)  # linear interpolation, as numpy's percentile
        below = int(place)
        above = min(below + 1, self._sorted.size - 1)
        low, high = float(self._sorted[below]), float(self._sorted[above])
        keep = self._mask & (self._values > low + (place - below) * (high - low)) if percent > 0 else self._mask.copy()
        wanted, most = keep.sum(1), self._mask.sum(1)
        if self._multiple > 1 and percent > 0:
            wanted = np.maximum(np.rint(wanted / self._multiple), wanted > 0).astype(int) * self._multiple
        wanted = np.minimum(np.maximum(wanted, self._least), most)
        for filter in np.flatnonzero(keep.sum(1) != wanted):
            best = np.argsort(-np.where(self._mask[filter], self._values[filter], -1.0), kind="stable")
            keep[filter] = False
            keep[filter, best[: wanted[filter]]] = True
        if not keep.any():  # something must be read, or the layer could go as a whole
            keep[self._values == self._values.max()] = self._mask[self._values == self._values.max()]
        return keep


def _multiple(own: Multiple, limits: Multiple, size: int) -> int:
    """Return the method's own multiple, else that of the run, else one that runs fast and leaves several groups."""
    chosen = limits if own == "auto" else own
    return small(BLOCK, size, _PARTS) if chosen == "auto" else chosen


def _kmeans(rows: Any, groups: int, restarts: int, seed: int) -> Any:
    """Return the cluster of each row; clusters that stay empty are left out."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct filters than groups
        means: Any = cast(Any, KMeans)(
            min(groups, len(rows)), n_init=restarts, max_iter=300, init="random", random_state=seed
        )
        return np.unique(means.fit_predict(rows), return_inverse=True)[1]


def _aligned(rows: Any, labels: Any, multiple: int) -> Any:
    """Return labels of clusters whose sizes are multiples, but for one where the number of rows is none."""
    from scipy.optimize import linear_sum_assignment

    sizes = np.bincount(labels)
    if multiple == 1 or not (sizes % multiple).any():
        return labels
    wanted = sizes // multiple * multiple
    for cluster in np.argsort(-(sizes % multiple), kind="stable")[: (len(rows) - wanted.sum()) // multiple]:
        wanted[cluster] += multiple
    wanted[wanted.argmax()] += len(rows) - wanted.sum()
    centroids = np.stack([rows[labels == cluster].mean(0) for cluster in range(len(sizes))])
    distances = (rows**2).sum(1)[:, None] - 2 * rows @ centroids.T + (centroids**2).sum(1)
    seats = np.repeat(np.arange(len(sizes)), wanted)
    return np.unique(seats[linear_sum_assignment(distances[:, seats])[1]], return_inverse=True)[1]
