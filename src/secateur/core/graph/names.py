"""The names of layers: which module owns a tensor, and which modules a pattern means."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable


def layer_of(tensor: str) -> str:
    """Return the name of the module that owns a tensor; the empty string is the network itself.

    What a weight is computed from (``torch.nn.utils.parametrize``) belongs to the layer of that weight.
    """
    return unparametrized(tensor.rpartition(".")[0])


def maker_of(tensor: str) -> str:
    """Return what to call that makes channels with a tensor: its layer, or itself where it is the network's own."""
    return layer_of(tensor) or tensor


def unparametrized(module: str) -> str:
    """Return the layer that a parametrization is of, another module's name as it is."""
    return f".{module}".partition(".parametrizations.")[0].removeprefix(".")


def several(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names or patterns of which one may have been given alone."""
    return (names,) if isinstance(names, str) else tuple(names)


def within(layer: str, pattern: str) -> bool:
    """Say whether a layer, or a module that it is part of, matches a pattern (``fnmatch``)."""
    parts = layer.split(".")
    return any(fnmatch.fnmatch(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
