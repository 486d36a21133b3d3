"""Weights that are computed from a layer's own parameter while the network trains, and are plain again afterwards."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.errors import SettingError


@contextmanager
def parametrized(layer: nn.Module, part: nn.Module) -> Generator[None]:
    """Let a module compute the weight of a layer inside the block.

    Afterwards the layer has its own parameter again, in its own place.
    """
    order = list(layer._parameters)  # pyright: ignore[reportPrivateUsage]
    parametrize.register_parametrization(layer, "weight", part)
    try:
        yield
    finally:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        own = layer._parameters  # pyright: ignore[reportPrivateUsage]
        for name in order:  # the weight was put last; an optimizer's state goes by the order
            own[name] = own.pop(name)


def original(layer: nn.Module) -> Tensor:
    """Return the parameter of the weight itself."""
    if parametrize.is_parametrized(layer, "weight"):
        return cast(Any, layer).parametrizations["weight"].original
    return cast(Any, layer).weight


def refuse_parametrized(layers: Mapping[str, nn.Module], otherwise: str = "") -> None:
    """Refuse layers whose weight is computed already, which could not be told apart afterwards.

    Args:
        layers: by name.
        otherwise: what else than removing it helps.

    Raises:
        SettingError: naming the first.
    """
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise SettingError(f"the weight of '{name}' has a parametrization already; remove it{otherwise}")
