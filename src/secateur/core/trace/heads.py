"""The rule for torch's own attention, read as one call: whole heads go, and the channels around them.

A head owns its rows in the weights that make queries, keys and values, and is read by its columns of the weight of the
output. What is compared inside a head stays, see ``product``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from secateur.core.trace.calls_made import Call
from secateur.core.trace.mix import axis, contract, join, place
from secateur.core.trace.product import PRODUCT
from secateur.core.trace.state import State

ONE_WIDTH = "torch's multi_head_attention_forward has one width for everything"
REMEDY = "use nn.MultiheadAttention, or an attention with linear layers of its own"
SINGLE = "the only head of an attention"
MASKED = "each head has a mask of its own, whose number is fixed"
AVERAGED = "attention weights averaged over heads"


def attention(state: State, given: Mapping[str, Any], out: tuple[Tensor, Tensor | None]) -> None:
    """``multi_head_attention_forward``, with its arguments by their names."""
    sources: tuple[Tensor, ...] = (given["query"], given["key"], given["value"])
    packed = given["in_proj_weight"]
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights: list[Tensor] = [packed] if packed is not None else [given[name] for name in names]
    for tensor in sources:
        for layer in state.labels(tensor):
            if layer.shape[-1] == 1:
                state.pin(layer.reshape(-1), PRODUCT)
    averaged = bool(given["average_attn_weights"])
    heads, inner = _heads(state, given, weights)
    _note(state, given, sources, weights * (3 if packed is not None else 1), inner)
    for weight in weights:
        state.mark(state.vector(weight, 0), "makes")
        state.mark(state.vector(weight, 1), "reads")
    last: Tensor = given["out_proj_weight"]
    made = state.vector(last, 0)
    contract(state, inner, state.vector(last, 1), state.is_weight(last))
    state.mark(state.vector(last, 1), "reads")
    state.mark(made, "makes")
    if given["out_proj_bias"] is not None:
        join(state, made, state.vector(given["out_proj_bias"], 0))
    state.set(out[0], [place(made, out[0], -1)])
    if out[1] is not None:
        if averaged and heads is not None:
            state.depend(heads, -3, AVERAGED)
        state.set(out[1], [] if averaged else [place(heads, out[1], -3)])


def _heads(state: State, given: Mapping[str, Any], weights: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return the labels of the heads, and of all that is as wide as all of them, after tying what goes with each."""
    owners: list[tuple[Tensor | None, int]] = [(weight, 0) for weight in weights]
    owners += [(given["in_proj_bias"], 0), (given["bias_k"], 2), (given["bias_v"], 2)]
    count = int(given["num_heads"])
    found = [state.vector(tensor, dim) for tensor, dim in owners if tensor is not None]
    known = [vector for vector in found if vector is not None]
    grids = [vector.reshape(-1, count, given["out_proj_weight"].shape[1] // count) for vector in known]
    masks = [mask for mask in (given["attn_mask"], given["key_padding_mask"]) if mask is not None]
    reason = SINGLE if count == 1 else MASKED if any(mask.dim() == 3 for mask in masks) else ""
    reason = reason or ("" if len(known) == len(found) else PRODUCT)
    for mask in masks:
        for layer in state.labels(mask):
            state.pin(layer.reshape(-1), PRODUCT)
    for grid in grids if reason else ():
        state.pin(grid.reshape(-1), reason)
    if len(known) < len(found):
        return None, None
    heads = grids[0][0, :, :1]
    for grid in grids:
        state.unite(grid, heads)
    return heads[:, 0], heads.expand(grids[0].shape[1:]).reshape(-1)


def _note(
    state: State,
    given: Mapping[str, Any],
    sources: Sequence[Tensor],
    weights: Sequence[Tensor],
    inner: Tensor | None,
) -> None:
    """Tie what is read to the weights that read it, and count all products."""
    width: int = given["out_proj_weight"].shape[1]
    across = axis(width, inner)
    for source, weight in zip(sources, weights, strict=True):
        columns = state.vector(weight, 1)
        contract(state, state.vector(source, source.dim() - 1), columns, state.is_weight(weight))
        times = source.numel() // source.shape[-1]
        state.calls.append(Call(state.module, times, (across, axis(weight.shape[1], columns))))
    query, key = sources[:2]
    asking = query.numel() // query.shape[-1]
    asked = key.shape[-2 if given.get("batch_first") else 0]
    asked += int(given["bias_k"] is not None) + int(given["add_zero_attn"])
    state.calls.append(Call(state.module, 2 * asking * asked, (across,)))
    last: Tensor = given["out_proj_weight"]
    state.calls.append(Call(state.module, asking, (across, axis(last.shape[0], state.vector(last, 0)))))
