"""Run any network on example inputs without leaving a trace in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.attention import module_by_module
from secateur.core.graph.outputs import named_tensors
from secateur.core.interrupts import deferred
from secateur.core.surgery.object_numbers import of_another
from secateur.core.surgery.untouched import ordinary, owned, untouched
from secateur.errors import ModelError, SecateurError, first_line
from secateur.rules import Rule

_DEEPEST = 30  # containers in containers


def ends(value: object, depth: int = 0) -> bool:
    """Tell whether a value is built of containers that do not hold themselves, whatever else is in them."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, Mapping):
        return all(ends(each, depth + 1) for each in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return all(ends(each, depth + 1) for each in cast("Sequence[Any]", value))
    return True


INPUTS = Rule(
    lambda value: isinstance(value, Tensor | list | tuple | Mapping) and ends(value),
    "a tensor, a list of images, a tuple of positional arguments, or a table of named ones",
)
"""What a network can be called with."""

Inputs: TypeAlias = Annotated[Tensor | Sequence[Any] | Mapping[str, Any], INPUTS]


def are_images(inputs: Any) -> bool:
    """Tell whether inputs are a list of single images, (C, H, W) each of its own size, as detectors take them."""
    if not isinstance(inputs, list):
        return False
    values = cast("list[Any]", inputs)
    return bool(values) and all(isinstance(value, Tensor) and value.dim() == 3 for value in values)


def listed(inputs: Any) -> list[Tensor] | None:
    """Return the images of a network whose one argument is a list of them, alone or in a tuple; else None."""
    if are_images(inputs):
        return cast("list[Tensor]", inputs)
    values = cast("tuple[Any, ...]", inputs) if isinstance(inputs, tuple) else ()
    return cast("list[Tensor]", values[0]) if len(values) == 1 and are_images(values[0]) else None


def count_of(inputs: Any) -> int | None:
    """Return how many examples what a network is called with holds; None where there is no tensor in it.

    They are the images of a list, else the rows of the first tensor; a number alone is one.
    """
    images = listed(inputs)
    if images is not None:
        return len(images)
    first = next((leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
    return None if first is None else len(first) if first.dim() else 1


def in_evaluation(module: nn.Module) -> bool:
    """Tell of every module that it is not in training."""
    return False


@contextmanager
def modes_kept(model: nn.Module, training: Callable[[nn.Module], bool] = in_evaluation) -> Generator[dict[str, bool]]:
    """Put modules in evaluation mode, or in the modes that are told; restore every module's own afterwards.

    Some weights are computed anew whenever somebody looks at them, and in training mode another time otherwise.

    Yields:
        the modes that the modules had, by name.
    """
    modes = [(name, module, module.training) for name, module in model.named_modules()]
    try:
        for _, module, mode in modes:
            if mode is not (wanted := training(module)):
                module.training = wanted
        yield {name: mode for name, _, mode in modes}
    finally:
        with deferred:
            for _, module, mode in modes:
                if vars(module).get("training") is not mode:  # looked up where nobody hears that it is asked for
                    module.training = mode


def run(model: nn.Module, inputs: Inputs, *, training: Callable[[nn.Module], bool] = in_evaluation) -> Any:
    """Run the model on example inputs in evaluation mode without gradients, and leave model and inputs as they were.

    Args:
        model: the network.
        inputs: that its forward takes.
        training: tells which modules run in training mode instead, and with gradients enabled; none by default.

    Raises:
        ModelError: if the forward fails.
    """
    with untouched(model, weights=training is not in_evaluation):
        return forward(model, inputs, training=training)


def forward(model: nn.Module, inputs: Inputs, *, training: Callable[[nn.Module], bool] = in_evaluation) -> Any:
    """Do what ``run`` does, but leave in the model what its forward changes; every module's mode is restored."""
    try:
        # code may look at whether gradients are wanted, as it may look at whether it trains
        modes, wanted = modes_kept(model, training), training is not in_evaluation
        with modes, ordinary(), module_by_module(), torch.set_grad_enabled(wanted):  # which acts when it is called
            return spread(model, owned(inputs))
    except (SecateurError, MemoryError):  # those of whoever watches the run, and those that say enough
        raise
    except Exception as error:
        hint = _takes_a_list(model, inputs, error) or takes_names(inputs, error)
        said = of_another(model, error) or f": {first_line(error)}{hint}"
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs ({describe(inputs)}){said}"
        ) from error


def spread(model: nn.Module, inputs: Any) -> Any:
    """Call a network with a tensor, with several arguments, or with a table of named ones.

    A list is several arguments as a tuple is, since loaders of data make lists of tuples; but a list of single images,
    as detectors take them, is one.
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    several = isinstance(inputs, tuple) or (isinstance(inputs, list) and not are_images(inputs))
    return model(*inputs) if several else model(inputs)


def _takes_a_list(model: nn.Module, inputs: Any, error: Exception) -> str:
    """Say how a list is given as one argument, where a list was taken for more arguments than the forward has."""
    if not isinstance(inputs, list) or not isinstance(error, TypeError):
        return ""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of code that is not Python's
        return ""
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(places) != 1:
        return ""
    return "; a list of batches is as many arguments: if the forward takes the list as one, give ([...],)"


def takes_names(inputs: Any, error: Exception) -> str:
    """Say how a table is given, and how a task says what of it, where a forward does not know a name of it."""
    if not isinstance(inputs, Mapping) or not isinstance(error, TypeError) or "keyword argument" not in str(error):
        return ""
    names = ", ".join(map(str, cast("Mapping[Any, Any]", inputs)))
    return (
        f"; of a table the forward is given all but the targets by name, here {names}: name them as it does, or say "
        "what it takes and what is wanted of it (network_inputs= and targets= of secateur.tasks.Custom)"
    )


def describe(inputs: Inputs) -> str:
    """Return the shapes of example inputs for a message."""
    shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    kind = "a list of images of " if listed(inputs) is not None else ""
    return f"{kind}shape {', '.join(shapes)}" if shapes else "no tensors"


def tensors_in(value: Any) -> list[Tensor]:
    """Return all tensors of an output in order, however deep in containers, dataclasses and other objects."""
    return [value] if isinstance(value, Tensor) else [tensor for _, tensor in named_tensors(value)]


def finite(outputs: Any) -> bool:
    """Tell whether all tensors of an output hold nothing but finite numbers."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(outputs))
