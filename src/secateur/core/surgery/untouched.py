"""Leave a network as it was: what its own forward moves in it and around it is put back.

A forward may count its calls in a buffer, draw from generators, keep what it computed in an attribute, and write into
its inputs. All of that is the network's own affair when its owner runs it, and none of it when Secateur does.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]
from torch.utils._pytree import tree_map

from secateur.core.surgery.generators import common, held
from secateur.core.surgery.keeping import keeping, kept_tensors
from secateur.core.together import Together
from secateur.errors import ModelError, first_line

_PLACES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def ordinary() -> Generator[None]:
    """Run as if the caller had no ``torch.inference_mode``, ``no_grad`` or ``autocast`` around."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for place in _PLACES:
            if torch.is_autocast_enabled(place):
                stack.enter_context(torch.autocast(place, enabled=False))
        yield


@contextmanager
def unseen() -> Generator[None]:
    """Hide what is computed from whoever watches the operators of the network that is being run."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():  # pyright: ignore[reportPrivateUsage]
        yield


@contextmanager
def _put_back() -> Generator[None]:
    with unseen():
        states = [(source, source.get()) for source in common()]
    try:
        yield
    finally:
        with unseen():
            for source, state in states:
                source.put(state)


_together = Together(_put_back)
_here = threading.local()  # whether this thread is inside


@contextmanager
def randomness() -> Generator[None]:
    """Put the random states of torch, numpy and Python back afterwards, where a block is inside another one too.

    Of blocks of several threads that overlap, the last one puts back what the first one found.
    """
    inside = getattr(_here, "inside", False)
    with _put_back() if inside else _together():
        _here.inside = True
        try:
            yield
        finally:
            _here.inside = inside


@contextmanager
def untouched(model: nn.Module, *, weights: bool = False) -> Generator[None]:
    """Put back afterwards what forwards of the model change in it: modes, attributes, buffers and generators.

    So are hooks and parts of its modules, and what lists, sets, dictionaries and plain objects hold that are
    attributes, see ``keeping.keeping``: a network that sets itself up in its first run is then as if it had never
    run, and does so when its owner runs it. What lies deeper stays; a private copy (``private``) is safe from that
    too.

    Args:
        model: the network.
        weights: put parameters back too, into which code may write that only training runs, such as moving averages.
    """
    modules = list(model.modules())
    tensors = [*model.buffers(), *(model.parameters() if weights else ())]
    with torch.inference_mode(False), torch.no_grad(), unseen():
        values = [(tensor, tensor.clone()) for tensor in tensors if not tensor.is_meta]
    kept = keeping(modules)
    generators = [(source, source.get()) for source in held(model)]
    with randomness():
        try:
            yield
        finally:
            for restore in kept:
                restore()
            with unseen():
                for tensor, value in values:
                    _write(tensor, value)
            for source, state in generators:
                source.put(state)


def _write(tensor: Tensor, value: Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != value.shape:
            tensor.data = value
        elif not torch.equal(tensor, value):  # what nobody changed keeps its version
            tensor.copy_(value)


def owned(inputs: Any) -> Any:
    """Return example inputs with copies of their tensors, which a forward may write into."""
    with unseen():
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def private(model: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the model, without gradients; several threads may copy one model.

    Raises:
        ModelError: if it cannot be copied.
    """
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers(), *computed(model)):
            if type(tensor) in (Tensor, nn.Parameter):  # others know best how they are copied
                new = tensor.detach().clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        try:
            return copy.deepcopy(model, memo)
        except Exception as error:
            raise ModelError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error


def computed(model: nn.Module) -> list[Tensor]:
    """Return tensors that modules have kept from a forward; torch copies none that autograd knows where from."""
    return [tensor for tensor in kept_tensors(model.modules()) if not tensor.is_leaf]
