"""Batch norms over the images of all processes, as if one process held the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from secateur.core.torch_modes import FunctionMode


class SharedNorms(FunctionMode):
    """While active, batch norms in training mode take mean and variance over the batches of all processes.

    The modules stay as they are: the call that they make is answered in another way, with two sums over the processes
    for each norm and the same gradient that one process would see. Works on every device and backend; the statistics
    are computed in float32 at least.
    """

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **named)
        return func(*args, **named)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input if input.dtype == torch.float64 else input.float()
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = x.new_tensor([x.numel() / x.shape[1]])
    sums = _over_processes(torch.cat([x.sum(dims), count]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.reshape(shape)
    var = _over_processes(centred.square().sum(dims)) / count
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight.to(x.dtype)
    y = centred * scale.reshape(shape)
    if bias is not None:
        y = y + bias.to(x.dtype).reshape(shape)
    return y.to(input.dtype)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _over_processes(gradients[0])


def _over_processes(values: Tensor) -> Tensor:
    """Return the sum over all processes; its gradient is the sum of theirs."""
    return cast(Tensor, _Sum.apply(values))
