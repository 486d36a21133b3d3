"""What a caller gives a network to look at, before any work: data, unlabelled images, and one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from torch import nn

from secateur.core.surgery import Inputs
from secateur.core.surgery.forward import count_of
from secateur.core.surgery.untouched import owned
from secateur.data import Calibration, Data, load_data, with_task
from secateur.errors import DataError
from secateur.measure.forward import device_of, dtype_of, moved
from secateur.models.sources import side_of
from secateur.rules import Rule
from secateur.run.calibration_images import as_taken, check_size, named_images, suited
from secateur.run.preflight import check_weights
from secateur.tasks import Task

DATA = Rule(
    lambda value: (
        value is None
        or isinstance(value, str | Data | Mapping)
        or (isinstance(value, tuple | list) and len(value) in (2, 3))
    ),
    "a data set, which secateur.load_data returns, its name, or with a task two or three loaders",
)
"""What can be given as data."""

Given: TypeAlias = Annotated[Data | str | Sequence[Any] | Mapping[str, Any] | None, DATA]


def data_under(data: Any, task: Task | None, seed: int) -> Data | None:
    """Return the data under a task.

    Raises:
        DataError: if there are loaders without a task, or a task without data.
    """
    if data is None and task is not None:
        raise DataError(f"{task.name} is learned and measured on data, and there is none; give some, or leave task out")
    if isinstance(data, str):
        return load_data(data, seed=seed, task=task)
    if data is None or (isinstance(data, Data) and task is None):
        return data
    if task is None:
        raise DataError("loaders say nothing about the task: name it (task=), or make them a data set (from_loaders)")
    return with_task(data, task)


def looked_at(
    model: nn.Module | str,
    data: Any,
    calibrate: Any,
    example_inputs: Any,
    *,
    task: Task | None = None,
    count: int,
    seed: int,
) -> tuple[Data | None, Calibration | None, Any]:
    """Return the data and the unlabelled images that were given, as the network takes them, and an input of it.

    Args:
        model: the network, or its name where it is not built yet.
        data: a data set, its name, or loaders for a task.
        calibrate: see ``secateur.data.load_calibration``.
        example_inputs: None for one of the images.
        task: what the network is for; None for that of the data.
        count: how many unlabelled images to use.
        seed: of the draw.

    Raises:
        DataError: if there are no images, or nothing to take an input from.
    """
    if example_inputs is None and data is None and calibrate is None:
        raise DataError("give example_inputs, or data or calibrate to take one image from")
    network = model if isinstance(model, nn.Module) else None
    images = data_under(data, task, seed)
    if images is not None and network is not None:
        images = suited(images, network)
    side = side_of(model) if isinstance(model, str) else 224
    unlabelled = named_images(
        calibrate, images, count=count, seed=seed, example=example_inputs, default_size=side, model=network
    )
    if example_inputs is None and images is None and unlabelled is not None and network is not None:
        unlabelled = as_taken(network, unlabelled).of_type(dtype_of(network))
    if example_inputs is None:
        example_inputs = images.example() if images is not None else unlabelled and unlabelled.example()
    return images, unlabelled, example_inputs


def fitted(model: nn.Module, example_inputs: Any, unlabelled: Calibration | None) -> Inputs:
    """Return the input of a network where the network is, when neither the weights nor the images are in its way.

    Args:
        model: the network.
        example_inputs: for it.
        unlabelled: images, which have to be of a size that it takes.

    Raises:
        DataError: if the images do not fit, or the example is an empty batch.
        ModelError: if weights are not finite.
    """
    if count_of(example_inputs) == 0:
        raise DataError("the example inputs are an empty batch, on which nothing can be seen; give one image or more")
    found = owned(moved(example_inputs, device_of(model)))
    check_weights(model)
    if unlabelled is not None:
        check_size(model, unlabelled, found)
    return found
