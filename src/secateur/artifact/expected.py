"""What a dense network must be like before it is built: as many weights as were counted, and not out of proportion.

The network is first built without memory, on the ``meta`` device, and run there on inputs without memory: that tells
what it will take for the price of its Python code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur import reading
from secateur.artifact.bounded_reading import entry, whole_number
from secateur.artifact.document import inputs_like
from secateur.artifact.weights import Header
from secateur.core.module_calls import Operators
from secateur.core.surgery import run, tensors_in
from secateur.errors import SecateurError

PER_STORED = 64
"""Weights of the dense network for each that is stored of the pruned one: less than 2 percent are never left."""

ALWAYS = 2**25
"""Weights of a dense network that are no matter."""

SMALL = 2**20
"""Numbers in example inputs with which any network of such a size runs: a colour image of 591 by 591."""

PER_COUNTED = 64
"""Elements that all operators put out for each that the convolutions and linear layers were counted to."""


def check_expected(
    build: Callable[[], nn.Module], measurement: Mapping[str, Any], stored: Header, *, counted: bool
) -> None:
    """Refuse a network that is not the one that was measured, or whose size its stored weights do not bear out.

    A network that cannot be built without memory is not looked at.

    Args:
        build: returns the dense network.
        measurement: content of measurement.json.
        stored: type and shape of the weights of the pruned network, by name.
        counted: whether what ``build`` returns is what was measured, and not given another classifier afterwards.

    Raises:
        reading.Unfit: if it is another network, or too large.
    """
    counts = entry(entry(measurement, "before"), "counts")
    model = _weightless(build)
    if model is None:
        return
    params = sum(parameter.numel() for parameter in model.parameters())
    noted = whole_number(counts, "params")
    if counted and params != noted:
        raise reading.Unfit(f"the recipe's network has {params:,} weights, where {noted:,} were counted")
    held = sum(torch.Size(shape).numel() for _, shape in stored.values())
    if params > ALWAYS + PER_STORED * held:
        raise reading.Unfit(f"the recipe's network has {params:,} weights, of which {held:,} are stored")
    made = _made(model, measurement["example"])
    if made is not None and made > ALWAYS + PER_COUNTED * whole_number(counts, "activations"):
        raise reading.Unfit("its example inputs are larger than those that the network was measured on")


def _weightless(build: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        with torch.device("meta"):
            return build()
    except SecateurError as error:
        if isinstance(error.__cause__, NotImplementedError | RuntimeError):  # it looks at values while it is built
            return None
        raise


def _made(model: nn.Module, example: Mapping[str, Any]) -> int | None:
    """Return how many elements all operators of a forward put out; None where that needs the values, or is little."""
    sizes: list[int] = []

    def hear(func: Any, args: object, kwargs: object, out: Any) -> None:
        if not func.is_view:  # what is new
            sizes.extend(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))

    inputs = inputs_like(example, torch.device("meta"))
    if sum(tensor.numel() for tensor in tensors_in(inputs)) <= SMALL:
        return None  # the first forward without memory imports for a second what gives operators their shapes
    try:
        with Operators(hear):
            run(model, inputs)
    except (SecateurError, NotImplementedError, RuntimeError):
        return None
    return sum(sizes)
