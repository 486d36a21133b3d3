"""Random perturbations of a network while it trains: of its weights, or of what its layers read.

All noise here has mean zero, so that nothing is scaled when the network evaluates: a factor ``r / keep - 1`` with
``r`` drawn from a Bernoulli distribution of mean ``keep = 1 - p``, whose variance is ``p / keep``.

Sources: Khan, Shah, Stavness, "Bridgeout: stochastic bridge regularization for deep neural networks", 2018; Khan,
Stavness, "Pruning Convolutional Filters using Batch Bridgeout", 2020; Wan et al., "Regularization of Neural Networks
using DropConnect", 2013; Srivastava et al., "Dropout", 2014.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.core.zeros.parametrization import original, parametrized

EPS = 1e-12
"""Added to the size of a weight, so that the gradient exists at zero."""

_WHOLE = (torch.float32, torch.float64)


def spread(weight: Tensor, q: float | None) -> Tensor:
    """Return by how much each weight is perturbed: ``(|w| + EPS) ** (q / 2)``, or ``w`` itself for q = None.

    The variance of a weight under noise is then ``p / (1 - p) * |w| ** q``: for a linear model and squared error the
    expected loss is the loss plus an adaptive L_q penalty. ``None`` is DropConnect, where a weight is either dropped
    or scaled up; q = 2 has the same first two moments, yet a negative weight doubles where it would be dropped.

    Args:
        weight: any shape; half precision is widened, since EPS is nothing there.
        q: above 0, at most 2.
    """
    wide = weight if weight.dtype in _WHOLE else weight.float()
    if q is None:
        return wide
    # twice as fast on the CPU as a power, whose gradient is another power
    return ((wide.abs() + EPS).log() * (q / 2)).exp()


def draw(shape: torch.Size | tuple[int, ...], p: float, rng: torch.Generator) -> Tensor:
    """Return noise of mean 0 and variance ``p / (1 - p)``: -1 with probability p, else ``p / (1 - p)``.

    Args:
        shape: of the noise, float32, on the device of ``rng``.
        p: drop probability in [0, 1).
        rng: where the randomness comes from.
    """
    kept = torch.rand(shape, device=rng.device, generator=rng) < 1.0 - p
    return kept.to(torch.float32).div_(1.0 - p).sub_(1.0)


def weakest(values: Tensor, fraction: float) -> Tensor:
    """Return which parts of each row belong to the weakest fraction.

    A part is a kernel of a convolution, a weight of a linear layer, or a map of an activation; it is weak if its L2
    norm is below that of the part at place ``int(parts * fraction)``, counted from 0 in ascending order.

    Args:
        values: (rows, parts, ...).
        fraction: in [0, 1]; 1 is everything.

    Returns:
        Boolean, (rows, parts, 1, ...).
    """
    sizes = values.detach().float().square()
    if sizes.dim() > 2:
        sizes = sizes.sum(tuple(range(2, sizes.dim())))
    place = int(values.shape[1] * fraction)
    if place >= values.shape[1]:
        weak = torch.ones_like(sizes, dtype=torch.bool)
    else:
        weak = sizes < sizes.kthvalue(place + 1, dim=1, keepdim=True).values
    return weak.reshape(*sizes.shape, *[1] * (values.dim() - 2))


class Perturbation(ABC):
    """Noise in one layer, off until the first draw and whenever the layer evaluates.

    Args:
        q: norm whose penalty the noise stands for, see ``spread``.
        fraction: weakest fraction that gets noise, see ``weakest``.
    """

    def __init__(self, q: float | None, fraction: float) -> None:
        self.q, self.fraction = q, fraction

    @abstractmethod
    def draw(self, layer: nn.Module, p: float, rng: torch.Generator) -> None:
        """Get ready for the next batch."""

    @abstractmethod
    @contextmanager
    def attached(self, layer: nn.Module) -> Generator[None]:
        """Perturb the layer inside the block; afterwards nothing is left of it."""


class _Noisy(nn.Module):
    """The parametrization: weight in, perturbed weight out."""

    def __init__(self, q: float | None) -> None:
        super().__init__()
        self.q = q
        # neither a buffer nor a parameter: no checkpoint, snapshot or other process needs it
        self.noise: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Return a weight with the noise of the batch, in its own dtype."""
        if self.noise is None or not self.training:
            return weight
        return weight + (spread(weight, self.q) * self.noise).to(weight.dtype)


