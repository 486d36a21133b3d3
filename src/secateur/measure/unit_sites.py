"""Where the units of a network can be seen while it runs: where made, where first rectified, and where read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.core.code.written_numbers import call_name
from secateur.core.graph import Graph, layer_of, tensor_of
from secateur.core.layer_families import CONVOLUTIONS
from secateur.core.made_channels import made_channels
from secateur.core.surgery import Inputs, run
from secateur.core.torch_modes import FunctionMode
from secateur.errors import PlanError, SettingError
from secateur.measure.forward import device_of, moved

Position = Literal["made", "rectified", "read"]
"""What a layer puts out, before norms and activations; what comes out of the first rectifier; what a layer is given."""

_RECTIFIERS = frozenset({"relu", "relu_", "relu6", "threshold", "threshold_", "_threshold"})
_CLAMPS = frozenset({"clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_", "hardtanh", "hardtanh_"})
_ADDITIONS = frozenset({"add", "add_", "iadd", "__add__", "__radd__", "__iadd__"})
_JOINS = frozenset({"cat", "concat", "concatenate"})
_PASSING = frozenset(
    {
        "batch_norm", "group_norm", "instance_norm", "layer_norm", "dropout", "dropout_", "feature_dropout",
        "alpha_dropout", "mul", "mul_", "__mul__", "__rmul__", "div", "__truediv__", "contiguous", "clone", "to",
        "float", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "leaky_relu", "leaky_relu_",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor in which units stand.

    Attributes:
        layer: that made or reads it; empty behind a rectifier.
        values: as the network has it, with its history for gradients.
        dim: of the units.
        units: ``(values.shape[dim],)`` int64, graph-wide unit of each position there, -1 = none that is looked at.
    """

    layer: str
    values: Tensor
    dim: int
    units: Tensor

    def rows(self, values: Tensor) -> Tensor:
        """Return a tensor of the same shape as ``(rows, positions of units, others)``, without copying if it can be.

        Rows are those of the first dimension, one row where the units themselves stand there.
        """
        batched = values if self.dim else values.unsqueeze(0)
        return batched.movedim(max(self.dim, 1), 1).flatten(2) if batched.dim() > 2 else batched.unsqueeze(2)


