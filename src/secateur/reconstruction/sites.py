"""Where layers can be fitted, and where their errors count: behind a batch norm, or where a shortcut is added.

The last layer of a residual branch is fitted to what makes the *sum* right, so that the branch also repairs what the
stream has lost before it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.batchnorm_folding import QUESTIONS, is_norm
from secateur.core.code.written_numbers import call_name
from secateur.core.surgery import Inputs, run, tensors_in
from secateur.core.torch_modes import FunctionMode
from secateur.core.zeros.strided import StridedConv2d

Place: TypeAlias = tuple[str, int]
"""A call: the module whose forward makes it, and how many additions that has made before in this pass."""

ADDITIONS = frozenset({"add", "add_", "iadd", "__add__", "__radd__", "__iadd__"})
_PASSING = frozenset({"dropout", "dropout_", "feature_dropout", "alpha_dropout", "requires_grad_", "detach"})
PAIR = slice(0, 2)
"""Images that sites are found on: of two, what is the same for all images shows by its shape."""


@dataclass(frozen=True)
class Site:
    """A layer that is called once, and what alone reads its output.

    Attributes:
        layer: name of the convolution or linear layer.
        norm: name of the batch norm that alone reads its output; empty if there is none.
        add: the addition that alone reads what comes of it, None if there is none.
    """

    layer: str
    norm: str = ""
    add: Place | None = None


class Trail:
    """Which module is running in one forward pass, and which addition it makes."""

    def __init__(self) -> None:
        self.path: list[str] = [""]
        self._made: Counter[str] = Counter()

    def addition(self) -> Place:
        """Name the addition that is made now."""
        place = (self.path[-1], self._made[self.path[-1]])
        self._made[self.path[-1]] += 1
        return place


def is_layer(module: nn.Module) -> bool:
    """Tell whether a layer can be fitted: a plain convolution, with groups or without, or a linear layer."""
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return False  # it is made of others anew: a change of it would be lost
    kind = type(module)
    base = next((kind for kind in (nn.Conv2d, nn.Linear) if isinstance(module, kind)), None)
    return base is not None and (kind is base or kind.forward is base.forward or kind is StridedConv2d)


def is_affine(module: nn.Module) -> bool:
    """Tell whether a module scales and shifts each channel by fixed statistics, and does nothing else."""
    return is_norm(module) and not isinstance(getattr(module, "act", None), nn.Module)


def sites(model: nn.Module, inputs: Inputs) -> list[Site]:
    """Find the layers that can be fitted, in the order in which they run.

    Args:
        model: run once in evaluation mode; left as it is.
        inputs: what its forward takes.

    Raises:
        ModelError: if it does not run on them.
    """
    watch = _Watch(model)
    with hooked(model, watch.enter, watch.leave), watch:
        output = run(model, inputs)
    for tensor in tensors_in(output):  # whoever called reads it, too
        if (held := watch.held.get(id(tensor))) is not None:
            held.reads += 1
    return watch.found()


@contextmanager
def hooked(
    model: nn.Module, enter: Callable[[str, nn.Module, Any], None], leave: Callable[[str, nn.Module, Any, Any], None]
) -> Generator[None]:
    """Call back before and after the forward of every module, with its name and its inputs, those by name last.

    Scripted modules take no hooks: nothing is heard of them.
    """
    hooks: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue

        def before(module: nn.Module, given: Any, named: Any, name: str = name) -> None:
            enter(name, module, (*given, *named.values()))

        def after(module: nn.Module, given: Any, named: Any, output: Any, name: str = name) -> None:
            leave(name, module, (*given, *named.values()), output)

        hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class _Held:
    """A tensor that came out of a layer, as it is or through a batch norm, and the number of calls that read it."""

    layer: str
    tensor: Tensor
    norm: str = ""
    reads: int = 0
    norms: tuple[str, ...] = ()
    adds: tuple[Place, ...] = ()


class _Watch(FunctionMode):
    """Follows what comes out of layers until something is done with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = {name: it for name, it in model.named_modules() if is_layer(it) or is_affine(it)}
        self.owners = Counter(id(own) for it in model.modules() for own in it.parameters(recurse=False))
        self.thread = threading.get_ident()
        self.trail = Trail()
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        self.held: dict[int, _Held] = {}
        self.outputs: dict[str, _Held] = {}
        self.normed: dict[str, _Held] = {}
        self.inside = 0  # how many layers and norms are running: what they do is their own affair

    def enter(self, name: str, module: nn.Module, given: Any) -> None:
        if threading.get_ident() != self.thread:
            self.calls[name] += 2  # what the network does in threads of its own is not followed
            return
        self.trail.path.append(name)
        if name not in self.modules:
            return
        self.calls[name] += 1
        first = given[0] if given else None
        held = self.held.get(id(first))
        if not self.inside and held is not None:
            held.reads += 1
            if is_affine(module) and not held.norm and not module.training:
                held.norms += (name,)
        self.inside += 1

    def leave(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        self.trail.path.pop()
        if name not in self.modules:
            return
        honest = _is_own(module, given, output)
        self.inside -= 1
        if self.inside or not honest:
            return
        if is_layer(module):
            self.order.append(name)
            self.outputs[name] = self.hold(_Held(name, output))
        elif given and (before := self.held.get(id(given[0]))) is not None and name in before.norms:
            self.normed[before.layer] = self.hold(_Held(before.layer, output, name))

    def hold(self, held: _Held) -> _Held:
        self.held[id(held.tensor)] = held  # the tensor is held, so that nobody else gets its id
        return held

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = call_name(func)
        addition = self.trail.addition() if name in ADDITIONS else None
        shapes = [it.shape for it in args[:2] if isinstance(it, Tensor)]
        readers = [] if self.inside else list(self.readers(args, named))
        result = func(*args, **named)
        if name in _PASSING and isinstance(result, Tensor) and any(result is held.tensor for held in readers):
            return result
        if name in QUESTIONS and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            return result
        whole = addition is not None and len(shapes) == 2 and shapes[0] == shapes[1] and not named
        for held in readers:
            held.reads += 1
            if whole and addition is not None:
                held.adds += (addition,)
            if result is held.tensor:  # changed in place: what is read from now on is another thing
                del self.held[id(result)]
        return result

    def readers(self, args: Any, kwargs: Any) -> Iterator[_Held]:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) in self.held:
                yield self.held[id(leaf)]

    def found(self) -> list[Site]:
        """Return a site for every layer that was called once and shares its weight with no other."""
        alone = [name for name in self.order if self.owners[id(self.modules[name].weight)] == 1]
        return [self.site(name) for name in alone if self.calls[name] == 1]

    def site(self, layer: str) -> Site:
        held, norm = self.outputs[layer], ""
        if held.reads == 1 and len(held.norms) == 1 and self.calls[held.norms[0]] == 1 and layer in self.normed:
            norm, held = held.norms[0], self.normed[layer]
        alone = held.reads == 1 and len(held.adds) == 1
        return Site(layer, norm, held.adds[0] if alone else None)


