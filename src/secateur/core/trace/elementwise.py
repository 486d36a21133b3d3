"""Rules for operators that treat channels one by one: element by element, over windows, or by averaging maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.trace.move import meet
from secateur.core.trace.state import State
from secateur.errors import SecateurError

Args = Sequence[Any]

# operators that add tensors up: what only these tie to other layers is a stream
ADDS = frozenset({"add", "add_", "sub", "sub_", "rsub", "lerp", "lerp_", "addcmul", "addcmul_", "addcdiv", "addcdiv_"})
# operators under which a zero stays a zero, so that silencing a parameter silences what is computed from it
KEEPS_ZERO = frozenset(
    {
        "mul",
        "mul_",
        "div",
        "div_",
        "neg",
        "neg_",
        "clone",
        "_to_copy",
        "abs",
        "sign",
        "fake_quantize_per_tensor_affine_cachemask",
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    }
)


def elementwise(state: State, args: Args, out: Tensor, *, name: str = "") -> None:
    """Labels that meet are united after broadcasting."""
    tensors = [arg for arg in flat(args) if isinstance(arg, Tensor)]
    with state.adding() if name in ADDS else nullcontext():
        layers = meet(state, [state.labels(t) for t in tensors], [t.shape for t in tensors], out.dim())
    factors = tensors if name.startswith("mul") else tensors[:1]  # a zero in any of them is one in the product
    weight = name in KEEPS_ZERO and any(state.is_weight(t) and _covers(state, t, layers, out.dim()) for t in factors)
    state.set(out, layers, weight)


def _covers(state: State, tensor: Tensor, layers: Sequence[Tensor], dims: int) -> bool:
    """Whether a tensor has channels of its own along every dimension in which a result of this one has some."""
    own = {d for layer in state.labels(tensor) for d in L.varying(L.align(layer, dims))}
    return own >= {d for layer in layers for d in L.varying(layer)}


def like(state: State, args: Args, out: Tensor) -> None:
    """``zeros_like`` and relatives: a constant with the same channels."""
    state.set(out, state.labels(args[0]) if out.shape == args[0].shape else [])


def neighbours(state: State, given: Mapping[str, Any], out: Tensor) -> None:
    """``local_response_norm``: each channel is divided by what those beside it are, among those that are left."""
    layers = state.labels(given["input"])
    for layer in layers:
        if layer.shape[1] > 1:
            state.depend(layer.reshape(-1), 1, "each channel is divided by what its neighbours are")
    state.set(out, layers)


def window(state: State, args: Args, out: Tensor, *, spatial: int) -> None:
    """Pooling and resampling over the last ``spatial`` dimensions: a channel stays a channel."""
    x = args[0]
    over = range(x.dim() - spatial, x.dim())
    state.set(out, [state.merge(layer, over) for layer in state.labels(x)])


def reduce(state: State, args: Args, out: Tensor, *, dims: Sequence[int] | None) -> None:
    """Sum, mean, maximum over dimensions: over maps a channel stays, over channels nothing may shrink."""
    x = args[0]
    over = sorted({d % x.dim() for d in dims}) if dims else list(range(x.dim()))
    layers: list[Tensor] = []
    for layer in state.labels(x):
        rest = [d for d in L.varying(layer) if d not in over]
        if not rest:
            _over_channels(state, layer, "averaged or compared over channels")
            continue
        layer = state.merge(layer, over)
        if out.dim() < x.dim():
            for d in reversed(over):
                layer = layer.squeeze(d)
        layers.append(layer)
    state.set(out, layers)


def softmax(state: State, args: Args, out: Tensor) -> None:
    """Softmax: channels that share a sum may not shrink."""
    dim = int(args[1]) % args[0].dim()
    for layer in state.labels(args[0]):
        if layer.shape[dim] > 1:
            _over_channels(state, layer, "a softmax over channels")
    state.set(out, state.labels(args[0]))


def _over_channels(state: State, layer: Tensor, reason: str) -> None:
    dims = L.varying(layer)
    if len(dims) == 1:
        state.depend(layer.reshape(-1), dims[0], reason)
    else:
        state.pin(layer.reshape(-1), reason)


def quantised(state: State, args: Args, out: Tensor) -> None:
    """Fake quantisation by channel: scale and zero point go with their channel, and zero stays zero."""
    x, axis = args[0], int(args[3])
    shape = [-1 if d == axis else 1 for d in range(x.dim())]
    per_channel = [[layer.reshape(shape) for layer in state.labels(t)] for t in args[1:3]]
    sizes = [[x.shape[axis] if d == axis else 1 for d in range(x.dim())]] * 2
    layers = meet(state, [state.labels(x), *per_channel], [x.shape, *sizes], out.dim())
    state.set(out, layers, state.is_weight(x))


def halves(state: State, args: Args, out: Tensor) -> None:
    """GLU: the two halves of a dimension meet."""
    dim = (int(args[1]) if len(args) > 1 else -1) % args[0].dim()
    layers: list[Tensor] = []
    for layer in state.labels(args[0]):
        if layer.shape[dim] > 1:
            first, second = layer.chunk(2, dim)
            state.unite(first, second)
            layer = first
        layers.append(layer)
    state.set(out, layers)


def unknown(state: State, args: Any, out: Any, name: str, why: str = "for which there is no rule") -> None:
    """An operator without a rule: nothing that it touches may be removed."""
    for tensor in flat(args):
        if isinstance(tensor, Tensor):
            for layer in state.labels(tensor):
                state.pin(
                    layer.reshape(-1),
                    f"used by the operator {name}, {why}",
                    "keep these channels, or write the operation with common operators",
                )
    for tensor in flat(out):
        if isinstance(tensor, Tensor):
            state.set(tensor, [])


def careful(state: State, args: Any, out: Any, name: str, rule: Callable[[], object]) -> bool:
    """Follow a rule, and tell whether it held; if it fails, nothing that the operator touches may be removed.

    The network has run there, so that its forward must not break for what is learned of it.

    Args:
        state: that the rule changes.
        args: of the operator.
        out: what it has returned.
        name: of the operator.
        rule: what to do.
    """
    calls = len(state.calls)
    try:
        rule()
    except (SecateurError, MemoryError):
        raise
    except Exception:
        del state.calls[calls:]
        unknown(state, args, out, name, "in a way that its rule does not cover")
        return False
    return True


def flat(value: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in flat(part)]
    if isinstance(value, dict):
        return [item for part in value.values() for item in flat(part)]
    return [value]
