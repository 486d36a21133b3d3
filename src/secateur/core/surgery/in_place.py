"""Make a given network the thin one: whoever holds it, a layer or a weight of it holds that of the thin one then."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.core.interrupts import deferred
from secateur.core.surgery.generated import hold_again
from secateur.core.surgery.restoring import kept_tensors
from secateur.core.surgery.untouched import equal

_TABLES = (dict, OrderedDict, defaultdict)
_COMPILED = "_compiled_call_impl"  # of torch.nn.Module.compile, which no copy has
_PLAIN = (int, float, complex, str, bytes, set, frozenset, torch.Size, torch.dtype, torch.device, FunctionType, type)


def become(model: nn.Module, thin: nn.Module) -> None:
    """Give a network what surgery has made of a copy of it; the thin one is used up.

    Modules, parameters and buffers stay the objects that they were, and so do hooks and all that attributes hold and
    the cut has not changed: optimizers, wrappers and closures that hold them need not be told. Gradients go. Layers of
    another kind (regrouped ones) have new parameters.

    Args:
        model: changed in place, whole or not at all.
        thin: what ``apply`` returned for the model or a copy of it.
    """
    own = dict(model.named_modules())
    stands: dict[int, Any] = {id(module): own.get(name, module) for name, module in thin.named_modules()}
    before, after = _tensors(model), _tensors(thin)
    given: dict[int, tuple[Tensor, Tensor]] = {}
    for name, new in after.items():
        old = before.get(name)
        fits = old is not None and isinstance(old, nn.Parameter) == isinstance(new, nn.Parameter)
        stands[id(new)] = old if fits else new
        if fits:
            given[id(new)] = (cast("Tensor", old), new)
    for tensor in kept_tensors(thin.modules()):
        stands.setdefault(id(tensor), tensor)
    memo = dict(stands)
    pairs = [(own[name], module) for name, module in thin.named_modules() if name in own]
    states = [_state(vars(old), vars(new), stands, memo) for old, new in pairs]
    with deferred, torch.inference_mode(False), torch.no_grad():
        for old, new in given.values():
            _give(old, new)
        for (old, new), state in zip(pairs, states, strict=True):
            vars(old).update(state)
            for name in vars(old).keys() - state.keys():
                del vars(old)[name]
            old.__class__ = type(new)
        for old, _ in pairs:
            hold_again(old)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _give(old: Tensor, new: Tensor) -> None:
    """Let a tensor have the values and the shape of another one."""
    old.grad = None
    if old.shape != new.shape and old.requires_grad:
        # a graph that somebody still holds makes autograd expect gradients of the shape before: it forgets that where
        # the type changes, and there alone
        other = torch.float32 if old.dtype == torch.float64 else torch.float64
        old.data = torch.empty(0, dtype=other, device=old.device)
    old.data = new.detach()


def _state(
    old: Mapping[str, Any], new: Mapping[str, Any], stands: Mapping[int, Any], memo: dict[int, Any]
) -> dict[str, Any]:
    """Return the attributes of a module: its own where the thin one has the same, else those of the thin one."""
    found = {
        name: old[name] if name in old and _same(old[name], value, stands, set()) else copy.deepcopy(value, memo)
        for name, value in new.items()
    }
    return {**found, _COMPILED: old[_COMPILED]} if _COMPILED in old else found


def _same(old: Any, new: Any, stands: Mapping[int, Any], seen: set[tuple[int, int]]) -> bool:
    """Tell whether a value of the thin network, a copy of the other, differs from it in nothing that surgery edits."""
    if old is new or (id(old), id(new)) in seen:
        return True
    if id(new) in stands and isinstance(new, nn.Module | nn.Parameter | Tensor):
        return stands[id(new)] is old
    if type(old) is not type(new):
        return False
    seen.add((id(old), id(new)))
    if isinstance(new, Tensor):
        return old.shape == new.shape and old.dtype == new.dtype and equal(old, new)
    if isinstance(new, MethodType):
        return old.__func__ is new.__func__ and _same(old.__self__, new.__self__, stands, seen)
    if isinstance(new, functools.partial):
        pairs = [(getattr(old, name), getattr(new, name)) for name in ("func", "args", "keywords")]
        return all(_same(one, other, stands, seen) for one, other in pairs)
    if type(new) in _TABLES:
        return list(old) == list(new) and all(_same(old[key], new[key], stands, seen) for key in new)
    if isinstance(new, list | tuple) and not isinstance(new, torch.Size):
        entries = cast("list[Any]", new)
        return len(old) == len(entries) and all(
            _same(one, other, stands, seen) for one, other in zip(old, entries, strict=True)
        )
    if isinstance(new, _PLAIN):
        return old == new
    return not hasattr(new, "__dict__") or _same(vars(old), vars(new), stands, seen)
