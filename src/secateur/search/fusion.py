"""Fold batch norms into the convolutions before them, which saves a pass over every map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fusible(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Return the pairs of a convolution and the batch norm that alone reads its output, each called once.

    Code that reads memory behind torch's back is not seen: a fused network is compared with the original all the same.

    Args:
        model: in evaluation mode; left as it is.
        images: a batch to run it on.
    """
    outputs = _Outputs()
    pairs: list[tuple[str, str]] = []
    calls: dict[str, int] = {}
    hooks = []
    for name, module in model.named_modules():
        own = vars(module)  # torch has no public way to ask for hooks
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or is_parametrized(module):
            continue
        if type(module) in _CONVOLUTIONS:

            def left(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                outputs.held[id(output)] = (name, output)

            hooks.append(module.register_forward_hook(left))
        elif type(module) in _NORMS and module.running_mean is not None:

            def entered(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                if id(inputs[0]) in outputs.held:
                    pairs.append((outputs.held[id(inputs[0])][0], name))

            hooks.append(module.register_forward_pre_hook(entered))
    try:
        with outputs:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(one, two) for one, two in pairs if calls[one] == calls[two] == outputs.reads[one] == 1]


class _Outputs(TorchFunctionMode):
    """Counts for the output of each convolution the calls that make tensors of it.

    Attributes:
        held: name and output by the output's id, which nobody else can have as long as it is held.
        reads: number of those calls, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[str, Tensor]] = {}
        self.reads: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not a question about a shape
            self.reads.update(self.held[id(x)][0] for x in tree_leaves((args, kwargs)) if id(x) in self.held)
        return result


def fuse(model: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """Fold each batch norm into its convolution, in place; an identity takes its place."""
    for one, two in pairs:
        convolution, norm = model.get_submodule(one), model.get_submodule(two)
        assert isinstance(convolution, _CONVOLUTIONS)
        assert isinstance(norm, _NORMS)
        _put(model, one, fuse_conv_bn_eval(convolution, norm))
        _put(model, two, nn.Identity())


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
