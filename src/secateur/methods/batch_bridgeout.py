"""Train with noise that pushes weights to zero, then drop the filters with the smallest weights.

Idea.         A network that was trained as usual has dense weights and breaks when filters go. Noise whose size
              grows with the weight acts, in expectation, like an L_q penalty: the network learns to need few
              filters, and the others go with little loss, even without fine-tuning.
Rule.         While training, w~ = w + (|w| + 1e-12)^(q/2) * (r / (1 - p) - 1), with r one Bernoulli(1 - p) draw for
              each weight and mini-batch, on the weakest ``fraction`` of the kernels (L2 norm) of every filter;
              evaluation uses w. Mean w, variance p / (1 - p) * |w|^q. Afterwards the filters with the smallest L2
              norm go, the same share of every layer.
Needs.        Training data: the training is the method. Without one (``shape`` and ``train`` left out) it is an L2
              cut of the weights as they are.
Cost.         Noise: one draw and a few passes over the weights for each mini-batch. share = example draws for
              every example and costs a multiple of the layer.
Differences.  The papers' texts were not open to us; the rule is that of the released code, which draws from a fresh,
              unseeded generator each time (on the CPU always the same numbers) where we draw from the run's own.
              p = 1 means no noise there and is refused here. Zeroed filters stay in the papers' networks and emit
              what their batch norms make of zero, and in VGG the scales of the batch norms are cut besides; here
              units are removed for good, residual streams as a whole, and that constant with them, unless ``repair``
              folds it into the next layer (compensate) or batch norms (recalibrate). Of C filters the released
              code drops int(C f) and ``keeps`` keeps int(C k): with k = 1 - f that is one more wherever C f is not
              whole. noise = dropout acts on what all chosen layers but the first of them read; the released VGG drops
              what every ReLU puts out, also before the pooling and the classifier, and the released ResNet what both
              batch norms of a block put out, before the sum. The rise of p over the training (``ramp``) is ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.core.graph import Group, within
from secateur.core.method import Paper, ScoreMethod
from secateur.core.problem import Problem
from secateur.core.zeros.parametrization import refuse_parametrized
from secateur.core.zeros.perturbation import OfInputs, OfWeights, OfWeightsPerExample, Perturbation
from secateur.core.zeros.shaper import Moment, Shaper
from secateur.errors import SettingError, nearest

Noise = Literal["bridgeout", "dropconnect", "dropout"]
Share = Literal["batch", "example"]


@dataclass(frozen=True)
class BatchBridgeout(ScoreMethod):
    """Training with bridge noise, then the L2 norm of a filter.

    Attributes:
        q: norm of the penalty that the noise stands for, above 0 and at most 2; below 1.5 or so it is harsh.
        p: drop probability, at least 0 and below 1; 0 is no noise.
        fraction: weakest fraction of the kernels of every filter that gets noise, in (0, 1]; 1 is all.
        noise: bridgeout; or for comparison dropconnect (weights are dropped) or dropout (activations are).
        share: batch draws once for a mini-batch, example for every example; dropout always does the latter.
        layers: patterns of the layers that get noise; none for all 3x3 convolutions.
        ramp: share of the training over which p rises from 0; 0 is at once.
    """

    q: float = 1.5
    p: float = 0.3
    fraction: float = 0.75
    noise: Noise = "bridgeout"
    share: Share = "batch"
    layers: Sequence[str] = ()
    ramp: float = 0.0

    paper: ClassVar[Paper] = Paper(
        title="Pruning Convolutional Filters using Batch Bridgeout",
        authors="Najeeb Khan, Ian Stavness",
        venue="arXiv",
        year=2020,
        link="arXiv:2009.10893",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))
        for name, holds, wanted in (
            ("q", 0.0 < self.q <= 2.0, "above 0 and at most 2"),
            ("p", 0.0 <= self.p < 1.0, "a probability of at least 0 and below 1"),
            ("fraction", 0.0 < self.fraction <= 1.0, "in (0, 1]"),
            ("ramp", 0.0 <= self.ramp <= 1.0, "a share of the training, 0 to 1"),
        ):
            if not holds:
                raise SettingError(f"{name} must be {wanted}, not {getattr(self, name)}")

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        """Perturb the chosen layers inside the block.

        Raises:
            SettingError: if there are none, or one is parametrized already.
        """
        layers = self.chosen(model)
        pairs: list[tuple[nn.Module, Perturbation]] = []
        with contextlib.ExitStack() as stack:
            for number, layer in enumerate(layers.values()):
                if self.noise == "dropout" and not number:
                    continue  # where none are named, it reads the images themselves
                part = self._perturbation()
                stack.enter_context(part.attached(layer))
                pairs.append((layer, part))
            yield Draws(pairs, self.p, self.ramp)

    def chosen(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """Return the layers that get noise, by name.

        Raises:
            SettingError: if a pattern names none, or there is no 3x3 convolution.
        """
        known = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        }
        for pattern in self.layers:
            if not any(within(name, pattern) for name in known):
                raise SettingError(
                    f"no convolution or linear layer matches '{pattern}' of 'layers'{nearest(pattern, known)}"
                )
        found = {
            name: module
            for name, module in known.items()
            if (
                any(within(name, pattern) for pattern in self.layers)
                if self.layers
                else isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
            )
        }
        if not found:
            raise SettingError(
                "the network has no 3x3 convolution to perturb; name the layers in 'layers', '*' for all"
            )
        refuse_parametrized(found, ", or name other layers in 'layers'")
        return found

    def score(self, group: Group, problem: Problem) -> Tensor:
        """Return the L2 norm of the weights that make each unit, ``(group.size,)``."""
        total = torch.zeros(group.size)
        for rows in group.rows(problem.model, "makes"):
            total += rows.cpu().float().square().sum(1)
        return total.sqrt()

    def _perturbation(self) -> Perturbation:
        if self.noise == "dropout":
            return OfInputs(None, self.fraction)
        kind = OfWeights if self.share == "batch" else OfWeightsPerExample
        return kind(self.q if self.noise == "bridgeout" else None, self.fraction)


class Draws(Shaper):
    """Draws the noise of all layers before every batch."""

    def __init__(self, pairs: Sequence[tuple[nn.Module, Perturbation]], p: float, ramp: float) -> None:
        self._pairs, self._p, self._ramp = pairs, p, ramp

    def before_batch(self, moment: Moment) -> None:
        """Draw with the probability that this moment has."""
        p = self.probability(moment.step, moment.steps)
        for layer, part in self._pairs:
            part.draw(layer, p, moment.rng)

    def probability(self, step: int, steps: int) -> float:
        """Return p at a step: it rises linearly over ``ramp`` of the training, from 0, and then stays."""
        rise = self._ramp * steps
        return self._p if step >= rise else self._p * step / rise
