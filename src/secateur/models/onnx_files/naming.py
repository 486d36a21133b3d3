"""Names of inputs and layers that any file may have made, as names that a module and its code can have."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Container

from torch import fx, nn

_DEEPEST = 30
"""Parts of a layer's name: what is deeper stands in one part, as Python compiles no deeper code."""

_LONGEST = 200
_TAKEN = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph()))) | {"interface", "example_inputs"}
_MEANT = frozenset({*dir(builtins), "self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"})


def argument(given: str, others: Container[str]) -> str:
    """Return a name for an input of a module, unlike the others."""
    label = "".join(letter if letter.isidentifier() or letter.isdigit() else "_" for letter in given)[:_LONGEST]
    if not label.isidentifier() or keyword.iskeyword(label) or (label in _MEANT and label != "input"):
        label = f"input_{label}"
    while label in others:
        label += "_"
    return label


def layer(given: str) -> str:
    """Return a dotted name for a layer, of parts that are no words of Python's and nothing that a module has."""
    parts = [re.sub(r"\W", "_", part)[:_LONGEST] or "_" for part in given.split(".")]
    if len(parts) > _DEEPEST:
        parts = [*parts[:_DEEPEST], "_".join(parts[_DEEPEST:])[-_LONGEST:]]
    return ".".join(f"{part}_" if keyword.iskeyword(part) or part in _TAKEN else part for part in parts)
