"""What looks like a network and cannot be read as one, or holds what is no plain tensor: refused, with a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod

from secateur.errors import ModelError
from secateur.rules import Rule

_WRAPPERS = {
    "DistributedDataParallel": ("is wrapped for training in several processes", "what it wraps, its .module"),
    "FullyShardedDataParallel": ("has its weights spread over several processes", "the network before it was wrapped"),
    "FSDPModule": ("has its weights spread over several processes", "the network before fully_shard"),
    "OptimizedModule": ("was compiled", "the network that went into torch.compile, its ._orig_mod"),
    "_StatefulGraphModule": ("is an exported program", "the network that it was exported from"),
    "UnflattenedModule": ("is an exported program", "the network that it was exported from"),
    "ExportedProgram": ("is an exported program", "the network that it was exported from"),
    "ScriptModule": ("is a scripted network", "the module that it was made from"),
    "ScriptFunction": ("is a scripted function", "the module that it was made from"),
}
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def _wrapper(model: object) -> str | None:
    torchs = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("torch.")]
    return next((name for name in torchs if name in _WRAPPERS), None)


Network: TypeAlias = Annotated[
    nn.Module,
    Rule(
        lambda value: isinstance(value, nn.Module) or _wrapper(value) is not None,
        "a network (torch.nn.Module)",
    ),
]
"""A network to read; what only looks like one is let through, for ``refuse_foreign`` says what to give instead."""


def refuse_foreign(model: object) -> None:
    """Refuse wrappers, programs and networks whose weights are no plain numbers.

    Raises:
        ModelError: saying what to give instead.
    """
    refuse_wrapped(model)
    if isinstance(model, nn.Module):
        parameters, buffers = list(model.named_parameters()), list(model.named_buffers())
        _refuse_holders(model)
        _refuse_layers(model)
        _refuse_odd(parameters, buffers)
        _refuse_tensors(parameters, buffers)


def refuse_wrapped(model: object) -> None:
    """Refuse wrappers and programs.

    Raises:
        ModelError: saying what to give instead.
    """
    if (name := _wrapper(model)) is not None:
        what, instead = _WRAPPERS[name]
        raise ModelError(f"{type(model).__name__} {what} and cannot be pruned as it is: give {instead}")


def _refuse_holders(model: nn.Module) -> None:
    """Refuse what only holds a network, to train or predict with it, and does these in calls of its own."""
    if type(model).forward is not nn.Module.forward or "forward" in vars(model):
        return
    held = {id(parameter) for parameter in model.parameters()}
    for name, child in model.named_children():
        if held and held == {id(parameter) for parameter in child.parameters()}:
            raise ModelError(
                f"{type(model).__name__} has no forward of its own and only holds a network: give that, its .{name}"
            )


def _refuse_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED):
            raise ModelError(
                f"'{name}' is quantised ({type(module).__name__}), so its weights cannot be cut: prune the network "
                "before it is quantised"
            )
        for hook in module._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
            if isinstance(hook, BasePruningMethod):
                tensor = hook._tensor_name  # pyright: ignore[reportPrivateUsage]
                where = f"model.get_submodule({name!r})" if name else "model"
                raise ModelError(
                    f"'{name or type(model).__name__}' carries a mask of torch.nn.utils.prune over its '{tensor}', "
                    "which would stay outside of what is cut: make it part of the weights first with "
                    f"torch.nn.utils.prune.remove({where}, {tensor!r})"
                )


def _refuse_tensors(parameters: Sequence[tuple[str, Tensor]], buffers: Sequence[tuple[str, Tensor]]) -> None:
    for name, tensor in (*parameters, *buffers):
        if tensor.is_quantized or _is(tensor, "torchao."):
            raise ModelError(f"'{name}' is quantised, so it cannot be cut: prune the network before it is quantised")
        if _is(tensor, "torch.distributed."):
            raise ModelError(f"'{name}' is spread over several processes: give the network before it was sharded")
    for name, parameter in parameters:
        if parameter.is_floating_point() and parameter.element_size() < 2:
            raise ModelError(
                f"'{name}' holds {_said(parameter.dtype)}, with which torch hardly computes: convert the network "
                "before pruning, such as with model.to(torch.bfloat16)"
            )


def refuse_odd_tensors(model: nn.Module) -> None:
    """Refuse a network with a tensor that cannot be copied, compared and put back as others can.

    A sparse buffer (COO) is none of these: it is carried along.

    Raises:
        ModelError: naming the first one, and what to do.
    """
    _refuse_odd(list(model.named_parameters()), list(model.named_buffers()))


def _refuse_odd(parameters: Sequence[tuple[str, Tensor]], buffers: Sequence[tuple[str, Tensor]]) -> None:
    for name, tensor in parameters:
        trouble = _trouble(tensor, (torch.strided,))
        if trouble:
            raise ModelError(f"'{name}' {trouble}")
    for name, tensor in buffers:
        trouble = _trouble(tensor, (torch.strided, torch.sparse_coo))
        if trouble:
            raise ModelError(f"'{name}' {trouble}")


def _trouble(tensor: Tensor, layouts: tuple[torch.layout, ...]) -> str:
    """Say what is wrong with a tensor, and what to do about it; empty if nothing is."""
    if is_lazy(tensor):
        return (
            "has no shape before the first forward (a lazy layer): run the network on an input once, or load its "
            "weights, and give it then"
        )
    if tensor.is_meta or _is(tensor, "torch._subclasses."):
        return (
            "has a shape and no values (device 'meta' or a fake tensor): call model.to_empty(device='cpu') and load "
            "weights first"
        )
    if tensor.is_nested:
        return "is a nested tensor, which cannot be compared and put back: keep its parts as tensors of their own"
    if _is(tensor, "torch.masked."):
        return "is a masked tensor, which cannot be compared and put back: keep its data and its mask"
    if tensor.layout not in layouts:
        kept = "as a parameter " if tensor.layout == torch.sparse_coo else ""
        return f"has the layout {_said(tensor.layout)}, which cannot be copied {kept}as it is: give it .to_dense()" + (
            ", or keep it as a buffer in .to_sparse_coo()" if str(tensor.layout).startswith("torch.sparse") else ""
        )
    if not tensor.is_quantized and not _is_handled(tensor.dtype):
        return f"holds {_said(tensor.dtype)}, which torch can neither copy nor compare: keep it as whole bytes"
    return ""


@cache
def _is_handled(dtype: torch.dtype) -> bool:
    try:
        tensor = torch.empty(2, dtype=dtype)
        torch.equal(tensor.clone(), tensor)
    except (RuntimeError, TypeError):  # NotImplementedError is one of the former
        return False
    return True


def _said(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _is(tensor: Tensor, package: str) -> bool:
    kind: Any = type(tensor.data) if type(tensor) is nn.Parameter else type(tensor)
    return kind is not torch.Tensor and any(each.__module__.startswith(package) for each in kind.__mro__)
