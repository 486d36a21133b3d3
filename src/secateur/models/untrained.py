"""Was a network ever trained? A sign that is never there on a trained one, and often on one that was just built."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from secateur.core.layer_families import CONVOLUTIONS, SHAPED_NORMS

_ENOUGH = 64  # weights below which their spread says nothing
_FIXED_SPREADS = (0.001, 0.01, 0.02)  # that published code draws with


def is_untrained(model: nn.Module) -> bool:
    """Tell whether the weights of a network are certainly as they were drawn; False in all doubt.

    One of two signs is enough. Its batch norms, at least one for every second convolution, have seen no batch and
    scale nothing. Or it has no batch norm, and all its layers together are as they are drawn: uniform up to torch's own
    bound, or with the spread of a usual draw and biases of exactly zero.
    """
    layers = [module for module in model.modules() if isinstance(module, (*CONVOLUTIONS, nn.Linear))]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not layers or any(layer.weight.is_meta for layer in layers):
        return False
    with torch.no_grad():
        if norms:
            convolutions = sum(isinstance(layer, CONVOLUTIONS) for layer in layers)
            return 2 * len(norms) >= convolutions and all(map(_unseen, norms)) and all(map(_has_drawn_bias, layers))
        others = [m for m in model.modules() if isinstance(m, (*SHAPED_NORMS, nn.GroupNorm))]
        return all(map(_scales_nothing, others)) and (
            _are_uniform(layers) or (_has_zero_biases(layers) and _have_usual_spreads(layers))
        )


def _unseen(norm: _BatchNorm) -> bool:
    """Whether a batch norm is as it was made; without running statistics nothing is known."""
    mean, var, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or var is None or seen is None or int(seen):
        return False
    return bool((mean == 0).all()) and bool((var == 1).all()) and _scales_nothing(norm)


def _scales_nothing(norm: nn.Module) -> bool:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    plain = weight is None or bool((weight == 1).all()) or bool((weight == 0).all())
    return plain and (bias is None or bool((bias == 0).all()))


def _weight(layer: nn.Module) -> Tensor:
    """Return the weight, be it a parameter or computed from others."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _bound(layer: nn.Module) -> float:
    """Return the largest weight and bias that torch draws by itself, which is uniform."""
    weight = _weight(layer)
    return 1 / math.sqrt(max(1, weight[0].numel()))


def _has_drawn_bias(layer: nn.Module) -> bool:
    """Whether the biases can have been drawn; those that batch norms were folded into are larger."""
    bias = layer.bias
    return not isinstance(bias, Tensor) or float(bias.abs().max()) <= _bound(layer) * 1.001


def _has_zero_biases(layers: Sequence[nn.Module]) -> bool:
    biases = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    return len(biases) > 1 and not any(bool((bias != 0).any()) for bias in biases)


def _are_uniform(layers: Sequence[nn.Module]) -> bool:
    """Whether every layer fills its bound evenly; small ones are looked at together, for alone they say nothing."""
    shares = [_weight(layer).flatten().float() / _bound(layer) for layer in layers]
    if not all(map(_has_drawn_bias, layers)) or any(float(share.abs().max()) > 1.001 for share in shares):
        return False
    small = [share for share in shares if share.numel() < _ENOUGH]
    large = [share for share in shares if share.numel() >= _ENOUGH]
    if sum(share.numel() for share in small) >= _ENOUGH:
        large.append(torch.cat([share.cpu() for share in small]))
    return bool(large) and all(_near(share, 1 / math.sqrt(3)) for share in large)


def _have_usual_spreads(layers: Sequence[nn.Module]) -> bool:
    """Whether every layer has the spread of a draw; a small one fits some draw by chance."""
    large = [layer for layer in layers if _weight(layer).numel() >= _ENOUGH]
    return bool(large) and all(map(_has_usual_spread, large))


def _has_usual_spread(layer: nn.Module) -> bool:
    weight = _weight(layer)
    reads, makes = weight[0].numel(), weight[:, 0].numel()
    usual = [math.sqrt(2 / reads), math.sqrt(2 / makes), math.sqrt(2 / (reads + makes)), 1 / math.sqrt(reads)]
    return any(_near(weight, spread) for spread in (*usual, *_FIXED_SPREADS))


def _near(weight: Tensor, spread: float) -> bool:
    """Whether the root mean square is what a draw of this spread has, but for chance (four standard errors)."""
    found = float(weight.float().square().mean().sqrt())
    return abs(found / spread - 1) <= 4 / math.sqrt(2 * weight.numel()) + 0.01
