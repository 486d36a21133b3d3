"""What an optimizer keeps beside its groups: moments of every kind, lists of parameters, other optimizers."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.sizes.size import sliced
from secateur.errors import ModelError


class Step(NamedTuple):
    """One cut.

    Attributes:
        graph: of the network before it.
        keep: which units stay, see ``Graph.kept``.
        masks: of the weights that it sets to zero, by name, in the shapes that they have afterwards.
    """

    graph: Graph
    keep: Tensor
    masks: Mapping[str, Tensor]


def optimizers_in(value: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers that a value is or holds, each once, from the outermost: wrappers, schedulers, trainers.

    Networks are not looked into. Attributes are read as they stand, without running properties other than
    ``optimizer`` and ``scheduler``.
    """
    found: list[torch.optim.Optimizer] = []
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, torch.optim.Optimizer):
            found.append(each)
        named = [getattr(each, name, None) for name in ("optimizer", "scheduler")]
        waiting += [one for one in named if one is not None and not isinstance(one, nn.Module)]
        waiting += [one for one in _entries(getattr(each, "__dict__", {})) if isinstance(one, torch.optim.Optimizer)]
    return found


def _entries(attributes: Mapping[str, Any]) -> Iterator[Any]:
    """Yield attributes, and what stands in those that are lists or tables."""
    for value in attributes.values():
        if isinstance(value, list | tuple):
            yield from cast("list[Any]", value)
        elif isinstance(value, dict):
            yield from cast("dict[Any, Any]", value).values()
        else:
            yield value


def with_successors(value: Any, successors: Mapping[int, Any]) -> Any:
    """Return a value in which parameters are replaced, by their ids, in lists and tables too; itself if it has none."""
    if isinstance(value, Tensor):
        return successors.get(id(value), value)
    if isinstance(value, list | tuple | deque | dict):
        parts = _parts(value)
        new = [with_successors(part, successors) for part in parts]
        if any(a is not b for a, b in zip(parts, new, strict=True)):
            return _like(cast("Any", value), new)
    return value


def thinned(value: Any, key: str, name: str, shape: tuple[int, ...], step: Step, *, settled: bool) -> Any:
    """Return what an optimizer keeps for a weight without the positions that the weight loses in a cut.

    Args:
        value: a tensor of the weight's shape, or of size one along dimensions that it averages over; numbers; lists
            and tables of such, in which tensors must have exactly the shape of the weight.
        key: under which it is kept.
        name: of the weight.
        shape: of the weight before the cut.
        step: the cut.
        settled: whether the optimizer averages over the same dimensions whatever the size of a weight.

    Raises:
        ModelError: for a tensor whose shape does not follow the weight's.
    """
    if isinstance(value, list | tuple | deque | dict):
        parts = _parts(value)
        for part in parts:
            if isinstance(part, Tensor) and part.numel() > 1 and part.shape != shape:
                raise _refused(key, part, name, shape)
        return _like(cast("Any", value), [thinned(it, key, name, shape, step, settled=settled) for it in parts])
    if not isinstance(value, Tensor):
        if getattr(value, "shape", ()):  # an array of another library
            raise _refused(key, value, name, shape)
        return value
    if value.dim() == 0:
        return value.clone()
    if value.dim() != len(shape) or any(a not in (1, b) for a, b in zip(value.shape, shape, strict=True)):
        raise _refused(key, value, name, shape)
    # what no forward uses stays
    known = step.graph.tensors[name][1] if name in step.graph.tensors else (None,) * len(shape)
    if not settled and value.shape != shape and sliced(value.detach().expand(shape), known, step.keep).shape != shape:
        raise _refused(key, value, name, shape, "which is averaged over dimensions that depend on how wide a weight is")
    # factored moments have size one along the dimensions that they average over
    dims = tuple(units if value.shape[d] > 1 else None for d, units in enumerate(known))
    thin = sliced(value.detach(), dims, step.keep).clone()
    if name in step.masks and thin.shape == step.masks[name].shape:
        thin.mul_(step.masks[name].to(thin.device, thin.dtype))
    return thin


def check_common(key: Any, value: Any, held: Container[int]) -> None:
    """Refuse what is kept for no weight alone if there are tensors in it: nobody knows what their numbers are of.

    Args:
        key: under which it is kept.
        value: what is kept.
        held: ids of the parameters, which may stand there.

    Raises:
        ModelError: names it.
    """
    if isinstance(value, list | tuple | deque | dict):
        for part in _parts(value):
            check_common(key, part, held)
    elif getattr(value, "shape", ()) and not (isinstance(value, Tensor) and (value.numel() == 1 or id(value) in held)):
        raise ModelError(
            f"the optimizer keeps '{key}' of shape {tuple(value.shape)} for several weights together, which cannot be "
            "made thinner with them; make a new optimizer"
        )


def _refused(
    key: str, value: Any, name: str, shape: tuple[int, ...], why: str = "which cannot be made thinner with it"
) -> ModelError:
    return ModelError(
        f"the optimizer keeps '{key}' of shape {tuple(value.shape)} for '{name}' of shape {tuple(shape)}, {why}; make "
        "a new optimizer"
    )


def _parts(value: Any) -> list[Any]:
    """Return what stands in a list or table; of a table its keys, then its values."""
    if isinstance(value, dict):
        table = cast("dict[Any, Any]", value)
        return [*table.keys(), *table.values()]
    return list(value)


def _like(value: Any, parts: list[Any]) -> Any:
    """Return a list or table of the same kind with other parts."""
    if isinstance(value, dict):
        half = len(parts) // 2
        new = copy.copy(cast("dict[Any, Any]", value))  # which may have a default
        new.clear()
        new.update(zip(parts[:half], parts[half:], strict=True))
        return new
    if isinstance(value, deque):
        return deque(parts, cast("Any", value).maxlen)
    if isinstance(value, tuple):
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return parts
