"""Layers that lost inputs, as they stand in the dense and in the thin network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, layer_of, staying
from secateur.core.plan import Plan
from secateur.core.sizes.size import zero_masks
from secateur.core.surgery import Inputs, run
from secateur.measure.forward import device_of, moved


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution without groups, or a linear layer, some of whose inputs are gone.

    Attributes:
        name: of the layer, in both networks.
        dense: the layer with all its inputs.
        thin: the layer that is left.
        lost: ``(inputs of dense,)`` boolean, which inputs are gone.
        outputs: ``(outputs of dense,)`` boolean, which outputs are left.
    """

    name: str
    dense: nn.Conv2d | nn.Linear
    thin: nn.Conv2d | nn.Linear
    lost: Tensor
    outputs: Tensor


def readers(dense: nn.Module, thin: nn.Module, graph: Graph, plan: Plan) -> Iterator[Reader]:
    """Yield the layers that lost inputs, in the order in which they run.

    Convolutions with groups, layers with zeros that must stay, and layers that surgery replaced are left out.
    """
    keep = graph.kept(plan)
    held = {layer_of(tensor) for tensor in zero_masks(graph, plan, keep)}
    for tensor, roles in graph.roles.items():
        name = layer_of(tensor)
        if not tensor.endswith(".weight") or "reads" not in roles or name in held or tensor in graph.tied:
            continue
        old, new = dense.get_submodule(name), thin.get_submodule(name)
        if not _is_plain(old) or type(new) is not type(old):
            continue
        shape, dims = graph.tensors[tensor]
        reads, makes = 1, 0  # of the weights of both kinds of layer
        if roles[reads] != "reads":
            continue
        left = _left(dims[reads], keep, shape[reads])
        if bool(left.all()):
            continue
        assert isinstance(old, (nn.Conv2d, nn.Linear))
        assert isinstance(new, (nn.Conv2d, nn.Linear))
        yield Reader(name, old, new, ~left, _left(dims[makes], keep, shape[makes]))


def _is_plain(module: nn.Module) -> bool:
    if any(parameter.is_complex() for parameter in module.parameters()):
        return False
    if type(module) is nn.Linear:
        return True
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _left(units: Tensor | None, keep: Tensor, size: int) -> Tensor:
    return torch.ones(size, dtype=torch.bool) if units is None else staying(units, keep)


def inputs_and_outputs(
    network: nn.Module, layer: nn.Module, images: Iterable[Inputs]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield for each batch what goes into a layer and what comes out of it, once for each of its calls.

    Code that computes with the weights of a layer itself does not call it.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        seen.append((next(iter((*given, *named.values()))).detach(), output.detach()))

    device = device_of(network)
    hook = layer.register_forward_hook(note, with_kwargs=True)
    try:
        for batch in images:
            seen.clear()
            run(network, moved(batch, device))
            yield list(seen)
    finally:
        hook.remove()
