"""Calls that average, compare or normalise over channels, and what they compute when channels are silenced.

Removing a channel changes a mean over channels; zeroing it does not remove it from the mean. So a silenced network
takes such statistics over the channels that are kept, which is what the thin network does by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.attention import ATTENTION
from secateur.core.code.written_numbers import call_name
from secateur.core.graph import Statistic, staying
from secateur.core.module_calls import ModuleStack
from secateur.core.torch_modes import FunctionMode
from secateur.errors import ModelError

KIND = "statistic"
READING = "reading"
# calls that multiply with a weight, and the dimension of their second argument that they sum over
READS = {
    "linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1,
    "conv_transpose1d": 0, "conv_transpose2d": 0, "conv_transpose3d": 0,
    "matmul": -2, "__matmul__": -2, "mm": -2, "bmm": -2,
}  # fmt: skip
# calls that shrink the dimension, and calls that keep it
REDUCING = frozenset(
    {
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "var",
        "std",
        "norm",
        "vector_norm",
        "var_mean",
        "std_mean",
        "linalg_norm",
        "linalg_vector_norm",
        "prod",
        "logsumexp",
        "all",
        "any",
        "_is_all_true",
    }
)
# divides each channel by those beside it, of what is left: a kind of its own, since the order of channels matters to it
NEIGHBOURS = "local_response_norm"
NORMALISING = frozenset(
    {"layer_norm", "group_norm", "batch_norm", "rms_norm", "softmax", "log_softmax", "normalize", NEIGHBOURS}
)
_AFFINE = {"layer_norm": (2, 3), "group_norm": (2, 3), "rms_norm": (2,)}  # places of per-channel parameters
_NAMES = {2: "weight", 3: "bias"}


def is_statistic(name: str) -> bool:
    """Tell whether a call may take statistics over channels."""
    return name in REDUCING or name in NORMALISING or name == ATTENTION


def kind_of(name: str) -> str:
    """Return the kind of statistic that a call takes; calls are numbered kind by kind."""
    return NEIGHBOURS if name == NEIGHBOURS else KIND


Place = tuple[str, str, int]  # kind of a call, module, number of the call there


@contextmanager
def over_kept(model: nn.Module, statistics: Sequence[Statistic], keep: Tensor) -> Generator[None]:
    """While active, these calls see the kept channels only; what they return for the others is zero.

    Args:
        model: the network whose calls they are.
        statistics: the calls, from its graph.
        keep: boolean over all units.
    """
    left: dict[Place, list[tuple[int, Tensor]]] = {}
    for entry in statistics:
        kept = staying(entry.units, keep)
        if not bool(kept.all()):
            left.setdefault((entry.kind, entry.module, entry.call), []).append((entry.dim, kept))
    if not left:
        yield
        return
    stack = ModuleStack(model)
    with stack, _OverKept(stack, left):
        yield


class Fitting(FunctionMode):
    """While active, notes whether the calls of a network run over as many positions as in the run it was read from.

    Attributes:
        fit: whether they all do, or over as many more as there are more inputs: else who is silenced is not known.

    Args:
        stack: of the network.
        statistics: the calls, from its graph.
        times: how many times more inputs there are.
    """

    def __init__(self, stack: ModuleStack, statistics: Sequence[Statistic], times: Fraction) -> None:
        super().__init__()
        self.fit = True
        self._stack, self._times = stack, times
        self._known: dict[Place, list[tuple[int, int]]] = {}
        for entry in statistics:
            self._known.setdefault((entry.kind, entry.module, entry.call), []).append((entry.dim, len(entry.units)))

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = call_name(func)
        if args and isinstance(args[0], Tensor) and (name in READS or is_statistic(name)):
            kind = READING if name in READS else kind_of(name)
            place = (kind, self._stack.current, self._stack.number(kind))
            tensor = args[0]
            if name in READS:
                tensor = next((named[key] for key in ("weight", "other", "mat2") if key in named), None)
                tensor = args[1] if tensor is None else tensor
            for dim, size in self._known.get(place, ()):
                self.fit &= tensor.shape[dim if tensor.dim() > 1 else 0] in (size, size * self._times)
        return func(*args, **named)


class _OverKept(FunctionMode):
    def __init__(self, stack: ModuleStack, left: Mapping[Place, list[tuple[int, Tensor]]]) -> None:
        super().__init__()
        self._stack = stack
        self._left = left

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name, named = call_name(func), dict(named)
        if not args or not isinstance(args[0], Tensor):
            return func(*args, **named)
        if name in READS:
            return self._reading(func, args, named)
        if not is_statistic(name):
            return func(*args, **named)
        kind = kind_of(name)
        place = (kind, self._stack.current, self._stack.number(kind))
        if place not in self._left:
            return func(*args, **named)
        if name == ATTENTION:
            return self._attention(func, args, named, self._left[place][0][1])
        few = args[0]
        for dim, kept in self._left[place]:
            few = few.index_select(dim, _places(kept, few, dim))
        if name in REDUCING:
            return func(few, *args[1:], **named)
        dim, kept = self._left[place][0]
        kept = _places(kept, args[0], dim)
        rest, named = _fewer(name, list(args[1:]), named, kept)
        result = func(few, *rest, **named)
        whole = result.new_zeros([n if d == dim else result.shape[d] for d, n in enumerate(args[0].shape)])
        return whole.index_copy(dim, kept, result)

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any], kept: Tensor) -> Any:
        """Average the attention weights over the heads that are kept."""
        out, weights = func(*args, **{**named, "average_attn_weights": False})
        return out, weights.index_select(-3, _places(kept, weights, -3)).mean(-3)

    def _reading(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Multiply with a weight that is zero where it reads what is silenced."""
        place = (READING, self._stack.current, self._stack.number(READING))
        if place not in self._left:
            return func(*args, **named)
        key = next((key for key in ("weight", "other", "mat2") if key in named), "")
        weight = named[key] if key else args[1]
        for dim, kept in self._left[place]:
            dim = dim if weight.dim() > 1 else 0
            weight = weight.index_fill(dim, _places(~kept, weight, dim), 0.0)
        if key:
            return func(*args, **{**named, key: weight})
        return func(args[0], weight, *args[2:], **named)


def _places(positions: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Return which positions along a dimension are meant; of a batch laid out along it there may be more or fewer.

    Raises:
        ModelError: if it cannot be known, as where pixels of an image of another size are laid out along it.
    """
    size = tensor.shape[dim]
    if size % len(positions) and len(positions) % size:
        raise ModelError(f"which of {size} positions are silenced cannot be known from {len(positions)}")
    return torch.nonzero(positions.repeat(-(-size // len(positions)))[:size]).flatten().to(tensor.device)


def _fewer(name: str, rest: list[Any], named: dict[str, Any], kept: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """Cut the per-channel arguments of a normalisation to the kept channels."""
    if name in ("layer_norm", "rms_norm"):
        if rest:
            rest[0] = (len(kept),)
        else:
            named["normalized_shape"] = (len(kept),)
    for place in _AFFINE.get(name, ()):
        if len(rest) >= place and isinstance(rest[place - 1], Tensor):
            rest[place - 1] = rest[place - 1].index_select(0, kept)
        elif isinstance(named.get(_NAMES[place]), Tensor):
            named[_NAMES[place]] = named[_NAMES[place]].index_select(0, kept)
    return rest, named
