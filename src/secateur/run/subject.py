"""The subject of a recipe: its dense network, its data and images, and an input to run it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.data import Calibration, Data, load_data
from secateur.data.image_pairs import CroppedSource
from secateur.data.named import are_masks
from secateur.data.picture_source import PictureSource, with_channels
from secateur.errors import DataError, ModelError
from secateur.events import Tell, ignore
from secateur.models import build, classes_in, give_weights
from secateur.models.sources import images_for, own_code, own_result, refuse_own_code
from secateur.reading import shown, written
from secateur.recipe import Recipe
from secateur.run import preflight
from secateur.run.calibration_images import check_asked, check_runs, for_network, grey_by_default, images_of, shape_of
from secateur.spelling import setting
from secateur.tasks import Task, read_task


@dataclass(frozen=True)
class Subject:
    """What a recipe is about.

    Attributes:
        name: of the network.
        model: the dense network, with the weights that are named.
        data: the data set with the channels that the network takes; None if none is named.
        images: the unlabelled ones, likewise.
        example: an input of the network: one of its images, else noise.
    """

    name: str
    model: nn.Module
    data: Data | None
    images: Calibration | None
    example: Any


def subject_of(recipe: Recipe, *, download: bool = False, tell: Tell = ignore) -> Subject:
    """Open the data and build the network that a recipe names, each as the other wants it.

    Args:
        recipe: what names them.
        download: whether a missing data set may be fetched.
        tell: hears what is being read.

    Raises:
        DataError: if data or images are not there or do not fit.
        ModelError: as ``model_of``.
    """
    data = data_of(recipe, download=download)
    images = images_of(recipe, data, tell)
    model = model_of(recipe, data, images, tell)
    data, images = for_network(recipe, model, data, images, tell)
    return Subject(recipe.model, model, data, images, example_of(recipe, data, images))


def images_again(
    recipe: Recipe, model: nn.Module, *, download: bool = False, tell: Tell = ignore
) -> tuple[Data | None, Calibration | None]:
    """Return the labelled and the unlabelled images of a recipe for a network that came of it; None for those it lacks.

    Raises:
        DataError: if they are not there any more.
    """
    data = data_of(recipe, download=download)
    return for_network(recipe, model, data, images_of(recipe, data, tell, model), tell)


def task_in(recipe: Recipe) -> Task | None:
    """Return the task that a recipe names; None for what the data set is usually for.

    Raises:
        SettingError: if there is no such task, or one of its settings is wrong.
        ModelError: if it is your own, and its code cannot be run or returns no task; or if the recipe came as a file
            and names code, see ``Recipe.vouched``.
    """
    if not recipe.task:
        return None
    if not own_code(recipe.task):
        if recipe.task.endswith(".py"):
            raise ModelError(f"'{recipe.task}' lacks the function that makes the task: write {recipe.task}:FUNCTION")
        return read_task(recipe.task)
    refuse_own_code(recipe.task, "task")
    task = own_result(recipe.task, "task")
    if not isinstance(task, Task):
        raise ModelError(f"{shown(recipe.task)} must return a task (secateur.tasks.Task), not {written(task)}")
    return task


def data_of(recipe: Recipe, *, download: bool = False) -> Data | None:
    """Return the recipe's data set, None if it names none.

    Raises:
        DataError: if it is not there, or not as the recipe asks.
    """
    if not recipe.data:
        return None
    shape = recipe.shape_asked
    found = load_data(
        recipe.data,
        seed=recipe.seed if recipe.split_seed is None else recipe.split_seed,
        download=download,
        val_fraction=recipe.val_fraction,
        train_images=recipe.train_images,
        mean=recipe.mean,
        std=recipe.std,
        image_size=recipe.image_size or (shape[1] if shape else 224),
        workers=recipe.workers,
        classes=recipe.classes if are_masks(recipe.data) else None,
        task=task_in(recipe),
    )
    if recipe.classes is not None and found.classes is not None and recipe.classes < found.classes:
        raise DataError(
            f"{found.name} has {found.classes} classes, and the network would have {recipe.classes}: leave "
            f"{setting('classes')} out, or name as many"
        )
    if isinstance(found.source, PictureSource) and (shape[0] == 1 if shape else grey_by_default(recipe, found)):
        found = with_channels(found, 1)
    cropped = isinstance(found.source, CroppedSource) and not recipe.image  # whose size is said of wanted images
    if recipe.image or not (recipe.calibrate or cropped):  # else the size is that of the unlabelled ones
        check_asked(recipe, found.shape, found.name, squared=isinstance(found.source, PictureSource))
    return found


def model_of(recipe: Recipe, data: Data | None, images: Calibration | None = None, tell: Tell = ignore) -> nn.Module:
    """Return the recipe's dense network, with its weights if it names any.

    Without data its classes are those that the recipe names, else those of the weights, else the network's own.

    Raises:
        ModelError: if it cannot be built, does not run on noise where there are no images, or if the recipe came as a
            file and names code, see ``Recipe.vouched``.
    """
    shape = data.shape if data else shape_of(images.example()) if images else recipe.shape_asked
    channels, image = (shape[0], shape[1]) if shape else (images_for(recipe.model)[0], recipe.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        classes = recipe.classes or (data.classes if data else None)
        model = build(recipe.model, classes=classes, channels=channels, image=image, tell=tell)
        if recipe.weights:
            example = example_of(recipe, data, images)
            if classes is None and (trained := classes_in(recipe.weights, model, example)) is not None:
                model = build(recipe.model, classes=trained, channels=channels, image=image)
            give_weights(model, recipe.weights, example, name=recipe.model, classes=classes, transfer=recipe.transfer)
    if data is None and images is None:
        check_runs(model, example_of(recipe, None))
    return model


def example_of(recipe: Recipe, data: Data | None, images: Calibration | None = None) -> Any:
    """Return an input for the recipe's network: one of its images, else noise of the shape that is named or usual."""
    if data is not None:
        return data.example()
    if images is not None:
        return images.example()
    channels, side = images_for(recipe.model)
    side = recipe.image_size or side
    shape = recipe.shape_asked or (channels, side, side)
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(recipe.seed))


def graph_of(
    recipe: Recipe, model: nn.Module, inputs: Any, *, tell: Tell = ignore, tried: Sequence[Plan] = ()
) -> Graph:
    """Read a network as the recipe asks, see ``preflight.read``."""
    return preflight.read(
        model,
        inputs,
        recipe.leave,
        free_outputs=recipe.free_outputs,
        groups=recipe.groups,
        patience=recipe.patience,
        tell=tell,
        tried=tried,
    )
