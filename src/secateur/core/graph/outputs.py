"""What a network returns, tensor by tensor: paths into it, which of it may lose channels, and what is left of it then.

A path leads to a tensor through keys, fields and positions, joined by dots: ``logits``, ``1``, ``1.feats``,
``hidden_states.3``. A pattern names it by its own path or by that of something around it, as ``leave`` names layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.core.graph.names import within
from secateur.core.graph.units import staying
from secateur.errors import SettingError, nearest
from secateur.spelling import setting

FREE_IT = "if nothing needs that width, name the output in free_outputs"
SCORES = "logits"
IN_TRAINING, IN_ANOTHER_RUN = "in training", "in another run"
_MOST = 12  # outputs that a message lists
_PLAIN = frozenset(
    {int, float, bool, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)  # which hold nothing


@dataclass(frozen=True, eq=False)
class Output:
    """A tensor that a network returns.

    Attributes:
        path: leads to it; empty where it is all that is returned.
        axes: dimensions along which channels can go, each with the graph-wide unit of each position, -1 = stays.
    """

    path: str
    axes: tuple[tuple[int, Tensor], ...]

    def left(self, tensor: Tensor, keep: Tensor) -> Tensor:
        """Return what a thin network has of the tensor.

        Args:
            tensor: of the network before the cut, perhaps for another number of inputs.
            keep: ``(units,)`` boolean, what stays.
        """
        for dim, units in self.axes:
            size = tensor.shape[dim]
            often = -(-size // len(units))  # channels beside samples in one dimension come once for each of these
            stays = staying(units, keep).repeat(often)[:size]
            tensor = tensor.index_select(dim, torch.nonzero(stays).flatten().to(tensor.device))
        return tensor


def left_of(known: Sequence[Output], value: Any, keep: Tensor) -> list[Tensor]:
    """Return the tensors that a network has returned, each without the channels of units that go.

    Args:
        known: of the same network, in the same mode.
        value: what it returned.
        keep: ``(units,)`` boolean, what stays.
    """
    found = [tensor for _, tensor in named_tensors(value)]
    if len(found) != len(known) or bool(keep.all()):
        return found
    return [output.left(tensor, keep) for output, tensor in zip(known, found, strict=True)]


def named_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Return all tensors of an output in order, however deep in containers, dataclasses and other objects, by path."""
    return [(".".join(path), tensor) for path, tensor in _tensors(value, (), frozenset())]


def _tensors(value: Any, path: tuple[str, ...], above: frozenset[int]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if type(value) in _PLAIN or id(value) in above or isinstance(value, (nn.Module, type)):
        return
    for name, part in _parts(value):
        yield from _tensors(part, (*path, str(name)), above | {id(value)})


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if type(value) in (tuple, list):  # of every operator: to ask for less than the exact class costs ten times that
        return list(enumerate(value))
    parts: list[tuple[Any, Any]] = list(vars(value).items()) if hasattr(value, "__dict__") else []
    if isinstance(value, Mapping):
        return list(cast("Mapping[Any, Any]", value).items())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        items = list(cast("Sequence[Any]", value))
        return [*zip(getattr(value, "_fields", range(len(items))), items, strict=True), *parts]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return parts


def scores_in(output: Any) -> Any:
    """Return what stands where class scores stand: all of it, what is named ``logits``, or what comes first."""
    if isinstance(output, Mapping):
        return cast("Mapping[str, Any]", output).get(SCORES)
    if hasattr(output, SCORES):
        return getattr(output, SCORES)
    return cast("Sequence[Any]", output)[0] if isinstance(output, tuple | list) and output else output


def are_scores(path: str, tensor: Tensor, output: Any) -> bool:
    """Tell whether a tensor of an output is the class scores, which decide about accuracy."""
    return scores_in(output) is tensor and (path in ("", SCORES) or tensor.dim() == 2)


def is_named(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether one of the patterns names an output, or something around it."""
    return any(within(path, pattern) for pattern in patterns)


def check_named(
    patterns: Sequence[str], returned: Mapping[str, Sequence[int]], also: Mapping[str, Sequence[int]]
) -> None:
    """Refuse patterns that name nothing, or leave nothing to predict with.

    Args:
        patterns: of outputs that may lose channels.
        returned: path and shape of all outputs in evaluation mode.
        also: the same of those that training mode has beside them.

    Raises:
        SettingError: with all outputs and their shapes.
    """
    if patterns and list(returned) == [""]:
        raise SettingError(
            f"the network returns a single tensor ({_written(returned[''])}), which is its prediction and must keep "
            f"its width; leave '{patterns[0]}' out of free_outputs"
        )
    for pattern in patterns:
        if not any(is_named(path, [pattern]) for path in (*returned, *also)):
            raise SettingError(
                f"no output of the network matches '{pattern}' in {setting('free_outputs')}"
                f"{nearest(pattern, list(returned))}; it returns {_listed({**returned, **also})}"
            )
    if patterns and all(is_named(path, patterns) for path in returned):
        raise SettingError(
            "free_outputs name everything that the network returns, its prediction too, which must keep its width; "
            f"name only what is beside it, of {_listed(returned)}"
        )


def refuse_scores(path: str, shape: Sequence[int], *, known: bool = True) -> None:
    """Refuse to let class scores lose channels, which are known as such or all that is returned that could be some.

    Raises:
        SettingError: always.
    """
    what = "holds the class scores" if known else "is all that the network returns that can be class scores"
    raise SettingError(
        f"the output '{path}' ({_written(shape)}) {what}, which must keep their width; leave it out of "
        "free_outputs, and name only what is beside it"
    )


def named(paths: Sequence[str]) -> str:
    """Return outputs in words, as what pins a channel."""
    known = [f"'{path}'" for path in dict.fromkeys(paths) if path]
    if not known:
        return "an output of the network"
    if len(known) == 1 and paths[0] in (IN_TRAINING, IN_ANOTHER_RUN):  # of a network that returns one tensor
        return f"an output of the network {paths[0]}"
    more = f" and {len(known) - 3} more" if len(known) > 3 else ""
    what = "an output" if len(known) == 1 else "outputs"
    return f"{what} of the network ({', '.join(known[:3])}{more})"


def _listed(returned: Mapping[str, Sequence[int]]) -> str:
    every = [f"'{path}' ({_written(shape)})" for path, shape in returned.items()]
    more = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return ", ".join(every[:_MOST]) + more


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
