"""Let one part of a sparse network after the other grow dense while it trains, and prune it again.

Idea.         Masks that are chosen once, on a network that is not trained yet, are poor. If one part of the layers at a
              time is dense and the others are sparse, every weight gets its chance to show that it is needed, and the
              network is never dense as a whole.
Rule.         The layers are cut, in order, into ``parts`` of about as many weights. All are sparse but the first, which
              trains dense; then it loses its smallest |w|, per layer, the next one becomes dense, its missing weights
              beginning at 0, and so on, for ``rounds`` rounds. The last part is pruned, and the training ends with all
              masks held. turns = parallel: in each round copies of one network, copy i with part i dense; part i of the
              next network is that of copy i, pruned.
Needs.        A training before the decision (shape), of any task, with as many steps as there are turns and 2 more.
              Without one the smallest weights go at once.
Cost.         A product of weights and masks after each step. parallel: two more copies of the network in memory.
Differences.  Known from the released code for Transformers; the lengths are our choice: all turns last alike, and the
              end two of them. The optimizer starts anew at every turn, as there, but the learning rate follows the
              training; a schedule without one, or steps, comes closest to theirs. It starts from the weights as they
              are, so that the first weights to go are the smallest, or with start = random drawn, as for networks
              from scratch. parallel trains the copies in turn within one training, on batches that follow each other
              and at the rates of that moment, instead of side by side; what is in no part (norms, biases, layers left
              out) comes from the copy of the layer before it. In the first round the part that is dense has the
              weights as given. One threshold over all layers (non-uniform), and growing a random share of each, are not
              offered. A network with fewer layers than parts has a part for each layer. The first convolution and the
              last layer stay dense by default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from secateur.core.graph import Graph
from secateur.core.method import Paper
from secateur.core.problem import Problem
from secateur.core.smallest_weights import SmallestWeights
from secateur.core.zeros.growing_parts import GrowingParts, Start, Turns
from secateur.core.zeros.masks import Masking, Masks
from secateur.core.zeros.schedules import Cycle, contiguous
from secateur.errors import SettingError


@dataclass(frozen=True)
class GrowAndPrune(SmallestWeights):
    """Scheduled grow-and-prune (GaP), cyclic or parallel.

    Attributes:
        parts: how many parts the layers are cut into, at least 1; 1 is dense-sparse-dense training of all.
        rounds: how often each part has its turn, at least 1.
        turns: whether parts have their turns one after the other (cyclic), or in copies (parallel).
        start: which weights go first: the smallest (magnitude), or drawn ones (random).
    """

    parts: int = 3
    rounds: int = 2
    turns: Turns = "cyclic"
    start: Start = "magnitude"

    paper: ClassVar[Paper] = Paper(
        title="Effective Model Sparsification by Scheduled Grow-and-Prune Methods",
        authors="Xiaolong Ma, Minghai Qin, Fei Sun, Zejiang Hou, Kun Yuan, Yi Xu, Yanzhi Wang, Yen-Kuang Chen, "
        "Rong Jin, Yuan Xie",
        venue="ICLR",
        year=2022,
        link="arXiv:2106.09857",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("parts", "rounds"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")

    def masking(self, problem: Problem, masks: Masks, counts: Mapping[str, int]) -> Masking:
        """Return what grows and prunes part after part."""
        parts = self.cut(problem.graph, counts)
        cycle = Cycle(1 + max(parts.values(), default=0), self.rounds)
        return GrowingParts(problem.model, masks, counts, parts, cycle, self.turns, self.start)

    def cut(self, graph: Graph, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the part of each weight, from 0."""
        sizes = [math.prod(graph.tensors[name][0]) for name in counts]
        return dict(zip(counts, contiguous(sizes, min(self.parts, len(sizes))), strict=True))
