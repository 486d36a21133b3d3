"""Leave a network as it was: what its own forward moves in it and around it is put back.

A forward may count its calls in a buffer, draw from generators, keep what it computed in an attribute, and write into
its inputs. All of that is the network's own affair when its owner runs it, and none of it when Secateur does.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.interrupts import deferred
from secateur.core.shared_contexts import Together
from secateur.core.surgery.foreign import refuse_odd_tensors
from secateur.core.surgery.generators import common, held
from secateur.core.surgery.object_numbers import refuse_object_numbers
from secateur.core.surgery.restoring import keeping, kept_tensors, slots_of
from secateur.errors import ModelError, first_line

_PLACES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def ordinary() -> Generator[None]:
    """Run as if the caller had no ``torch.inference_mode``, ``no_grad`` or ``autocast`` around."""
    gradients = torch.is_grad_enabled()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for place in _PLACES:
                if torch.is_autocast_enabled(place):
                    stack.enter_context(torch.autocast(place, enabled=False))
            yield
    finally:
        with deferred:  # Ctrl-C may have kept some context of torch, here or inside, from putting it back
            torch.set_grad_enabled(gradients)


@contextmanager
def unseen() -> Generator[None]:
    """Hide what is computed from whoever watches the operators of the network that is being run."""
    with deferred, torch._C.DisableTorchFunction(), _disable_current_modes():  # pyright: ignore[reportPrivateUsage]
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


class Unwritten:
    """Remembers the version of a tensor, by which autograd tells whether it was written into since it was used.

    Args:
        tensor: any; where autograd does not care for it, nor does this.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._kept = None if tensor.is_inference() else torch.autograd._unsafe_preserve_version_counter(tensor)  # pyright: ignore
        self._now = self._version()

    def since(self) -> bool:
        """Tell whether nobody has written into it after ``mark``, or after this was made."""
        return self._version() == self._now

    def mark(self) -> None:
        """Take what was written so far as one's own."""
        self._now = self._version()

    def again(self) -> None:
        """Say that it holds what it held when this was made."""
        if self._kept is not None:
            self._kept.__exit__(None, None, None)

    def _version(self) -> int:
        return 0 if self._kept is None else self._tensor._version


@contextmanager
def untouched(model: nn.Module, *, weights: bool = False) -> Generator[None]:
    """Put back afterwards what forwards of the model change in it: modes, attributes, buffers and generators.

    So are hooks and parts of its modules, and what lists, sets, dictionaries and plain objects hold that are
    attributes, see ``restoring.keeping``: a network that sets itself up in its first run is then as if it had never
    run, and does so when its owner runs it. What lies deeper stays; a private copy (``private``) is safe from that
    too.

    What is put back counts as never written, so that a graph of autograd from before can still go backward.

    Args:
        model: the network.
        weights: put parameters back too, into which code may write that only training runs, such as moving averages.
    """
    modules = list(model.modules())
    tensors = [*_buffers(modules), *(model.parameters() if weights else _shortened(modules))]
    with torch.inference_mode(False), torch.no_grad(), unseen():
        values = [(tensor, tensor.clone(), Unwritten(tensor)) for tensor in tensors if not tensor.is_meta]
    kept = keeping(modules)
    generators = [(source, source.get()) for source in held(modules)]

    def put_back() -> None:
        for restore in kept:
            restore()
        with unseen():
            for tensor, value, unwritten in values:
                _write(tensor, value)
                unwritten.again()
        for source, state in generators:
            source.put(state)

    with randomness():
        try:
            yield
        finally:
            with deferred:
                put_back()