class OfWeights(Perturbation):
    """One draw for all examples of a batch, as a parametrization of the weight: an ordinary layer call follows."""

    def __init__(self, q: float | None, fraction: float) -> None:
        super().__init__(q, fraction)
        self._noisy = _Noisy(q)

    def draw(self, layer: nn.Module, p: float, rng: torch.Generator) -> None:
        """Draw noise of the weight's shape."""
        weight = original(layer)
        noise = _targeted(draw(weight.shape, p, rng), weight, self.fraction)
        # in the layout of the weight: what meets must not be rearranged in every forward and backward pass
        self._noisy.noise = torch.empty_like(weight, dtype=noise.dtype).copy_(noise)

    @contextmanager
    def attached(self, layer: nn.Module) -> Generator[None]:
        """Give the layer a parametrized weight; afterwards it has its own parameter again, in its own place."""
        self._noisy.train(layer.training)
        with parametrized(layer, self._noisy):
            yield


class _Hook(Perturbation):
    """Noise that must be drawn while the layer runs, since its shape depends on the batch."""

    def __init__(self, q: float | None, fraction: float) -> None:
        super().__init__(q, fraction)
        self._p = 0.0
        self._rng: torch.Generator | None = None

    def draw(self, layer: nn.Module, p: float, rng: torch.Generator) -> None:
        """Remember what to draw with."""
        self._p, self._rng = p, rng

    def _noise(self, *shape: int) -> Tensor | None:
        return None if self._rng is None or not self._p else draw(shape, self._p, self._rng)


class OfWeightsPerExample(_Hook):
    """A draw for every example, as Bridgeout was first published: time and memory grow with the batch."""

    @contextmanager
    def attached(self, layer: nn.Module) -> Generator[None]:
        """Add to the layer's output what each example's own perturbation makes of its input."""
        handle = layer.register_forward_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def _add(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = inputs[0]
        weight = original(layer)
        noise = self._noise(len(x), *weight.shape) if layer.training else None
        if noise is None:
            return output
        deltas = spread(weight, self.q) * _targeted(noise, weight, self.fraction)
        # vmap does not see autocast, so the precision of the output is chosen here
        return output + _each(layer, x.to(output.dtype), deltas.to(output.dtype))


class OfInputs(_Hook):
    """Dropout of what the layer reads: whole maps are compared, single activations are dropped."""

    @contextmanager
    def attached(self, layer: nn.Module) -> Generator[None]:
        """Drop activations before they go in."""
        handle = layer.register_forward_pre_hook(self._dropped)
        try:
            yield
        finally:
            handle.remove()

    def _dropped(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]
        noise = self._noise(*x.shape) if layer.training else None
        if noise is None:
            return inputs
        return (x + x * _targeted(noise, x, self.fraction).to(x.dtype), *inputs[1:])


def _targeted(noise: Tensor, values: Tensor, fraction: float) -> Tensor:
    """Keep the noise of the weakest fraction of ``values``, whose shape is the end of that of the noise."""
    return noise if fraction >= 1.0 else noise * weakest(values, fraction)


def _each(layer: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Return the layer's output without bias where example n meets ``weights[n]``."""
    if isinstance(layer, nn.Linear):
        return torch.einsum("n...i,noi->n...o", x, weights)
    convolution = cast("nn.Conv2d", layer)

    def one(example: Tensor, weight: Tensor) -> Tensor:
        return convolution._conv_forward(example.unsqueeze(0), weight, None)[0]  # pyright: ignore[reportPrivateUsage]

    return torch.func.vmap(one)(x, weights)


__all__ = [
    "EPS",
    "OfInputs",
    "OfWeights",
    "OfWeightsPerExample",
    "Perturbation",
    "draw",
    "spread",
    "weakest",
]
