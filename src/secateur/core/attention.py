"""Attention whose heads and widths are free: what is left of ``nn.MultiheadAttention`` when some of them are gone.

PyTorch's own has one width for everything: heads share out the width of the embedding. Here a head keeps its width
when others go, and when the embedding loses channels.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from secateur.core.shared_contexts import Together

ATTENTION = "multi_head_attention_forward"  # the name of the call, here and in torch


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    q_proj_weight: Tensor | None,
    k_proj_weight: Tensor | None,
    v_proj_weight: Tensor | None,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Do what the function of this name in ``torch.nn.functional`` does, for any number of heads and any widths.

    One call for whoever watches functions, as torch's is: what silences heads and what reads networks treat both alike.

    Args:
        query: ``(L, N, E)``, or ``(L, E)`` of a single sequence.
        key: ``(S, N, E of the keys)``.
        value: ``(S, N, E of the values)``.
        num_heads: number of heads.
        in_proj_weight: ``(3 x heads x head width, E)``; None where there are three.
        in_proj_bias: ``(3 x heads x head width,)``.
        bias_k: ``(1, 1, heads x head width)``, one more key.
        bias_v: the same, its value.
        add_zero_attn: add a key and value of zeros.
        dropout_p: share of the attention weights that is dropped.
        out_proj_weight: ``(width of the output, heads x head width)``.
        out_proj_bias: ``(width of the output,)``.
        q_proj_weight: ``(heads x head width, E)`` where keys or values have widths of their own; the other two alike.
        k_proj_weight: of the keys.
        v_proj_weight: of the values.
        key_padding_mask: ``(N, S)`` or ``(S,)``, True or -inf = not looked at.
        need_weights: return the attention weights too.
        attn_mask: ``(L, S)`` or ``(N x heads, L, S)``, True or -inf = not looked at.
        average_attn_weights: over the heads.
        batch_first: whether sequences come as ``(N, L, E)``.

    Returns:
        The output, shaped as the query, and the attention weights ``(N, L, S)``, or ``(N, heads, L, S)`` if they are
        not averaged; None if they are not needed.
    """
    given = (query, key, value, out_proj_weight)
    if has_torch_function(given):
        return handle_torch_function(
            multi_head_attention_forward, given, query, key, value, num_heads, in_proj_weight, in_proj_bias, bias_k,
            bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, q_proj_weight, k_proj_weight,
            v_proj_weight, key_padding_mask=key_padding_mask, need_weights=need_weights, attn_mask=attn_mask,
            average_attn_weights=average_attn_weights, batch_first=batch_first,
        )  # fmt: skip
    single = query.dim() == 2
    if single:
        query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
    elif not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    if in_proj_weight is not None:
        q_proj_weight, k_proj_weight, v_proj_weight = in_proj_weight.chunk(3)
    assert q_proj_weight is not None
    assert k_proj_weight is not None
    assert v_proj_weight is not None
    q, k, v = F.linear(query, q_proj_weight), F.linear(key, k_proj_weight), F.linear(value, v_proj_weight)
    if in_proj_bias is not None:
        of_q, of_k, of_v = in_proj_bias.chunk(3)
        q, k, v = q + of_q, k + of_k, v + of_v
    if bias_k is not None and bias_v is not None:
        k = torch.cat([k, bias_k.expand(len(k), 1, -1)], 1)
        v = torch.cat([v, bias_v.expand(len(v), 1, -1)], 1)
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    mask = _mask(attn_mask, key_padding_mask, q, k.shape[1], num_heads)
    q, k, v = _by_head(q, num_heads), _by_head(k, num_heads), _by_head(v, num_heads)
    weights: Tensor | None = None
    if need_weights:
        scores = q * math.sqrt(1.0 / q.shape[3]) @ k.transpose(2, 3)
        weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout_p)
        made = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights.squeeze(0) if single else weights
    else:
        made = F.scaled_dot_product_attention(q, k, v, mask, dropout_p)
    out = F.linear(made.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    if single:
        return out.squeeze(0), weights
    return (out if batch_first else out.transpose(0, 1)), weights


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """Turn ``(N, L, heads x width)`` into ``(N, heads, L, width)``."""
    return tensor.unflatten(2, [heads, -1]).transpose(1, 2)


def _mask(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, keys: int, heads: int) -> Tensor | None:
    """Return what is added to the scores ``(N, heads, L, S)``; keys without a place in the masks are looked at."""
    total: Tensor | None = None
    if attn_mask is not None:
        total = _added(attn_mask, q, keys)
        total = total.unflatten(0, [len(q), heads]) if attn_mask.dim() == 3 else total[None, None]
    if padding is not None:
        hidden = _added(padding, q, keys).reshape(len(q), 1, 1, keys)
        total = hidden if total is None else total + hidden
    return total


def _added(mask: Tensor, q: Tensor, keys: int) -> Tensor:
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)
    return F.pad(mask.to(q.dtype), (0, keys - mask.shape[-1]))


class PrunedMultiheadAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of which heads or channels are gone; takes and returns what that does.

    Its parameters have the same names. PyTorch's transformers run it module by module, in evaluation too: their fast
    path knows one width only.

    Attributes:
        embed_dim: width of the queries.
        kdim: width of the keys.
        vdim: width of the values.
        num_heads: number of heads.
        head_dim: width of a head.
    """

    @staticmethod
    def take(attention: nn.MultiheadAttention) -> None:
        """Turn an attention into one of this kind, in place; it computes the same."""
        attention.__class__ = PrunedMultiheadAttention
        attention._qkv_same_embed_dim = False  # by which torch's transformers know that they cannot take the fast path

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, see ``nn.MultiheadAttention``; that a mask is causal is a hint that is not needed."""
        return multi_head_attention_forward(
            query,
            key,
            value,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            self.out_proj.weight,
            self.out_proj.bias,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            batch_first=self.batch_first,
        )


def is_attention(module: nn.Module) -> bool:
    """Tell whether a module is an attention of which heads can go: torch's own or what is left of one."""
    return type(module) in (nn.MultiheadAttention, PrunedMultiheadAttention) and "forward" not in vars(module)


def set_attention_sizes(module: nn.MultiheadAttention) -> None:
    """Bring the sizes of an attention in line with its tensors; if these have several widths, it becomes pruned."""
    own: Any = module  # torch does not say that there are either one weight or three
    packed: Tensor | None = own.in_proj_weight
    separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    module.embed_dim, module.kdim, module.vdim = (w.shape[1] for w in (separate if packed is None else [packed] * 3))
    inner = module.out_proj.weight.shape[1]
    module.num_heads = inner // module.head_dim
    if inner != module.embed_dim and type(module) is nn.MultiheadAttention:
        PrunedMultiheadAttention.take(module)


@contextmanager
def _module_by_module() -> Generator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


module_by_module = Together(_module_by_module)
"""A context without torch's fast path, in which a transformer's layer is one operator that shows nothing of itself."""
