"""Norms of a network in which channels stand at zero, as they are without these channels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MEANS = (
    torch.mean, Tensor.mean, torch.var, Tensor.var, torch.std, Tensor.std, torch.var_mean, torch.std_mean
)  # fmt: skip


class OverKept(TorchFunctionMode):
    """While active, layer, group and RMS norms take their statistics over the channels that are left.

    Which these are is known by the identity of the norm's weight. A norm without one takes those that are not zero
    throughout. A batch norm of what lies in the memory of a weight, which standardises it, takes what is left of that.

    Args:
        masks: tensors that stand at zero in part, each with what is left of it.
        means: whether means and variances that the code of a network takes itself leave out what is zero throughout.
    """

    def __init__(self, masks: list[tuple[Tensor, Tensor]], *, means: bool = False) -> None:
        super().__init__()
        self._means = MEANS if means else ()
        self._masks = {id(tensor): mask for tensor, mask in masks}
        self._places = {tensor.data_ptr(): mask for tensor, mask in masks}
        self._over: dict[Any, Callable[..., Tensor]] = {
            F.layer_norm: self._layer, torch.layer_norm: self._layer,
            F.group_norm: self._group, torch.group_norm: self._group,
            F.rms_norm: self._rms, torch.rms_norm: self._rms, F.batch_norm: self._batch,
        }  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in self._means:
            return _over_the_loud(func, *args, **(kwargs or {}))
        norm = self._over.get(func)
        return (norm or func)(*args, **(kwargs or {}))

    def _kept(self, x: Tensor, shape: tuple[int, ...], weight: Tensor | None) -> Tensor | None:
        """Return what is left of the last dimensions; None where all is."""
        if weight is not None:
            mask = self._masks.get(id(weight))
            return None if mask is None else mask.reshape(shape)
        silent = (x == 0).reshape(-1, *shape).all(0)
        return ~silent if bool(silent.any()) else None

    def _layer(
        self, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, *_: Any, **__: Any,
    ) -> Tensor:  # fmt: skip
        shape = tuple(normalized_shape)
        kept = self._kept(input, shape, weight)
        if kept is None:
            return F.layer_norm(input, shape, weight, bias, eps)
        return _affine(_normed(input, kept, tuple(range(-len(shape), 0)), eps), weight, bias)

    def _group(
        self, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, *_: Any, **__: Any,
    ) -> Tensor:  # fmt: skip
        x, groups = input, num_groups
        if weight is None:
            silent = (x == 0).transpose(0, 1).flatten(1).all(1)
            kept = ~silent if bool(silent.any()) else None
        else:
            kept = self._masks.get(id(weight))
        if kept is None:
            return F.group_norm(x, groups, weight, bias, eps)
        grouped = x.reshape(len(x), groups, x.shape[1] // groups, -1)
        kept = kept.reshape(1, groups, -1, 1).expand(1, groups, x.shape[1] // groups, grouped.shape[-1])
        normal = _normed(grouped, kept, (2, 3), eps).reshape(x.shape)
        one = [1, -1, *[1] * (x.dim() - 2)]
        return _affine(normal, *(t if t is None else t.reshape(one) for t in (weight, bias)))

    def _rms(
        self, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        x, shape = input, tuple(normalized_shape)
        kept = self._kept(x, shape, weight)
        if kept is None:
            return F.rms_norm(x, shape, weight, eps)
        dims = tuple(range(-len(shape), 0))
        mean = (x * kept).square().sum(dims, keepdim=True) / kept.sum().clamp(min=1)
        return _affine(x * torch.rsqrt(mean + (torch.finfo(x.dtype).eps if eps is None else eps)), weight, None)

    def _batch(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        mask = self._places.get(input.data_ptr())
        call = inspect.signature(F.batch_norm).bind(input, *others, **named)
        call.apply_defaults()
        if mask is None or mask.numel() != input.numel() or len(input) != 1 or not call.arguments["training"]:
            return F.batch_norm(input, *others, **named)
        normal = _normed(input, mask.reshape(input.shape), tuple(range(2, input.dim())), call.arguments["eps"])
        one = [1, -1, *[1] * (input.dim() - 2)]
        parts = (call.arguments["weight"], call.arguments["bias"])
        return _affine(normal, *(t if t is None else t.reshape(one) for t in parts))


def _over_the_loud(func: Callable[..., Any], x: Tensor, *others: Any, **named: Any) -> Any:
    """Leave away, along the dimensions that a mean goes over, what is zero whatever the others say."""
    dims = named.get("dim", named.get("axis", others[0] if others else None))
    for dim in [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims or ():
        loud = (x != 0).movedim(dim, 0).reshape(x.shape[dim], -1).any(1)
        if bool(loud.any()):
            x = x.index_select(dim, torch.nonzero(loud).flatten())
    return func(x, *others, **named)


def _normed(x: Tensor, kept: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    count = kept.sum(dims, keepdim=True).clamp(min=1)
    mean = (x * kept).sum(dims, keepdim=True) / count
    variance = ((x - mean) * kept).square().sum(dims, keepdim=True) / count
    return (x - mean) * kept * torch.rsqrt(variance + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
