"""What looks like a network and cannot be read as one: refused, with what to give instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod

from secateur.errors import ModelError

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


def refuse_foreign(model: object) -> None:
    """Refuse wrappers, programs and networks whose weights are no plain numbers.

    Raises:
        ModelError: saying what to give instead.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            what, instead = _WRAPPERS[kind.__name__]
            raise ModelError(f"{type(model).__name__} {what} and cannot be pruned as it is: give {instead}")
    if isinstance(model, nn.Module):
        _refuse_holders(model)
        _refuse_layers(model)
        _refuse_tensors(model)


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


def _refuse_tensors(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"'{name}' has no shape before the first forward (a lazy layer): run the network on an input once, or "
                "load its weights, and give it then"
            )
        if tensor.is_quantized or _is(tensor, "torchao."):
            raise ModelError(f"'{name}' is quantised, so it cannot be cut: prune the network before it is quantised")
        if _is(tensor, "torch.distributed."):
            raise ModelError(f"'{name}' is spread over several processes: give the network before it was sharded")


def refuse_without_values(model: nn.Module) -> None:
    """Refuse a network whose tensors have shapes only.

    Raises:
        ModelError: naming the first one.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"'{name}' has a shape and no values (device 'meta'): call model.to_empty(device='cpu') and load "
                "weights before pruning"
            )


def _is(tensor: Tensor, package: str) -> bool:
    kind: Any = type(tensor.data) if type(tensor) is nn.Parameter else type(tensor)
    return kind is not torch.Tensor and any(each.__module__.startswith(package) for each in kind.__mro__)
