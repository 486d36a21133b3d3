"""Fold batch norms into the convolutions before them, which saves a pass over every map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fusible(model: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Return the pairs of a convolution and the batch norm that reads its output, each called once.

    That nothing else reads the output is not seen here: a fused network must be compared with the original.

    Args:
        model: in evaluation mode; left as it is.
        images: a batch to run it on.
    """
    outputs: list[tuple[str, Tensor]] = []  # held, so that no id is used twice
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
                outputs.append((name, output))

            hooks.append(module.register_forward_hook(left))
        elif type(module) in _NORMS and module.running_mean is not None:

            def entered(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1
                pairs.extend((maker, name) for maker, output in outputs if output is inputs[0])

            hooks.append(module.register_forward_pre_hook(entered))
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(one, two) for one, two in pairs if calls[one] == calls[two] == 1]


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
