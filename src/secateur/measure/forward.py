"""Running a network for the sake of measuring it, and leaving it as it was."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from secateur.core.surgery.forward import INPUTS, count_of, listed, spread, takes_names
from secateur.core.surgery.untouched import owned, untouched
from secateur.errors import DataError, ModelError, SecateurError, reason_of
from secateur.rules import Rule

T = TypeVar("T")
_SHOWN = 3  # shapes in a message

ExampleInputs: TypeAlias = Annotated[Tensor | tuple[Any, ...] | Mapping[str, Any], INPUTS]
"""A tensor (one argument), a tuple (positional arguments) or a mapping (keyword arguments)."""


def _is_here(value: object) -> bool:
    if not isinstance(value, torch.device | str):
        return False
    try:
        return torch.empty(0, device=value).device.type != "meta"
    except Exception:  # no device, no such device here, or torch was built without it
        return False


def _is_known(value: object) -> bool:
    try:
        return isinstance(value, torch.device | str) and bool(torch.device(value).type)
    except RuntimeError:
        return False


KnownDevice: TypeAlias = Annotated[torch.device | str, Rule(_is_known, "a device that torch knows, such as cpu")]
Device: TypeAlias = Annotated[torch.device | str, Rule(_is_here, "a device that torch has here, such as cpu")]


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put ``model`` into eval mode for a while, and then all that forwards change in it back, its modes included."""
    with untouched(model), in_eval_mode(model):
        yield


@contextmanager
def in_eval_mode(model: nn.Module) -> Generator[None]:
    """Put ``model`` into eval mode for a while, and then each of its modules back into its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Return where the first parameter or buffer of ``model`` lives; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the type of the first floating-point parameter of ``model``; torch's default if it has none."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


def tensors(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in (nested) example inputs, in order."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for value in cast("Mapping[Any, Any]", inputs).values():
            yield from tensors(value)
    elif isinstance(inputs, tuple | list):
        for value in cast("tuple[Any, ...]", inputs):
            yield from tensors(value)


def moved(
    inputs: Any,
    device: torch.device,
    memory_format: torch.memory_format | None = None,
    *,
    non_blocking: bool = False,
) -> Any:
    """Return ``inputs`` with its tensors on ``device``, and those of 4 dimensions in ``memory_format``.

    With ``non_blocking`` pinned memory is copied while other work goes on.

    Raises:
        ModelError: if one of them has no values that could be moved.
    """
    if isinstance(inputs, Tensor):
        if inputs.is_meta and device.type != "meta":
            raise ModelError("an example input has a shape and no values (device 'meta'): give a tensor with values")
        inputs = inputs.to(device, non_blocking=non_blocking)
        return inputs if memory_format is None or inputs.ndim != 4 else inputs.to(memory_format=memory_format)
    if isinstance(inputs, Mapping):
        entries = cast("Mapping[Any, Any]", inputs)
        return table_like(
            entries,
            {key: moved(value, device, memory_format, non_blocking=non_blocking) for key, value in entries.items()},
        )
    if isinstance(inputs, tuple | list):
        several = cast("tuple[Any, ...]", inputs)
        values = [moved(value, device, memory_format, non_blocking=non_blocking) for value in several]
        return tuple_like(several, values) if isinstance(inputs, tuple) else values
    return inputs


def refilled(inputs: Any, values: Iterator[Tensor]) -> Any:
    """Return ``inputs`` with other tensors in the places of its own, in the order of ``tensors``."""
    if isinstance(inputs, Tensor):
        return next(values)
    if isinstance(inputs, Mapping):
        entries = cast("Mapping[Any, Any]", inputs)
        return table_like(entries, {key: refilled(value, values) for key, value in entries.items()})
    if isinstance(inputs, tuple | list):
        entries = [refilled(value, values) for value in cast("tuple[Any, ...]", inputs)]
        return tuple_like(cast("tuple[Any, ...]", inputs), entries) if isinstance(inputs, tuple) else entries
    return inputs


def tuple_like(like: tuple[Any, ...], values: Iterable[Any]) -> tuple[Any, ...]:
    """Return a tuple of other values; code that reads a named one by its fields still finds them."""
    return getattr(type(like), "_make", tuple)(values)


def table_like(like: Mapping[Any, Any], values: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a table of other values; one of a class of its own, as with its keys as attributes, keeps that."""
    if type(like) is dict or not isinstance(like, MutableMapping):
        return values
    made = copy.copy(like)
    made.update(values)
    return made


