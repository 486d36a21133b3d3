"""Layers whose weights are computed anew in each run: which of them keep their channels, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from secateur.core.graph.computed_weights import Transformed

_QUANTISING = ("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")
_OBSERVING = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")
_REASONS = {
    "_SpectralNorm": "spectral norm divides its weight by its largest singular value, which every channel is part of",
    "_Orthogonal": "its weight is kept orthogonal, which every channel is part of",
}


def transformed(model: nn.Module) -> dict[str, Transformed]:
    """Return by their names the layers whose channels stay for what their weights are computed with.

    Weight norm is not among them, as channels can go through it.
    """
    found: dict[str, Transformed] = {}
    for name, module in model.named_modules():
        for reason, remedy in _of(name, module):
            found.setdefault(name, Transformed(_width(module), reason, remedy))
    return found


def reason_at(found: Mapping[str, Transformed], place: str) -> tuple[str, str] | None:
    """Return why channels stay, and the remedy, in such a layer or a part of one."""
    while place:
        if place in found:
            return found[place].reason, found[place].remedy
        place = place.rpartition(".")[0]
    return None


def _of(name: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    place = f"model.get_submodule({name!r})" if name else "model"
    kind = type(module).__module__
    for tensor, parts in _parametrizations(module):
        kinds = [type(part).__name__ for part in parts]
        if kinds == ["_WeightNorm"]:
            continue
        reason = next((_REASONS[each] for each in kinds if each in _REASONS), "")
        reason = reason or f"its {tensor} is computed by a parametrization ({', '.join(kinds)})"
        call = f"torch.nn.utils.parametrize.remove_parametrizations({place}, {tensor!r})"
        yield f"{reason} in '{name}'", f"remove it first: {call}"
    for hook in module._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
        if isinstance(hook, SpectralNorm):
            call = f"torch.nn.utils.remove_spectral_norm({place}, {hook.name!r})"
            yield (
                f"{_REASONS['_SpectralNorm']} in '{name}'",
                f"remove it first: {call}, then {place}._load_state_dict_pre_hooks.clear(), for torch leaves a hook "
                "there that refuses the weights of the layer",
            )
    if kind.startswith(_QUANTISING) or kind.startswith(_OBSERVING):
        yield (
            f"'{name}' is prepared for quantisation, with scales of all its channels together",
            "prune the network before it is prepared (torch.ao.quantization.prepare, prepare_qat, prepare_qat_fx), and "
            "prepare the pruned one",
        )


def _parametrizations(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.items()  # pyright: ignore


def _width(module: nn.Module) -> int:
    for name in ("out_channels", "out_features"):
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    return 0
