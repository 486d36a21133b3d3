"""Take chance out of a run: what is drawn at random becomes a constant, so that two widths can be compared.

A layer that draws as many numbers as it has channels draws others when it is thinner, and so does all that comes after
it, however the generators are set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from secateur.core.torch_modes import FunctionMode, OperatorMode

DRAWN = (
    "the network draws random numbers in evaluation, as many as its layers are wide, so that the pruned one draws "
    "others; both were compared with constants in their place"
)
"""What a proof under such constants says."""

_DROPOUTS = frozenset(
    {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d"}
    | {f"{kind}{end}" for kind in ("alpha_dropout", "feature_dropout", "feature_alpha_dropout") for end in ("", "_")}
)
_GOLDEN = (math.sqrt(5) - 1) / 2  # whose multiples spread evenly over the unit interval


def share_of(number: int) -> float:
    """Return how far from the smallest to the largest the constant of a draw lies, by its number in the run."""
    return 0.1 + 0.8 * (number * _GOLDEN % 1)


class WithoutDropout(FunctionMode):
    """While active, functions that drop at random return what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = False  # whether any would have dropped something

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            self.dropped = True
            return args[0] if args else named["input"]
        if name == "scaled_dot_product_attention":
            self.dropped |= bool(args[4] if len(args) > 4 else named.get("dropout_p", 0.0))
            args = (*args[:4], *(0.0 for _ in args[4:5]), *args[5:])
            named = {key: value for key, value in named.items() if key != "dropout_p"}
        return func(*args, **named)


class Steady:
    """While active, all that torch draws at random is a constant, another for each draw of a run, and nothing drops.

    Whole permutations are the identity, numbers with a mean of their own for each element lie beside it.

    Attributes:
        used: whether anything would have been drawn.
    """

    def __init__(self) -> None:
        self._draws, self._without, self._stack = _Draws(), WithoutDropout(), ExitStack()

    @property
    def used(self) -> bool:
        """Whether anything would have been drawn."""
        return self._draws.count > 0 or self._without.dropped

    def __enter__(self) -> Steady:
        for mode in (self._draws, self._without):
            self._stack.enter_context(mode)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _Draws(OperatorMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def _ran(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        rule = _RULES.get(name)
        if torch.Tag.nondeterministic_seeded not in func.tags or rule is None:
            return func(*args, **named)
        before = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]  # what is written in place goes
        out = func(*args, **named)
        self.count += 1
        return out.copy_(rule(out, before, share_of(self.count)))


Rule = Callable[[Tensor, Sequence[Any], float], Tensor]


def _uniform(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``x.uniform_(from, to)``."""
    low, high = _two(args, 0.0, 1.0)
    return torch.full_like(out, low + (high - low) * share)


def _normal(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``normal(mean, std)``, where each may be a tensor."""
    mean, std = _two(args, 0.0, 1.0, first=0)
    return torch.zeros_like(out) + mean + std * (2 * share - 1)


def _in_place_normal(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``x.normal_(mean, std)``, ``x.cauchy_(median, sigma)``."""
    mean, std = _two(args, 0.0, 1.0)
    return torch.full_like(out, mean + std * (2 * share - 1))


def _two(args: Sequence[Any], one: float, two: float, first: int = 1) -> tuple[Any, Any]:
    """Return the two numbers that follow the tensor in the arguments, or what they are by default."""
    given = [arg for arg in args[first : first + 2] if not isinstance(arg, (list, tuple))]
    return (given[0] if given else one), (given[1] if len(given) > 1 else two)


def _whole(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``randint(low, high, size)``, ``randint_like(x, low, high)`` and ``x.random_(low, high)``."""
    ends = [int(arg) for arg in args if isinstance(arg, int)]
    low, high = (ends[0], ends[1]) if len(ends) > 1 else (0, ends[0] if ends else 2)
    return torch.full_like(out, low + int((high - low) * share))


def _chance(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``bernoulli(p)``, ``bernoulli(x, p)`` and ``x.bernoulli_(p)``: all that may be chosen is."""
    chance = args[1] if len(args) > 1 else args[0]
    return (torch.as_tensor(chance, device=out.device) > 0).expand(out.shape).to(out.dtype)


def _leaky(out: Tensor, args: Sequence[Any], share: float) -> Tensor:
    """``rrelu``: the slope is the mean of its bounds."""
    x, (low, high) = args[0], (args[2], args[3])
    return torch.where(x > 0, x, x * (low + high) / 2)


_RULES: dict[str, Rule] = {
    "rand": lambda out, args, share: torch.full_like(out, share),
    "rand_like": lambda out, args, share: torch.full_like(out, share),
    "uniform_": _uniform,
    "randn": lambda out, args, share: torch.full_like(out, 2 * share - 1),
    "randn_like": lambda out, args, share: torch.full_like(out, 2 * share - 1),
    "normal": _normal,
    "normal_": _in_place_normal,
    "cauchy_": _in_place_normal,
    "log_normal_": lambda out, args, share: _in_place_normal(out, args, share).exp(),
    "exponential_": lambda out, args, share: torch.full_like(out, -math.log(1 - share) / _two(args, 1.0, 1.0)[0]),
    "geometric_": lambda out, args, share: torch.ones_like(out),
    "randint": _whole,
    "randint_like": _whole,
    "random_": _whole,
    "bernoulli": _chance,
    "bernoulli_": lambda out, args, share: _chance(out, args if len(args) > 1 else (args[0], 0.5), share),
    "rrelu_with_noise": _leaky,
    "poisson": lambda out, args, share: args[0].round(),
    "binomial": lambda out, args, share: (args[0] * args[1]).round(),
    "_standard_gamma": lambda out, args, share: args[0],
    "randperm": lambda out, args, share: torch.arange(len(out), device=out.device).to(out.dtype),
    "multinomial": lambda out, args, share: torch.arange(out.shape[-1], device=out.device).expand(out.shape),
}