def length(inputs: Any) -> int:
    """Return how many images a batch holds: those of its list, or the first dimension of its first tensor."""
    return count_of(inputs) or 0


def part(inputs: Any, rows: slice | Tensor) -> Any:
    """Return some of the images of a batch; a slice shares memory. Tensors without dimensions are of all images."""
    images = listed(inputs)
    if images is not None:
        chosen: list[int] = torch.arange(len(images))[rows].tolist()
        return ([images[row] for row in chosen],)
    return refilled(inputs, (tensor[rows] if tensor.dim() else tensor for tensor in tensors(inputs)))


def joinable(batches: Sequence[Any]) -> bool:
    """Tell whether the images of batches of one structure have one size; those of a list may have any."""
    if not batches or listed(batches[0]) is not None:
        return True
    return len({tuple(tensor.shape[1:] for tensor in tensors(batch)) for batch in batches}) == 1


def joined(batches: Sequence[Any]) -> Any:
    """Return the images of ``joinable`` batches in one batch, as a copy."""
    several = [listed(batch) for batch in batches]
    if several[0] is not None:
        return ([image.clone() for images in several for image in images or ()],)
    columns = zip(*(tensors(batch) for batch in batches), strict=True)
    return refilled(batches[0], (torch.cat(column) if column[0].dim() else column[0] for column in columns))


def repeated(inputs: Any, count: int) -> Any:
    """Return a batch of so many copies of its first example; a batch whose tensors share no length stays as it is."""
    if listed(inputs) is None and len({len(tensor) if tensor.dim() else 0 for tensor in tensors(inputs)}) != 1:
        return inputs
    return joined([part(inputs, slice(1))] * count)


def yielded(source: Iterable[T], what: str) -> Iterator[T]:
    """Yield what somebody's iterable yields.

    Args:
        source: a list, loader, generator or anything else; asked for no more than is taken.
        what: its entries, in words.

    Raises:
        DataError: if it fails, whatever the error.
    """
    try:
        yield from source
    except (SecateurError, MemoryError, torch.OutOfMemoryError):  # whoever called may try with less, or elsewhere
        raise
    except Exception as error:
        reason = reason_of(error)
        raise DataError(f"{what} cannot be read ({reason}): mend what yields them") from error


def call(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Run ``model`` on a copy of ``inputs``, for it may write into them, and return its output.

    Raises:
        ModelError: if the forward pass fails.
    """
    return call_on(model, owned(inputs))


def call_on(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Run ``model`` on ``inputs`` themselves and return its output.

    Raises:
        ModelError: if the forward pass fails.
    """
    try:
        return spread(model, inputs)
    except (SecateurError, MemoryError, torch.OutOfMemoryError):  # whoever called may try elsewhere
        raise
    except Exception as error:  # its forward is anybody's code
        shapes = _listed([str(tuple(tensor.shape)) for tensor in tensors(inputs)]) or "no tensors"
        reason = reason_of(error)
        if "more than 1 value per channel when training" in reason:
            size = next((len(tensor) for tensor in tensors(inputs) if tensor.dim()), 0)
            reason = (
                f"a batch norm on maps of 1 x 1 cannot train on a batch of {size}: let the loader drop the last batch "
                "where it is that small (drop_last=True), or choose another batch size"
            )
        hint = takes_names(inputs, error)
        raise ModelError(f"the model cannot run on inputs of shape {shapes}: {reason}{hint}") from error


def _listed(shapes: Sequence[str]) -> str:
    """Return shapes in words; of many, as those of single images and their boxes, the first."""
    more = [f"{len(shapes) - _SHOWN} more"] if len(shapes) > _SHOWN + 1 else []
    return " and ".join([*(shapes[:_SHOWN] if more else shapes), *more])
