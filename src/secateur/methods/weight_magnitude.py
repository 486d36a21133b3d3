"""Take out the weights that are small against the spread of their layer, train on, and repeat.

Idea.         A trained network says by the size of a weight how much it needs it. After the small ones have gone, those
              that stay can make up for them if they are trained further from where they are, and then more can go.
Rule.         A weight goes if |w| < quality * (standard deviation of its layer's weights), with a quality for each
              layer. The training falls into ``rounds``; weights go as each begins, in round i by i / rounds of
              the quality. What is out is zero and gets no gradient. A rate of dropout becomes
              rate * sqrt(weights left / weights there were). With a target the weights are ranked over all layers by
              |w| / (quality * deviation), and as many of the lowest go as it asks for: that is one factor to all
              qualities.
Needs.        Trained weights, and for more than one step a training before the decision (shape), of any task.
Cost.         A sort of the weights in each round, and a product of weights and masks after each step.
Differences.  The paper looks for the qualities by scans of each layer's sensitivity; here they are settings, and 1
              where none is given. How they rise from round to round is not said there; the even steps, and that the
              deviation is that of the weights still in play, are ours. All layers train together, where the paper holds
              the convolutions while linear layers train, and the other way round; at a lower rate, a tenth or hundredth
              of the original, only if the training is given one. The optimizer starts anew in each round, as in known
              reimplementations. A rate of dropout goes by the weights of the next such layer among the network's
              modules and stays rescaled, but in a network that is loaded from a result it is what it was. Units that
              lost all their inputs or outputs stay, as zeros, and each layer keeps its largest weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, layer_of, tensor_of, within
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan
from secateur.core.problem import Problem
from secateur.core.selection import zero_counts
from secateur.core.selection.goals import check_zeros
from secateur.core.sizes.size import Target
from secateur.core.zeros.dropout_rates import DropoutRates
from secateur.core.zeros.masks import Masks
from secateur.core.zeros.scheduled_pruning import ScheduledPruning
from secateur.core.zeros.schedules import Rounds
from secateur.core.zeros.shaper import Shaper
from secateur.errors import SettingError, nearest

_LARGE = 1e300  # of weights that do not differ, which have no deviation


@dataclass(frozen=True)
class WeightMagnitude(Method):
    """Thresholds on single weights by the deviation of their layer.

    Attributes:
        quality: threshold in standard deviations, at least 0, where ``qualities`` names no other; 0 spares a layer.
        qualities: (pattern of layer names, quality) for layers with one of their own; the first that matches counts.
        rounds: in how many steps weights go while the network trains; 1 is all at once, before the first step.
        dropout: whether rates of dropout are rescaled.
        stem: whether the first convolution may be pruned.
        last: whether the layer that runs last may be.
    """

    quality: float = 1.0
    qualities: Sequence[tuple[str, float]] = ()
    rounds: int = 3
    dropout: bool = True
    stem: bool = True
    last: bool = True

    paper: ClassVar[Paper] = Paper(
        title="Learning both Weights and Connections for Efficient Neural Networks",
        authors="Song Han, Jeff Pool, John Tran, William J. Dally",
        venue="NIPS",
        year=2015,
        link="arXiv:1506.02626",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.qualities.items() if isinstance(self.qualities, Mapping) else self.qualities
        object.__setattr__(self, "qualities", tuple((str(pattern), float(value)) for pattern, value in pairs))
        for where, value in (("quality", self.quality), *((f"quality of '{p}'", v) for p, v in self.qualities)):
            if value < 0.0:
                raise SettingError(f"{where} must be at least 0, not {value}")
        if self.rounds < 1:
            raise SettingError(f"rounds must be at least 1, not {self.rounds}")

    def check(self, target: Target | None) -> None:
        """Refuse a size that zeroed weights do not change."""
        check_zeros(target, "weights")

    def plan(self, problem: Problem) -> Plan:
        """Return the zeros of a shaped network; else what the qualities or the target say of the weights as they are.

        Raises:
            SettingError: if a quality leaves nothing of a layer, or belongs to none.
            TargetError: if the target is out of reach.
        """
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        qualities, goal = self.settled(problem)
        if problem.shaped and goal is None:  # whose deviations are no longer those that the thresholds were taken from
            return zero_counts.zeroing({name: tensor_of(problem.model, name).detach() != 0 for name in qualities})
        keeps = self.keeps(problem.model, qualities, goal, 1.0)
        return zero_counts.zeroing(keeps)

    @contextlib.contextmanager
    def shaping(self, problem: Problem) -> Generator[Shaper | None]:
        """Take weights out of play round after round; leaves zeros in the network."""
        self.check(problem.target)
        model = problem.model
        qualities, goal = self.settled(problem)
        masks = Masks(model, qualities)
        rates = DropoutRates(model, qualities if self.dropout else ())

        def choose(progress: float) -> dict[str, Tensor]:
            return self.keeps(model, qualities, goal, progress)

        def changed() -> None:
            rates.rescale(lambda name: int(masks.keep(name).sum()))

        pruning = ScheduledPruning(masks, Rounds(self.rounds), choose, restart=True, changed=changed)
        with masks.attached():
            yield pruning
        pruning.finish()

    def settled(self, problem: Problem) -> tuple[dict[str, float], int | None]:
        """Return the quality of each weight, and how many zeros the target asks for; None without one."""
        names = zero_counts.weights_of(problem.graph, stem=self.stem, last=self.last)
        zero_counts.refuse_unsound(problem.model, names)
        qualities = self._qualities(problem.graph, names)
        if problem.target is None:
            for name, quality in qualities.items():
                _refuse_all(name, quality, scores(tensor_of(problem.model, name), quality))
            return qualities, None
        able = [name for name, quality in qualities.items() if quality]
        return qualities, zero_counts.over_all(problem.graph, able, problem.target)

    def keeps(
        self, model: nn.Module, qualities: Mapping[str, float], goal: int | None, progress: float
    ) -> dict[str, Tensor]:
        """Return which weights stay when so much of the way is behind; a layer keeps its largest weight."""
        ranks = {name: scores(tensor_of(model, name), quality) for name, quality in qualities.items()}
        for rank in ranks.values():
            rank.view(-1)[rank.argmax()] = torch.inf
        if goal is None:
            return {name: rank >= progress for name, rank in ranks.items()}
        return zero_counts.lowest_over_all(ranks, int(goal * progress + 1e-9))

    def _qualities(self, graph: Graph, names: Sequence[str]) -> dict[str, float]:
        for pattern, _ in self.qualities:
            if not any(within(layer_of(name), pattern) for name in names):
                near = nearest(pattern, [layer_of(name) for name in names])
                raise SettingError(f"no layer whose weights may go matches '{pattern}' of 'qualities'{near}")
        return {
            name: next((v for pattern, v in self.qualities if within(layer_of(name), pattern)), self.quality)
            for name in names
        }


def scores(weight: Tensor, quality: float) -> Tensor:
    """Return the size of each weight in thresholds, float64: below 1 it goes; inf where the quality is 0."""
    values = weight.detach().double().contiguous()
    present = values[values != 0]
    threshold = quality * float(present.std(correction=0)) if len(present) else 0.0
    if not quality:
        return torch.full_like(values, torch.inf)
    if not threshold:
        return torch.where(values != 0, torch.full_like(values, _LARGE), 0.0)
    return (values.abs() / threshold).clamp(max=_LARGE)


def _refuse_all(name: str, quality: float, ranks: Tensor) -> None:
    if bool(ranks.all()) and float(ranks.max()) < 1.0:  # with zeros it has been thinned out before
        raise SettingError(
            f"a quality of {quality:g} removes all weights of '{layer_of(name)}', the largest of which is "
            f"{float(ranks.max()) * quality:.3g} standard deviations; ask for less, for that layer in 'qualities'"
        )
