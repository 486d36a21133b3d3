"""Train with few bits a number, take the smallest weights out meanwhile, and go on, or begin again without them.

Idea.         Fewer weights and fewer bits for each save the same thing, operations on bits, and a network that is to
              have both is better trained with both than with one after the other.
Rule.         While the network trains, the weights of each layer are rounded to ``bits`` bits, symmetrically and with a
              scale of max |w| / (2^(bits - 1) - 1) for each output channel, and what a layer reads likewise, without
              sign where nothing is negative; gradients pass through. The training falls into parts of one length:
              between two of them the smallest |w| over all layers go, before rounding, and stay out. ``shares`` says
              what part of the weights still in play goes each time; without them there are ``rounds`` such steps of one
              size. regime = tune trains on from there, lottery puts all that stays back to what it was when the
              training began. In the end the weights have their rounded values.
Needs.        A training before the decision (shape), of any task. Without one the smallest weights go at once, and
              nothing is rounded.
Cost.         A rounding of all weights and of what their layers read in each pass, and of weights in memory one copy;
              lottery: a second one.
Differences.  From the released code for networks of linear layers (Brevitas); scales for each channel instead of each
              layer, and ranges of inputs that follow those of the batches instead of ReLUs that are clipped at 6, are
              our choice, as is that the first and last layer have at least ``ends`` bits. There each part trains to its
              best with early stopping, an L1 penalty and a rate of its own; here all are parts of one training with its
              rate, the optimizer beginning anew, and a constant schedule comes closest. Its steps are PAPER; by default
              there are eight even ones. Biases and norms stay in float32 and are not pruned.
              Each layer keeps its largest weight. A weight that rounds to zero counts as gone. Lottery goes back to the
              weights as they were given, trained or not. In the artifact weights are float32 numbers on the grid, and
              layers read float32; whatever trains or repairs the network after the cut leaves the grid, so train with
              shape alone; the record of bits says what lies on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, layer_of, tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection import goals, zero_counts
from secateur.core.sizes.size import Target
from secateur.core.zeros.masks import Masks
from secateur.core.zeros.number_grids import LAYERS, MOST, WHOLE, NumberGrids
from secateur.core.zeros.scheduled_pruning import ScheduledPruning
from secateur.core.zeros.schedules import Retrainings
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError

Regime = Literal["tune", "lottery"]
PAPER = (0.1, 0.111, 0.125, 0.143, 0.166, 0.2, 0.25, 0.333, 0.5, 0.666, 0.666)
"""Shares of the released code: a tenth of all weights each, then two thirds of what is left."""


@dataclass(frozen=True)
class QuantisedPruning(Method):
    """Magnitude pruning in the course of quantisation-aware training.

    Attributes:
        bits: of weights and of what layers read, 2 to 16; 32 rounds nothing.
        ends: least bits of the weights in the first and the last layer.
        activations: whether what layers read is rounded as well.
        regime: whether training goes on after each pruning (tune), or from the first weights again (lottery).
        ratio: share of the weights that goes in the end, in [0, 1); None where a target or ``shares`` decide.
        rounds: how many prunings of one size there are where ``shares`` says nothing.
        shares: of the weights in play, what goes at each pruning; with a ratio or a target these say in what steps.
        stem: whether the first convolution may be pruned.
        last: whether the layer that runs last may be.
    """

    bits: int = 8
    ends: int = 8
    activations: bool = True
    regime: Regime = "tune"
    ratio: float | None = None
    rounds: int = 8
    shares: Sequence[float] = ()
    stem: bool = True
    last: bool = True

    paper: ClassVar[Paper] = Paper(
        title="Ps and Qs: Quantization-Aware Pruning for Efficient Low Latency Neural Network Inference",
        authors="Benjamin Hawks, Javier Duarte, Nicholas J. Fraser, Alessandro Pappalardo, Nhan Tran, Yaman Umuroglu",
        venue="Frontiers in Artificial Intelligence 4, 676564",
        year=2021,
        link="arXiv:2102.11289",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        for name in ("bits", "ends"):
            value = getattr(self, name)
            if not 2 <= value <= MOST and value != WHOLE:
                raise SettingError(f"{name} must be 2 to {MOST}, or {WHOLE} to round nothing, not {value}")
        zero_counts.check_ratio(self.ratio)
        if self.rounds < 1:
            raise SettingError(f"rounds must be at least 1, not {self.rounds}")
        for share in self.shares:
            if not 0.0 < share < 1.0:
                raise SettingError(f"shares must be above 0 and below 1, not {share}: they are what goes of the rest")

    def check(self, target: Target | None) -> None:
        """Refuse a run that does not say how much goes, or in a size that zeroed weights do not change."""
        if target is None and self.ratio is None and self.shares:
            return
        goals.check_said(target, self.ratio, "ratio", "the ratio of all weights, or the shares of each step")
        goals.check_zeros(target, "weights")

    def plan(self, problem: Problem) -> Plan:
        """Zero the smallest weights over all layers; in a shaped network these are the zeros that it has."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        names, goal = self._settled(problem)
        present = {name: tensor_of(problem.model, name).detach() for name in names}
        if problem.shaped and sum(int((tensor == 0).sum()) for tensor in present.values()) >= goal:
            plan = zero_counts.zeroing({name: tensor != 0 for name, tensor in present.items()})
            return replace(plan, notes=(self._note(),))
        return zero_counts.zeroing(_keeps({name: tensor.abs() for name, tensor in present.items()}, goal))

    @contextlib.contextmanager
    def shaping(self, problem: Problem) -> Generator[Shaper | None]:
        """Train on grids and prune meanwhile; leaves zeros and rounded weights in the network."""
        self.check(problem.target)
        names, goal = self._settled(problem)
        model, masks = problem.model, Masks(problem.model, names)

        def choose(progress: float) -> Mapping[str, Tensor]:
            sizes = {name: masks.sizes(name).where(masks.keep(name), -1.0) for name in names}
            return _keeps(sizes, goal if progress >= 1.0 else int(goal * progress + 1e-9))

        layers = rounded_layers(model, problem.graph)
        rewind = _back_to(model) if self.regime == "lottery" else lambda: None
        pruning = ScheduledPruning(masks, self.course(), choose, restart=True, rewind=rewind)
        grids = NumberGrids(layers, self.bits_of(layers), self.input_bits(), pruning)
        with masks.attached(), grids.attached():
            yield grids
        pruning.finish()
        grids.settle()

    def course(self) -> Retrainings:
        """Return when how much goes."""
        return Retrainings(tuple(self.shares) or tuple(1.0 / (self.rounds + 1 - step) for step in range(self.rounds)))

    def bits_of(self, layers: Sequence[str] | Mapping[str, nn.Module]) -> dict[str, int]:
        """Return the bits of the weights of each layer, which come in the order of execution."""
        names = list(layers)
        return {name: max(self.bits, self.ends) if name in (names[0], names[-1]) else self.bits for name in names}

    def grids(self) -> tuple[int, ...]:
        """Return the bits of the grids on which weights have been left."""
        return tuple(sorted({self.bits, max(self.bits, self.ends)} - {WHOLE}))

    def input_bits(self) -> int:
        """Return the bits to which what layers read is rounded."""
        return self.bits if self.activations else WHOLE

    def _note(self) -> str:
        ends = f", {self.ends} in the first and the last layer" if self.ends > self.bits else ""
        return f"the weights have been trained on grids of {self.bits} bits{ends}"

    def _settled(self, problem: Problem) -> tuple[tuple[str, ...], int]:
        """Return whose weights go, and how many of them together."""
        names = zero_counts.weights_of(problem.graph, stem=self.stem, last=self.last)
        zero_counts.refuse_unsound(problem.model, names)
        if problem.target is not None:
            return names, zero_counts.over_all(problem.graph, names, problem.target)
        ratio = 1.0 - self.course().left(len(self.shares)) if self.ratio is None else self.ratio
        total = sum(tensor_of(problem.model, name).numel() for name in names)
        return names, min(zero_counts.down(ratio, total), total - len(names))


def rounded_layers(model: nn.Module, graph: Graph) -> dict[str, nn.Module]:
    """Return the layers whose weights are rounded, by name, in the order of execution."""
    modules = dict(model.named_modules())
    found = {layer_of(name): modules.get(layer_of(name)) for name in graph.roles if name.endswith("weight")}
    return {name: module for name, module in found.items() if isinstance(module, LAYERS)}


def _keeps(sizes: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return which weights stay when so many go; a layer keeps its largest one."""
    ranks = {name: size.double().contiguous().clone() for name, size in sizes.items()}
    for rank in ranks.values():
        rank.view(-1)[rank.argmax()] = torch.inf
    return zero_counts.lowest_over_all(ranks, count)


def _back_to(model: nn.Module) -> Callable[[], None]:
    """Return what puts a network back to how it is now, statistics of its norms included."""
    first = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]

    def rewind() -> None:
        for tensor, value in first:
            tensor.data.copy_(value)

    return rewind
