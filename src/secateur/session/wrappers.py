"""What stands around a network while it trains, and has to follow where the network is cut in place."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

_SETTINGS = ("device_ids", "output_device", "dim", "process_group", "find_unused_parameters", "static_graph")
_SETTINGS_TOO = ("gradient_as_bucket_view", "mixed_precision", "skip_all_reduce_unused_params", "batched_grad_copy")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MIB = 1024 * 1024


def unwrapped(model: object) -> object:
    """Return the network within wrappers that train it: compiled, on several devices, in several processes."""
    while isinstance(model, OptimizedModule | DataParallel | DistributedDataParallel):
        model = cast("Any", model)._orig_mod if isinstance(model, OptimizedModule) else model.module
    return model


def is_around(module: nn.Module, model: nn.Module) -> bool:
    """Tell whether a module is a network, or holds it."""
    return any(each is model for each in module.modules())


def wrappers_in(model: object) -> list[DistributedDataParallel]:
    """Return the wrappers of ``unwrapped`` that note sizes of the network, from the outermost."""
    found: list[DistributedDataParallel] = []
    while isinstance(model, OptimizedModule | DataParallel | DistributedDataParallel):
        if isinstance(model, DistributedDataParallel):
            found.append(model)
        model = cast("Any", model)._orig_mod if isinstance(model, OptimizedModule) else model.module
    return found


def wrap_again(wrapper: DistributedDataParallel) -> None:
    """Let a wrapper begin anew with its network as it is now: its buckets of gradients are as large as the weights.

    All processes have to come here. Settings, hooks and communication hooks stay.
    """
    old: Any = wrapper
    taken = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in taken)
    names = [name for name in (*_SETTINGS, *_SETTINGS_TOO, buffers) if name in taken]
    settings = {name: getattr(old, name) for name in names}
    if not getattr(old, "bucket_bytes_cap_default", False):
        settings["bucket_cap_mb"] = old.bucket_bytes_cap / _MIB
    kept = {name: vars(old)[name] for name in (*_HOOKS, "training") if name in vars(old)}
    hooks: list[Any] = list(getattr(old, "_comm_hooks", None) or [])
    network: nn.Module = old.module
    old.reducer = None  # whose hooks would wait for gradients of the shapes before
    old.__init__(network, **settings)
    vars(old).update(kept)
    for hook, state in hooks:
        old.register_comm_hook(state, hook)
