"""Which batch norm reads the output of a layer, and nobody else does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from secateur.measure.forward import device_of, evaluating

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def norms_behind(network: nn.Module, layers: Sequence[str], images: Iterable[Tensor]) -> dict[str, str]:
    """Return for each layer the batch norm that alone reads what it makes; layers without one are left out.

    Args:
        network: left as it is.
        layers: names of layers that return one tensor.
        images: batches ``(N, C, H, W)`` to run the network on.
    """
    uses = _Uses()
    modules = network.named_modules()
    names: dict[nn.Module, str] = {module: name for name, module in modules if isinstance(module, BATCH_NORMS)}
    own = {network.get_submodule(name): name for name in layers}
    hooks = [module.register_forward_hook(uses.made) for module in own]
    hooks += [norm.register_forward_pre_hook(uses.entered) for norm in names]
    device = device_of(network)
    try:
        with evaluating(network), torch.no_grad(), uses:
            for batch in images:
                network(batch.to(device))
                uses.forget()
    finally:
        for hook in hooks:
            hook.remove()
    behind: dict[str, str] = {}
    for layer, name in own.items():
        norm, *others = uses.readers.get(layer, set()) or {None}
        if norm is not None and not others and uses.read_by[norm] == {layer}:
            behind[name] = names[norm]
    return behind


class _Uses(TorchFunctionMode):
    """Notes which calls take the outputs of some layers, and whether they are those of a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[nn.Module, set[nn.Module | None]] = {}
        self.read_by: dict[nn.Module, set[nn.Module | None]] = {}
        self._outputs: dict[int, tuple[Tensor, nn.Module]] = {}
        self._norm: nn.Module | None = None

    def made(self, layer: nn.Module, given: object, output: Tensor) -> None:
        """Hear of a layer's output; it is kept, so that its identity belongs to nobody else."""
        self._outputs[id(output)] = (output, layer)

    def entered(self, norm: nn.Module, given: tuple[Any, ...]) -> None:
        """Hear that a batch norm is about to read."""
        self._norm = norm
        _, layer = self._outputs.get(id(given[0]), (None, None))
        self.read_by.setdefault(norm, set()).add(layer)

    def forget(self) -> None:
        """Let go of the outputs of one batch."""
        self._outputs.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not a question about its shape
            norm = self._norm if getattr(func, "__name__", "") == "batch_norm" else None
            for leaf in tree_leaves((args, kwargs)):
                if id(leaf) in self._outputs:
                    self.readers.setdefault(self._outputs[id(leaf)][1], set()).add(norm)
        return result