def _is_own(module: nn.Module, given: Any, output: Any) -> bool:
    """Tell whether a layer or norm put out what its weights make of its input; hooks and wrappers can change it.

    Of complex numbers nothing is fitted.
    """
    if not isinstance(output, Tensor) or output.is_complex() or len(given) != 1 or not isinstance(given[0], Tensor):
        return False
    made: Any = type(module).forward(module, given[0])
    scale = float(made.detach().float().abs().amax()) if made.numel() else 0.0
    near = 1e-3 * scale if scale < float("inf") else 0.0
    return made.shape == output.shape and torch.allclose(made, output, rtol=1e-3, atol=near, equal_nan=True)


def together(found: Sequence[Site]) -> dict[Place, list[Site]]:
    """Return the layers whose outputs meet in an addition."""
    met: dict[Place, list[Site]] = {}
    for site in found:
        if site.add is not None:
            met.setdefault(site.add, []).append(site)
    return met


def norm_scale(model: nn.Module, name: str, outputs: int) -> Tensor:
    """Return by how much a batch norm scales each output, ``(outputs,)`` float64 on the CPU; ones without a name."""
    if not name:
        return torch.ones(outputs, dtype=torch.float64)
    norm: Any = model.get_submodule(name)
    spread = torch.sqrt(norm.running_var.detach().cpu().double() + norm.eps)
    return (1.0 if norm.weight is None else norm.weight.detach().cpu().double()) / spread
