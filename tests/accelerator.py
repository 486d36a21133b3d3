"""An accelerator for tests: the machine's own, or one that is only pretended.

Pretended tensors say that they are on CUDA and hold a tensor of the CPU, which does the work. What a real device
refuses is refused: operands on two devices (but for single numbers of the CPU, and CPU indices into a CUDA tensor) and
being read by NumPy. Gradients cannot be pretended. Where this torch does not allow the pretence, tests are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
_aten = torch.ops.aten
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class OnCuda(Tensor):
    """A tensor of the CPU that says it is on CUDA."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCuda:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        self.held = held
        return self

    def __init__(self, held: Tensor) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> OnCuda:
        if id(self) not in memo:
            copy = OnCuda(self.held.detach().clone())
            if getattr(self, "_is_param", False):
                copy._is_param = True  # what makes nn.Parameter take it for one of its own
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(_on_cuda(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_on_cuda(key), value)

    def masked_fill_(self, mask: Tensor, value: Any) -> Tensor:
        return super().masked_fill_(mask, value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype))

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA, **options})

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()


class _Pretence(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def accelerator() -> Generator[torch.device]:
    """Give a CUDA device, for work without gradients; skips the test where there is none and none can be pretended."""
    if torch.cuda.is_available():
        with torch.no_grad():
            yield CUDA
        return
    with ExitStack() as stack:
        try:
            _pretend(stack)
            works = torch.nn.Conv2d(1, 2, 3).to(CUDA)(torch.ones(1, 1, 4, 4).to(CUDA)).device == CUDA
        except (RuntimeError, AttributeError, TypeError, NotImplementedError):
            works = False
        if not works:
            pytest.skip("this torch has no CUDA device and allows none to be pretended")
        yield CUDA


def _pretend(stack: ExitStack) -> None:
    torch._C._ensureCUDADeviceGuardSet()  # what torch's own fake tensors use where there is no CUDA
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    thread = threading.Thread.run

    def run(self: threading.Thread) -> None:  # modes are each thread's own
        with _Pretence():
            thread(self)

    for where, name, new in (
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "synchronize", lambda *args: None),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_name", lambda *args: "a pretended device"),
        (torch.cuda, "get_device_capability", lambda *args: (9, 0)),
        (torch, "tensor", _made_by(torch.tensor)),
        (torch, "as_tensor", _made_by(torch.as_tensor)),
        (threading.Thread, "run", run),
    ):
        stack.enter_context(mock.patch.object(where, name, new))
    stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    stack.enter_context(_Pretence())
    stack.enter_context(torch.no_grad())


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if func is _aten._has_compatible_shallow_copy_type.default:
        return False
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with _Pretence():  # inference mode hands these over whole
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    named = dict(kwargs)
    asked = named.get("device")
    there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, OnCuda)]
    moves = func in (_aten._to_copy.default, _aten.copy_.default)
    if there and not moves:
        _refuse_mixture(func, args, kwargs)
    if asked is not None:
        named |= {"device": torch.device("cpu"), "pin_memory": False} if "pin_memory" in named else {"device": "cpu"}
    result = func(*tree_map(_held, args), **tree_map(_held, named))
    if func is _aten.copy_.default:
        return args[0]
    if not (torch.device(asked).type == "cuda" if asked is not None else there):
        return result
    known = {id(x.held): x for x in there}
    wrapped = tree_map(lambda x: known.get(id(x), OnCuda(x)) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there and asked is None else wrapped


def _refuse_mixture(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    free: list[Tensor] = []
    if func in _INDEXING and isinstance(args[0], OnCuda):
        free = [index for index in args[1] if isinstance(index, Tensor)]
    for x in tree_leaves((args, kwargs)):
        if isinstance(x, Tensor) and not isinstance(x, OnCuda) and x.dim() and not any(x is one for one in free):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu")


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnCuda) else x


def _on_cuda(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_on_cuda(part) for part in key)
    return torch.tensor(key, device=CUDA) if isinstance(key, list) and key else key


def _made_by(make: Any) -> Any:
    """Return ``torch.tensor`` or the like for which CUDA need not be there."""

    def made(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        if isinstance(data, Tensor) or device is None or torch.device(device).type != "cuda":
            return make(data, *args, device=device, **options)
        return OnCuda(make(data, *args, **options))

    return made
