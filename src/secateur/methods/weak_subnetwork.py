"""Drop, in all layers at once, the units that matter little both forward and backward.

Idea.         A unit is weak if little comes out of it and little reads it: then its activations are sparse and so
              are the gradients that reach it. All weak units together form the weakest sub-network; it goes in one
              shot.
Rule.         For each unit between two layers: F = sum of |w| over the filter that makes it, B = sum of |w| over
              all that reads it (criterion = weights). The unit goes if F is below the p-th percentile of F and B
              below the p-th percentile of B, both within the pair of layers and read off the dense network; p is
              ``conv`` between convolutions, ``fc`` between linear layers, ``junction`` between the last
              convolution and the first linear layer. With criterion = activation, F and B rank the share of
              non-zero activations and of non-zero gradients where the unit is read, equal shares by their mean
              size. p is nominal: between p^2 and p of the units go; ``shares`` says how many.
Needs.        Weights only; calibration batches for criterion = activation.
Cost.         One pass over the weights, or a forward and a backward pass of a few batches.
Differences.  The paper's text was not open to us; the rule is that of the released code, which is free of data, and
              the activation criterion is our reading of the abstract. With a target, strength replaces p: a unit's
              score is the larger of its two ranks, relative to its level, so that a strength of one is exactly the
              rule above; ties and floors then decide unit by unit. The released code mixes up channels at the
              junction; here each channel owns its part of the flattened map. It pairs the last convolution of a
              residual block with the first of the next one although a sum lies between, and counts savings that no
              thin network has: here streams = safe leaves alone every group that several layers make (residual
              streams, which groups = "inside blocks" leaves alone in any method, and channels behind a
              squeeze-and-excite gate, which it does not), and streams = tied adds F and B over all
              makers and readers of the stream and removes its units everywhere.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from secateur.core.graph import Graph, Group, layer_of
from secateur.core.method import Method, Paper
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import family, meet, plan_of, steps
from secateur.errors import DataError, SettingError, TargetError
from secateur.measure.gradient import loss_with_gradient
from secateur.measure.unit_sites import Seen, watching
from secateur.spelling import setting
from secateur.tasks import CLASSIFICATION

Criterion = Literal["weights", "activation"]
Streams = Literal["safe", "tied"]
Kind = Literal["conv", "fc", "junction"]


@dataclass(frozen=True)
class WeakSubnetwork(Method):
    """Units that are weak forward and backward.

    Attributes:
        conv: percentile for units between convolutions, 0 to 100; with a target, only the ratio of the three counts.
        fc: the same between linear layers.
        junction: the same between a convolution and a linear layer.
        criterion: weights, or activation (and gradient) sparsity on calibration batches.
        streams: safe leaves residual streams alone, tied prunes each as a whole.
        batches: how many calibration batches criterion = activation looks at.
    """

    conv: float = 50.0
    fc: float = 50.0
    junction: float = 50.0
    criterion: Criterion = "weights"
    streams: Streams = "safe"
    batches: int = 8

    paper: ClassVar[Paper] = Paper(
        title="Weak sub-network pruning for strong and efficient neural networks",
        authors="Qingbei Guo, Xiao-Jun Wu, Josef Kittler, Zhiquan Feng",
        venue="Neural Networks 144:614-626",
        year=2021,
        link="doi:10.1016/j.neunet.2021.09.015",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in get_args(Kind):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise SettingError(f"{name} is a percentile and must be in 0 to 100, not {getattr(self, name)}")
        if self.batches < 1:
            raise SettingError(f"batches must be at least 1, not {self.batches}")

    def plan(self, problem: Problem) -> Plan:
        """Take the weak units at the given percentiles, or with a target the weakest until it is met."""
        graph, scores = problem.graph, self.scores(problem)
        if problem.target is not None:
            return meet(graph, partial(family, graph, scores, "global"), problem.target, problem.limits)
        keep = torch.ones(graph.units, dtype=torch.bool)
        for group in graph.free:
            if group.name not in scores:
                continue
            values = scores[group.name]
            weak = torch.where(values < 1.0, values, torch.inf)  # a score of 1 is the percentile itself
            for step in steps(group, weak, problem.limits):
                keep[graph.offsets[group.name] + torch.tensor(step.units)] = False
        return plan_of(graph, keep)

    def scores(self, problem: Problem) -> dict[str, Tensor]:
        """Return for each group ``(size,)``: below 1 exactly where the unit is weak at the group's percentile.

        Raises:
            TargetError: if there is no pair of layers to look at.
            DataError: if the criterion needs batches and there are none.
        """
        kinds = self.kinds(problem.graph)
        if not kinds:
            raise TargetError(
                "no two layers hold units of their own between them"
                + ("; try streams = tied, which prunes residual streams too" if self.streams == "safe" else "")
            )
        from scipy.stats import rankdata  # whose import takes longer than all other methods together

        saliency = self._by_weights if self.criterion == "weights" else _Calibration(problem, self.batches).saliency
        scores: dict[str, Tensor] = {}
        for group in problem.graph.free:
            if group.name not in kinds:
                continue
            level = getattr(self, kinds[group.name]) / 100.0
            forward, backward = saliency(group, problem)
            if np.isnan(forward).any() or np.isnan(backward).any():
                raise SettingError(f"the weights of group '{group.name}' contain NaN; the network cannot be scored")
            rank = np.maximum(rankdata(forward, "max"), rankdata(backward, "max")) - 1
            # the percentile lies at level * (size - 1) in sorted order; with level 0 nothing is below it
            limit = level * (group.size - 1)
            scores[group.name] = torch.from_numpy(rank / limit if limit > 0 else np.full(group.size, np.inf))
        return scores

    def kinds(self, graph: Graph) -> dict[str, Kind]:
        """Return the groups to look at, and between which layers their units lie."""
        found: dict[str, Kind] = {}
        for group in graph.free:
            made = [graph.tensors[m.tensor][0] for m in group.members if m.role == "makes"]
            read = [graph.tensors[m.tensor][0] for m in group.members if m.role == "reads"]
            if not made or not read or (self.streams == "safe" and len(group.layers) > 1):
                continue
            conv_makes, linear_reads = any(len(s) > 2 for s in made), any(len(s) == 2 for s in read)
            found[group.name] = ("junction" if linear_reads else "conv") if conv_makes else "fc"
        return found

    def _by_weights(self, group: Group, problem: Problem) -> tuple[Any, Any]:
        sums = [torch.zeros(group.size, dtype=torch.float64) for _ in range(2)]
        for total, role in zip(sums, ("makes", "reads"), strict=True):
            for rows in group.rows(problem.model, role):
                total += rows.abs().sum(1, dtype=torch.float64).cpu()
        return sums[0].numpy(), sums[1].numpy()


def shares(graph: Graph, plan: Plan, method: WeakSubnetwork) -> Mapping[str, float]:
    """Return the effective share of units that a plan drops, for each kind of pair and as ``all`` of them."""
    kinds, gone = method.kinds(graph), plan.dropped()
    sizes = {group.name: group.size for group in graph.free}
    out: dict[str, float] = {}
    for kind in (*get_args(Kind), "all"):
        names = [name for name, own in kinds.items() if kind in (own, "all")]
        if names:
            out[kind] = sum(len(gone.get(name, ())) for name in names) / sum(sizes[name] for name in names)
    return out


class _Calibration:
    """How often and how much units are active, and gradients reach them, where they are read."""

    def __init__(self, problem: Problem, batches: int) -> None:
        if problem.batches is None:
            raise DataError(f"criterion = activation looks at images; give {setting('data')}")
        self._sums: dict[str, list[Tensor]] = {}  # layer -> activation count, size, gradient count, size
        model = copy.deepcopy(problem.model).eval().requires_grad_(True)
        everything, seen = torch.ones(problem.graph.units, dtype=torch.bool), 0
        with watching(model, problem.graph, "read", self._hear, everything):
            for batch in itertools.islice(problem.batches, batches):
                model.zero_grad(set_to_none=True)
                loss_with_gradient(model, batch, problem.task or CLASSIFICATION).backward()
                seen += 1
        if not seen:
            raise DataError("there is no calibration batch; give the method more images")

    def saliency(self, group: Group, problem: Problem) -> tuple[Any, Any]:
        """Return the forward and the backward saliency of each unit as numbers whose order is all that counts."""
        totals = [torch.zeros(group.size, dtype=torch.float64) for _ in range(4)]
        for member in group.members:
            sums = self._sums.get(layer_of(member.tensor))
            chosen = member.unit >= 0
            if member.role != "reads" or sums is None or len(sums[0]) != len(member.unit):
                continue
            for total, values in zip(totals, sums, strict=True):
                total.index_add_(0, member.unit[chosen], values[chosen])
        count, size, gradient_count, gradient_size = (total.numpy() for total in totals)
        return _in_order(count, size), _in_order(gradient_count, gradient_size)

    def _hear(self, seen: Seen) -> None:
        self._add(seen.layer, 0, seen.values.detach(), seen.dim)
        if seen.values.requires_grad:
            seen.values.register_hook(lambda gradient: self._add(seen.layer, 2, gradient, seen.dim))

    def _add(self, layer: str, place: int, values: Tensor, dim: int) -> None:
        rows = values.movedim(dim, 0).reshape(values.shape[dim], -1)
        if layer not in self._sums:
            self._sums[layer] = [torch.zeros(len(rows), dtype=torch.float64) for _ in range(4)]
        self._sums[layer][place] += (rows != 0).double().mean(1).cpu()
        self._sums[layer][place + 1] += rows.double().abs().mean(1).cpu()


def _in_order(first: Any, then: Any) -> Any:
    """Return numbers ordered by ``first``, equal ones by ``then``."""
    pairs = np.stack([first, then], 1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
