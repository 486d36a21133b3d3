"""Keep the same number of weights in every kernel, at the positions of a few patterns.

Idea.         Zeros anywhere inside kernels need an index each, and no hardware can foresee them. If all kernels of a
              layer keep as many weights, at positions that only a few patterns allow, the work of all of them is alike,
              and a short number says which pattern a kernel has.
Rule.         In each layer n of the k*k positions of a kernel stay. The best pattern of a kernel holds its n largest
              |w|. Of these patterns P are chosen one by one, each time the one with which the kernels together keep
              most, sum over kernels of the largest sum of |w| under a chosen pattern; then every kernel takes the
              chosen pattern that keeps most of it.
              per = layer: every kernel chooses; filter: all kernels that make a map share a pattern; input: all kernels
              that leave a map share one, which can run as a smaller dense product (``StridedConv2d``).
Needs.        Weights only.
Cost.         P passes over the weights of a layer, times the patterns considered (126 at most for 3x3 kernels).
Storage.      A kernel takes n weights and log2(P) bits for its pattern, against k*k bits or n indices.
Differences.  Of the paper only the abstract was at hand: that kernels keep regular positions is theirs; how patterns
              are chosen, that their number is limited and that n is common is inferred, in the spirit of the abstract
              of PCNN (arXiv:2002.04997). n falls step by step with rounds or stages and retraining between (7, 5, 4 of
              9). With a target the largest common share n / k*k that meets it is taken. Of larger kernels the 1024
              patterns that are best for most kernels are considered. The first convolution (by default), kernels of
              one weight, depthwise convolutions and linear layers are left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from secateur.core.graph import layer_of, tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection import goals
from secateur.core.sizes.size import Target, size
from secateur.core.zeros import kernel_patterns, patterns
from secateur.errors import SettingError, TargetError


@dataclass(frozen=True)
class KernelPattern(Method):
    """A few patterns for all kernels of a layer.

    Attributes:
        n: weights that stay in every kernel; None for what the target allows, without one for 4.
        patterns: how many patterns a layer has at most.
        per: what shares a pattern: nothing, the kernels that make a map, or those that leave a map.
        stem: whether the first convolution may be pruned.
    """

    n: int | None = None
    patterns: int = 8
    per: kernel_patterns.Per = "layer"
    stem: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Efficient Hardware Realization of Convolutional Neural Networks using Intra-Kernel Regular Pruning",
        authors="Maurice Yang, Mahmoud Faraj, Assem Hussein, Vincent Gaudet",
        venue="ISMVL",
        year=2018,
        link="arXiv:1803.05909",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("n", self.n), ("patterns", self.patterns)):
            if value is not None and value < 1:
                raise SettingError(f"{name} must be at least 1, not {value}: every kernel keeps something")

    def check(self, target: Target | None) -> None:
        """Refuse to be told twice how much stays, and sizes that zeros leave as they are."""
        if target is not None and self.n is not None:
            raise SettingError("both a target and n say how much stays; give one of them")
        goals.check_zeros(target, "weights")

    def plan(self, problem: Problem) -> Plan:
        """Choose the patterns of each layer, and one for each of its kernels."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        counts = self._counts(problem)
        edits = list[ZeroWeights]()
        for name, count in counts.items():
            weight = tensor_of(problem.model, name)
            if bool(weight.isnan().any()):
                raise SettingError(f"the weights of '{layer_of(name)}' contain NaN; the network cannot be scored")
            owner = kernel_patterns.owners(problem.graph, name, self.per)
            edits.append(ZeroWeights.of(name, kernel_patterns.mask(weight, owner, count, self.patterns)))
        if not edits:
            return EMPTY
        numbers = {f"{count} of {self._positions(problem, name)}" for name, count in counts.items()}
        bits = math.ceil(math.log2(self.patterns))
        note = (
            f"every kernel of {len(counts)} layers keeps {' or '.join(sorted(numbers))} weights, in one of at most "
            f"{self.patterns} patterns, which {bits} bits name"
        )
        return Plan(tuple(edits), (note,))

    def _counts(self, problem: Problem) -> dict[str, int]:
        """Return how many weights of a kernel stay in each layer that loses some."""
        graph = problem.graph
        names = patterns.maskable(graph, stem=self.stem, mapwise=self.per != "layer")
        names = [name for name in names if self._positions(problem, name) > 1]
        if not names:
            raise TargetError("no prunable layer of this network has kernels of more than one weight", 1.0)
        if problem.target is None:
            count = 4 if self.n is None else self.n
            for name in names:
                shape = graph.tensors[name][0]
                if count >= math.prod(shape[2:]):
                    text = "x".join(map(str, shape[2:]))
                    raise SettingError(
                        f"n {count} does not fit the {text} kernels of '{layer_of(name)}': it must lie in 1 to "
                        f"{math.prod(shape[2:]) - 1}, or leave that layer alone"
                    )
            return dict.fromkeys(names, count)
        whole = size(graph).nonzero
        shapes = {name: graph.tensors[name][0] for name in names}
        windows = {math.prod(shape[2:]) for shape in shapes.values()}
        shares = sorted({count / window for window in windows for count in range(1, window)}, reverse=True)
        left = whole
        for share in shares:
            counts = {name: kernel_patterns.counts_for(share, shape) for name, shape in shapes.items()}
            gone = sum(math.prod(s) - math.prod(s[:2]) * counts[name] for name, s in shapes.items())
            left = whole - gone
            if left <= problem.target.most(whole):
                return counts
        raise TargetError(
            f"cannot keep only {problem.target.keep:.3g} of the nonzero: with one weight in every kernel "
            f"{left / whole:.3g} remain; ask for at least that, or allow more layers",
            left / whole,
        )

    @staticmethod
    def _positions(problem: Problem, name: str) -> int:
        return math.prod(problem.graph.tensors[name][0][2:])