Hear = Callable[[Seen], Tensor | None]
"""Hears of a tensor; what it returns goes to the layer that reads the units in the tensor's place, if anything."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A layer whose inputs or outputs hold units.

    Attributes:
        units: graph-wide, of each channel.
        kernel: dimensions behind that of the channels.
    """

    layer: str
    module: nn.Module
    units: Tensor
    kernel: int

    def seen(self, value: object) -> Seen | None:
        """Return the units in what the layer was given or has put out; None where it holds other numbers of them."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        dim = value.dim() - self.kernel - 1
        return Seen(self.layer, value, dim, self.units) if dim >= 0 and value.shape[dim] == len(self.units) else None


@contextmanager
def watching(model: nn.Module, graph: Graph, position: Position, hear: Hear, units: Tensor) -> Generator[None]:
    """Hear of the tensors in which units stand, while somebody runs the network inside.

    Only plain convolutions and linear layers tell what they are given and put out; rectifiers are found behind these,
    through norms, sums, products, pooling, dropout and concatenations.

    Args:
        model: the network, or a copy of it.
        graph: its graph.
        position: where to look. Behind rectifiers a unit is seen once in a forward, where the first has passed it.
        hear: is called with each tensor, in the forward.
        units: ``(graph.units,)`` boolean, those to look at.
    """
    role, hooks = ("reads" if position == "read" else "makes"), list[Any]()
    follower = _Follower(hear) if position == "rectified" else None

    def before(place: _Place) -> Any:
        def hook(module: nn.Module, given: Any, named: Any) -> Any:
            found = place.seen(given[0] if given else named.get("input"))
            other = None if found is None else hear(found)
            if other is None:
                return None
            return ((other, *given[1:]), named) if given else (given, {**named, "input": other})

        return place.module.register_forward_pre_hook(hook, with_kwargs=True)

    def behind(place: _Place) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            found = place.seen(output)
            if found is not None:
                (hear if follower is None else follower.carry)(found)

        return place.module.register_forward_hook(hook)

    def begin(module: nn.Module, given: Any) -> None:
        if follower is not None:
            follower.begin()

    try:
        hooks.append(model.register_forward_pre_hook(begin))
        hooks += [(before if position == "read" else behind)(place) for place in _places(model, graph, role, units)]
        if follower is None:
            yield
        else:
            with follower:
                yield
    finally:
        for hook in hooks:
            hook.remove()


def visible(model: nn.Module, graph: Graph, inputs: Inputs, position: Position) -> Tensor:
    """Return which units are seen at a position, and at every layer that makes or reads them, ``(graph.units,)``.

    Args:
        model: run once, left as it is.
        graph: its graph.
        inputs: what its forward takes.
        position: where to look.
    """
    seen, found = torch.zeros(graph.units, dtype=torch.bool), set[str]()

    def hear(one: Seen) -> None:
        seen[one.units[one.units >= 0]] = True
        found.add(one.layer)

    everything = torch.ones(graph.units, dtype=torch.bool)
    with watching(model, graph, position, hear, everything):
        run(model, moved(inputs, device_of(model)))
    if position != "rectified":
        role = "reads" if position == "read" else "makes"
        for name, roles in graph.roles.items():
            units = graph.tensors[name][1][roles.index(role)] if role in roles else None
            hidden = units is not None and len(roles) > 1 and (layer_of(name) not in found or name in graph.tied)
            if hidden and units is not None:
                seen[units[units >= 0]] = False
    return seen


def shared_out(model: nn.Module, graph: Graph, inputs: Inputs, positions: Sequence[Position]) -> dict[Position, Tensor]:
    """Return for each position the units that are looked at there: whole groups, each at the first that shows it.

    Args:
        model: run once for each position, left as it is.
        graph: its graph; groups that are left alone are not looked at.
        inputs: what its forward takes.
        positions: in the order in which they are preferred.

    Returns:
        ``(graph.units,)`` boolean for each; groups that are seen nowhere are in none of them.
    """
    left = {group.name: graph.offsets[group.name] for group in graph.free}
    found: dict[Position, Tensor] = {}
    for position in positions:
        chosen = torch.zeros(graph.units, dtype=torch.bool)
        seen = visible(model, graph, inputs, position) if left else chosen
        for name, first in list(left.items()):
            group = slice(first, first + graph.group(name).size)
            if bool(seen[group].all()):
                chosen[group] = True
                del left[name]
        found[position] = chosen
    return found


def refuse_unseen(graph: Graph, found: Mapping[Position, Tensor]) -> None:
    """Refuse networks some of whose units are seen at none of the positions.

    Raises:
        SettingError: naming the first group.
    """
    seen = torch.stack(list(found.values())).any(0)
    for group in graph.free:
        if not bool(seen[graph.offsets[group.name]]):
            raise SettingError(
                f"the units of '{group.name}' are never seen: no convolution or linear layer of their own makes or "
                "reads them; leave that layer alone ('leave'), or take a method that needs weights only"
            )


def _places(model: nn.Module, graph: Graph, role: Literal["makes", "reads"], units: Tensor) -> Iterator[_Place]:
    """Yield the layers that make or read the units, also those that share the weight of another."""
    owners = dict[int, list[tuple[str, nn.Module]]]()
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not isinstance(module, torch.jit.ScriptModule):
            for parameter in module.parameters():  # those that a weight is computed from included
                owners.setdefault(id(parameter), []).append((name, module))
    done = set[str]()
    for name, roles in graph.roles.items():
        if role not in roles or len(roles) < 2:
            continue
        labels = graph.tensors[name][1][roles.index(role)]
        if role == "reads" and layer_of(name) in graph.convolutions:
            labels = graph.convolutions[layer_of(name)]
        if labels is None:
            continue
        labels = torch.where((labels >= 0) & units[labels], labels, -1)
        try:
            found = owners.get(id(tensor_of(model, name)), [])
        except PlanError:  # it is of a network that was made anew
            found = []
        for layer, module in found:
            if layer not in done and bool((labels >= 0).any()):
                done.add(layer)
                own = labels if role == "reads" else made_channels(labels, module, roles.index(role))
                yield _Place(layer, module, own, len(roles) - 2)


class _Follower(FunctionMode):
    """Follows what layers put out until the first rectifier has passed it."""

    def __init__(self, hear: Hear) -> None:
        super().__init__()
        self._hear = hear
        self.begin()

    def begin(self) -> None:
        """Forget the forward before."""
        self._held: dict[int, Seen] = {}  # which hold the tensors, so that no other gets the id of one
        self._done = torch.zeros(0, dtype=torch.long)

    def carry(self, seen: Seen) -> None:
        """Follow what a layer has put out."""
        self._held[id(seen.values)] = seen

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = call_name(func)
        known = name in _RECTIFIERS or name in _CLAMPS or name in _ADDITIONS or name in _PASSING or name in _JOINS
        parts = list(args[0]) if name in _JOINS and args and isinstance(args[0], list | tuple) else list(args)
        held = [self._held.get(id(part)) for part in parts] if known else []
        dims = [part.shape if isinstance(part, Tensor) else None for part in parts]
        result = func(*args, **named)
        if not isinstance(result, Tensor) or not any(held):
            return result
        first = next(one for one in held if one is not None)
        if name in _JOINS:
            dim = named.get("dim", args[1] if len(args) > 1 else 0) % result.dim()
            sizes = [0 if shape is None else shape[dim] for shape in dims]
            nothing = [torch.full((size,), -1) for size in sizes]
            labels = torch.cat([none if one is None else one.units for one, none in zip(held, nothing, strict=True)])
            if dim == first.dim and len(labels) == result.shape[dim]:
                self.carry(Seen("", result, dim, labels))
            return result
        if result.dim() <= first.dim or result.shape[first.dim] != len(first.units):
            return result
        labels = first.units
        for one in held:
            if one is not None and one.dim == first.dim and len(one.units) == len(labels):
                labels = torch.where(labels >= 0, labels, one.units)
        found = Seen("", result, first.dim, labels)
        self.carry(self._rectified(found) if _rectifies(name, args, named) else found)
        return result

    def _rectified(self, found: Seen) -> Seen:
        """Tell of the units that no rectifier has passed before, and of the others no more."""
        fresh = torch.where(torch.isin(found.units, self._done), -1, found.units)
        if bool((fresh >= 0).any()):
            self._hear(replace(found, units=fresh))
            self._done = torch.cat([self._done, fresh[fresh >= 0]]).unique()
        return found


def _rectifies(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Tell whether a call makes zeros of all that is negative."""
    if name in _CLAMPS:
        least = named.get("min", named.get("min_val", args[1] if len(args) > 1 else None))
        return not isinstance(least, Tensor) and least == 0
    if "threshold" in name:
        return tuple(args[1:3]) == (0, 0) or (named.get("threshold"), named.get("value")) == (0, 0)
    return name in _RECTIFIERS