def _buffers(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    """Return the buffers of modules, each once; those of a network without another walk through it."""
    buffers = [each for module in modules for each in module._buffers.values()]  # pyright: ignore[reportPrivateUsage]
    return {id(each): each for each in buffers if each is not None}.values()


def _shortened(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Return the weights of tables whose rows become shorter where they are looked up, in evaluation mode too."""
    tables = [module for module in modules if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    return list(dict.fromkeys(module.weight for module in tables if module.max_norm is not None))


def _write(tensor: Tensor, value: Tensor) -> None:
    same = tensor.shape == value.shape
    if same and equal(tensor, value):  # what nobody changed keeps its version
        return
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if same:
            tensor.copy_(value)
        else:
            tensor.data = value


def equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of one shape, which may be sparse buffers, hold the same numbers."""
    if one.layout != other.layout:
        return False
    if one.layout != torch.sparse_coo:
        return torch.equal(one, other)
    return torch.equal(one._indices(), other._indices()) and torch.equal(one._values(), other._values())


def owned(inputs: Any) -> Any:
    """Return example inputs with copies of their tensors, which a forward may write into.

    Raises:
        ModelError: if one of them has no shape.
    """
    refuse_shapeless(inputs)
    with unseen():
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def refuse_shapeless(inputs: Any) -> None:
    """Refuse example inputs whose tensors cannot be asked for their shapes.

    Raises:
        ModelError: if there are some.
    """
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.is_nested and leaf.layout == torch.strided:
            raise ModelError("an example input is a nested tensor, which has no shape: give a padded one in its place")


def private(model: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the model, without gradients; several threads may copy one model.

    Raises:
        ModelError: if it cannot be copied.
    """
    refuse_odd_tensors(model)
    memo: dict[int, Any] = {}
    with torch.no_grad():
        named = [*model.named_parameters(), *model.named_buffers()]
        for tensor in (*(tensor for _, tensor in named), *computed(model)):
            if type(tensor) in (Tensor, nn.Parameter):
                new = tensor.detach().clone()
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        for name, tensor in named:
            try:
                copy.deepcopy(tensor, memo)  # those of other classes know best how they are copied
            except Exception as error:
                raise ModelError(
                    f"{type(model).__name__} cannot be copied, because of '{name}', a {type(tensor).__name__}: make it "
                    "a plain tensor, such as with .as_subclass(torch.Tensor)"
                ) from error
        return copied(model, memo)


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a model that works without it.

    Args:
        model: any.
        memo: what stands for some of its parts, by their ``id``, see ``copy.deepcopy``.

    Raises:
        ModelError: if it cannot be copied, or the copy would lack something or run modules of the original.
    """
    refuse_object_numbers(model)
    kind = type(model).__name__
    for name, module in model.named_modules():
        if _holds_modules(vars(module).get("forward"), model):
            raise ModelError(
                f"{kind} cannot be copied: the forward that was put into {_called(name)} holds on to modules of the "
                "network, which a copy of it would go on to run; make it a method of a class"
            )
    try:
        copy_of = copy.deepcopy(model, _empty_tables(model) | memo)
    except Exception as error:
        raise ModelError(f"{kind} cannot be copied: {first_line(error)}") from error
    for (name, module), other in zip(model.named_modules(), copy_of.modules(), strict=False):
        for attribute in slots_of(type(module)):
            if hasattr(module, attribute) and not hasattr(other, attribute):
                raise ModelError(
                    f"{kind} cannot be copied: copy.deepcopy leaves out '{attribute}' of {_called(name)}, which is in "
                    "__slots__; take it out of them, or write __getstate__ and __setstate__ that carry it along"
                )
    return copy_of


def _empty_tables(model: nn.Module) -> dict[int, Any]:
    """Return new ones in the place of empty dictionaries of modules, most of them for hooks, by their ``id``.

    ``copy.deepcopy`` takes longer over a dozen of them in each module than over all the rest.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    return {id(value): type(value)() for value in values if type(value) in (dict, OrderedDict) and not value}


def _called(name: str) -> str:
    return f"'{name}'" if name else "the network itself"


def _holds_modules(function: object, model: nn.Module) -> bool:
    """Tell whether a function, which is copied as it is, has modules of a model in its closure or defaults."""
    if not isinstance(function, FunctionType):
        return False
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell may be empty
            values.append(cell.cell_contents)
    own = {id(module) for module in model.modules()}
    return any(id(value.__self__ if isinstance(value, MethodType) else value) in own for value in values)


def computed(model: nn.Module) -> list[Tensor]:
    """Return tensors that modules have kept from a forward; torch copies none that autograd knows where from."""
    return [tensor for tensor in kept_tensors(model.modules()) if not tensor.is_leaf]
