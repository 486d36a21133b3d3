"""Modules that their own code cannot tell apart: the blocks of a network that are made alike."""

from __future__ import annotations

import types
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_ANY = frozenset(vars(nn.Module())) - {"training"}  # what every module has; parts and tensors are looked at themselves
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, type)
_MOST = 2**16  # numbers of a buffer that are compared
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class _Apart(Exception):
    """Something in a module may be unlike that of any other."""


def fingerprint(module: nn.Module) -> Hashable | None:
    """Return what is equal for modules whose own code does the same; None where that cannot be told.

    Alike are the classes of all parts, the shapes of their tensors and the plain values and functions in their
    attributes. The values of tensors are left out: a forward that decides by them is not recorded, unless they are in
    buffers of the module itself, which are compared.
    """
    try:
        return _of(module, own=True)
    except _Apart:
        return None


def _of(module: nn.Module, *, own: bool) -> Hashable:
    all_held = vars(module)
    # code that decides by the values of its own buffers is recorded with these
    values = tuple(map(_bytes, all_held["_buffers"].values())) if own else ()
    held = tuple((name, _value(value)) for name, value in all_held.items() if name not in _ANY)
    tensors: dict[str, Tensor | None] = {**all_held["_parameters"], **all_held["_buffers"]}
    parts: dict[str, nn.Module | None] = all_held["_modules"]
    within = tuple((name, None if part is None else _of(part, own=False)) for name, part in parts.items())
    return type(module), held, values, tuple((name, _shape(tensor)) for name, tensor in tensors.items()), within


def _shape(tensor: Tensor | None) -> Hashable:
    return None if tensor is None else (type(tensor), tuple(tensor.shape), tensor.dtype)


def _bytes(buffer: Tensor | None) -> bytes:
    if buffer is None:
        return b""
    if buffer.numel() > _MOST or buffer.is_meta or buffer.layout != torch.strided:
        raise _Apart
    return buffer.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _value(value: Any) -> Hashable:
    kind = type(value)
    if kind in _PLAIN or isinstance(value, (type, *_FUNCTIONS)):
        return kind, value
    if kind in (tuple, list):
        return kind, tuple(map(_value, value))
    if kind in (dict, types.MappingProxyType):
        entries: Mapping[Any, Any] = value
        return kind, tuple((_value(name), _value(each)) for name, each in entries.items())
    raise _Apart
