"""Fold batch norms into the layers before them, which saves a pass over every map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from secateur.core.interrupts import deferred
from secateur.core.layer_families import CONVOLUTIONS, TRANSPOSED
from secateur.core.surgery.forward import Inputs, run, tensors_in
from secateur.core.torch_modes import FunctionMode
from secateur.core.zeros.strided import StridedConv2d

_LAYERS = (*CONVOLUTIONS, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_STATISTICS = ("running_mean", "running_var")
# of torchvision and timm, known by name so that neither is needed: batch norms with fixed statistics, and those that
# go on with a dropout and an activation
_FOREIGN_NORMS = frozenset({"FrozenBatchNorm2d", "BatchNormAct2d", "FrozenBatchNormAct2d"})
QUESTIONS = frozenset(
    {"__get__", "__len__", "dim", "is_contiguous", "is_floating_point", "nelement", "numel", "size", "stride"}
)  # fmt: skip
"""Functions of tensors that read no values, unless they return a tensor."""


def fusible(model: nn.Module, inputs: Inputs) -> list[tuple[str, str]]:
    """Return the pairs of a layer and the batch norm that alone reads its output, each called once.

    Layers are convolutions, transposed convolutions without groups, and linear layers of (N, features). Left alone is
    what has hooks, parametrizations, a forward of its own or several names, what shares its weight, and batch norms
    that compute their statistics from the batch. Code that reads memory behind torch's back is not seen, nor is a
    branch that these inputs do not take: a fused network is compared with the original all the same.

    Args:
        model: run in evaluation mode without gradients; left as it is.
        inputs: what its forward takes: a tensor, positional arguments or keyword arguments.

    Raises:
        ModelError: if it does not run on them.
    """
    reads = _Reads()
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()
    hooks = []
    for name, module in _alone(model):
        if _is_layer(module):
            for key, tensor in module.named_parameters(recurse=False):
                reads.hold(f"{name}.{key}", tensor)

            def left(module: nn.Module, given: Any, output: Tensor, name: str = name) -> None:
                calls[name] += 1
                if output.dim() == cast(Tensor, module.weight).dim():  # else channels are not where norms look for them
                    reads.hold(name, output)

            hooks.append(module.register_forward_hook(left))
        elif is_norm(module):

            def entered(module: nn.Module, given: Any, named: Any, name: str = name) -> None:
                calls[name] += 1
                read = reads.name_of(next(iter((*given, *named.values())), None))
                if read and not module.training:
                    pairs.append((read, name))

            hooks.append(module.register_forward_pre_hook(entered, with_kwargs=True))
    try:
        with reads:
            returned = [reads.name_of(tensor) for tensor in tensors_in(run(model, inputs))]
    finally:
        with deferred:
            for hook in hooks:
                hook.remove()
    reads.count.update(returned)
    return [(one, two) for one, two in pairs if calls[one] == calls[two] == 1 and reads.once(one)]


def fuse(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold each batch norm into its layer, in place; an identity, or the norm's own activation, takes its place."""
    for one, two in pairs:
        layer, norm = cast(Any, model.get_submodule(one)), cast(Any, model.get_submodule(two))
        layer.weight, layer.bias = _folded(layer, norm)
        rest = [getattr(norm, part) for part in ("drop", "act") if type(norm).__name__ in _FOREIGN_NORMS and _has(norm)]
        rest = [part for part in rest if not isinstance(part, nn.Identity)]
        owner, _, leaf = two.rpartition(".")
        instead = nn.Sequential(*rest) if rest else nn.Identity()
        setattr(model.get_submodule(owner), leaf, instead.train(norm.training))


def _folded(layer: Any, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of the layer followed by the norm, rounded once."""
    weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
    wide = torch.float32 if weight.device.type == "mps" else torch.float64  # which has no float64

    def widened(tensor: Tensor | None) -> Any:
        return None if tensor is None else tensor.detach().to(wide)

    new_weight, new_bias = fuse_conv_bn_weights(
        widened(weight),
        widened(bias),
        widened(norm.running_mean),
        widened(norm.running_var),
        norm.eps,
        widened(norm.weight),
        widened(norm.bias),
        transpose=isinstance(layer, TRANSPOSED),
    )
    kind = weight.dtype if bias is None else bias.dtype
    return (
        nn.Parameter(new_weight.detach().to(weight.dtype), weight.requires_grad),
        nn.Parameter(new_bias.detach().to(kind), weight.requires_grad if bias is None else bias.requires_grad),
    )


def _alone(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules below the root that have one name and that nobody has changed from outside."""
    modules = list(model.named_modules(remove_duplicate=False))
    names = Counter(id(module) for _, module in modules)
    for name, module in modules:
        own = vars(module)  # torch has no public way to ask for hooks
        hooked = own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own
        if name and names[id(module)] == 1 and not hooked and not is_parametrized(module):
            yield name, module


def _is_layer(module: nn.Module) -> bool:
    """Tell whether a module is a layer that computes as torch's own does, on a weight that is a plain parameter."""
    base = next((kind for kind in _LAYERS if isinstance(module, kind)), None)
    if base is None or "weight" not in dict(module.named_parameters(recurse=False)):
        return False
    if isinstance(module, TRANSPOSED) and module.groups > 1:
        return False
    kind = StridedConv2d if type(module) is StridedConv2d else base
    return all(
        getattr(type(module), name, None) is getattr(kind, name, None)
        for name in ("forward", "_conv_forward", "__call__")
    )


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a batch norm with statistics of its own that computes as torch's does."""
    if any(not isinstance(getattr(module, name, None), Tensor) for name in _STATISTICS):
        return False
    if type(module).__name__ in _FOREIGN_NORMS:
        return isinstance(module.weight, Tensor) and hasattr(module, "eps")
    return isinstance(module, _NORMS) and type(module).forward in [kind.forward for kind in _NORMS]


def _has(norm: nn.Module) -> bool:
    """Tell whether a batch norm goes on with a dropout and an activation."""
    return isinstance(getattr(norm, "drop", None), nn.Module) and isinstance(getattr(norm, "act", None), nn.Module)


class _Reads(FunctionMode):
    """Counts the calls that do something with the tensors that it holds.

    Attributes:
        count: number of those calls, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        # by id, which nobody else can have as long as the tensor is held; tied weights have several names
        self._held: dict[int, tuple[list[str], Tensor]] = {}

    def hold(self, name: str, tensor: Tensor) -> None:
        """Count calls with this tensor from now on."""
        self._held.setdefault(id(tensor), ([], tensor))[0].append(name)

    def name_of(self, value: object) -> str:
        """Return the name of a tensor that is held; empty for anything else."""
        return self._held[id(value)][0][0] if id(value) in self._held else ""

    def once(self, layer: str) -> bool:
        """Tell whether one call alone did something with the output of a layer, and one with each parameter."""
        parameters = [name for names, _ in self._held.values() for name in names if name.rpartition(".")[0] == layer]
        return all(self.count[name] == 1 for name in (layer, *parameters))

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        result = func(*args, **named)
        asked = getattr(func, "__name__", "") in QUESTIONS
        if not asked or any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for leaf in tree_leaves((args, named)):
                if id(leaf) in self._held:
                    self.count.update(self._held[id(leaf)][0])
        return result
