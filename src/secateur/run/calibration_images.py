"""The unlabelled images of a run: those that were named, normalised as its data is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery import Inputs, run
from secateur.core.surgery.private_copies import stand_in
from secateur.data import Calibration, Data, load_calibration
from secateur.data.folder import GREY
from secateur.data.loaders import LoaderSource
from secateur.data.picture_source import PictureSource, with_channels
from secateur.errors import DataError, ModelError
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import device_of, dtype_of, moved, tensors
from secateur.measure.quality import typed
from secateur.models.sources import images_for, own_code, side_of
from secateur.recipe import Recipe
from secateur.repair import DATA_FREE, Judge
from secateur.run.job import Job
from secateur.spelling import setting

JUDGES = 32
"""Images that judge a repair which looks at none: enough to tell better from worse, and soon looked at."""


def named_images(
    source: Any,
    data: Data | None,
    *,
    count: int,
    seed: int,
    example: Any = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    default_size: int = 224,
    workers: int | None = None,
    model: nn.Module | None = None,
) -> Calibration | None:
    """Return the images that a run names, see ``secateur.data.load_calibration``; None if it names none.

    Args:
        source: where they are.
        data: the labelled data of the run, whose mean and deviation hold where none are named.
        count: how many images to use.
        seed: of the draw.
        example: inputs that the network runs on; None for an image of the data, if there is any.
        mean: per channel, for raw pixels.
        std: the same.
        image_size: height and width of pictures in files.
        default_size: the same where nothing says it.
        workers: processes that read pictures.
        model: the network, where it is there: pictures are grey if that is what it takes.

    Raises:
        DataError: if there are no images, or they do not fit the network.
    """
    if source is None:
        return None
    if model is not None and example is None and data is None and mean is None and _is_folder(source):
        mean, std = _scale_for(model, source, image_size or default_size)
    if mean is None and data is not None and not isinstance(data.source, LoaderSource):  # which has normalised already
        mean, std = data.mean, data.std
    return load_calibration(
        source,
        count=count,
        seed=seed,
        example=data.example() if example is None and data is not None else example,
        mean=mean,
        std=std,
        image_size=image_size,
        default_size=default_size,
        workers=workers,
    )


def suited(data: Data, model: nn.Module) -> Data:
    """Return a folder of pictures in grey where the network takes one channel, and in colour where it takes three.

    Only where it does not take them as they are; other data is returned as it is.
    """
    if not isinstance(data.source, PictureSource) or _takes(model, data.example()):
        return data
    other = with_channels(data, 4 - len(data.mean))
    return other if _takes(model, other.example()) else data


def _scale_for(model: nn.Module, folder: Any, side: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Return mean and deviation of grey pictures for a network that takes them and no colour ones, else None."""
    read = partial(load_calibration, folder, count=1, default_size=side)
    if _takes(model, read().example()):
        return None, None
    return GREY if _takes(model, read(mean=GREY[0], std=GREY[1]).example()) else (None, None)


def _is_folder(source: Any) -> bool:
    return isinstance(source, str | Path) and Path(source).expanduser().is_dir()


def _takes(model: nn.Module, pictures: Any) -> bool:
    """Tell whether a network runs on a batch of pictures."""
    try:
        run(stand_in(model), typed(moved(pictures, device_of(model)), dtype_of(model)))
    except ModelError:
        return False
    return True


def images_of(
    recipe: Recipe, data: Data | None, tell: Tell = ignore, model: nn.Module | None = None
) -> Calibration | None:
    """Return the unlabelled images that a recipe names, None if it names none; grey if the network wants them so.

    Raises:
        DataError: if there are none where it says, or they do not fit the data.
    """
    if not recipe.calibrate:
        return None
    tell(Event("images", "reading unlabelled images"))
    shape = recipe.shape_asked
    read = partial(
        named_images,
        recipe.calibrate,
        data,
        example=None if shape is None else torch.zeros(1, *shape),
        count=recipe.calibrate_images,
        seed=recipe.seed,
        image_size=recipe.image_size,
        default_size=side_of(recipe.model),
        workers=recipe.workers,
        model=model,
    )
    found = read(mean=recipe.mean, std=recipe.std)
    if shape is None and model is None and data is None and _is_folder(recipe.calibrate):
        assert found is not None
        if grey_by_default(recipe, found):
            found = read(mean=GREY[0], std=GREY[1])
    if found is not None and data is None and (size := shape_of(found.example())):
        check_asked(recipe, size, f"'{recipe.calibrate}'")
    return found


def grey_by_default(recipe: Recipe, images: Data | Calibration) -> bool:
    """Tell whether pictures without a colour are for a network that takes one channel where nobody says otherwise."""
    first = images.example()
    if recipe.mean is not None or own_code(recipe.model) or not isinstance(first, Tensor) or first.shape[1] != 3:
        return False
    if images.mean is None or images.std is None or images_for(recipe.model)[0] != 1:
        return False
    mean, std = (torch.tensor(it).view(-1, 1, 1) for it in (images.mean, images.std))
    batches = images.batches if isinstance(images, Calibration) else (first,)
    pixels = (batch * std + mean for batch in batches if isinstance(batch, Tensor))
    return all(bool(((each - each[:, :1]).abs() < 1 / 512).all()) for each in pixels)


def check_asked(recipe: Recipe, shape: tuple[int, int, int], where: str, *, squared: bool = False) -> None:
    """Refuse a shape or size of images that was asked for where the images have another one.

    Args:
        recipe: what was asked.
        shape: of the images.
        where: they are from, in words.
        squared: whether they are pictures that are read as squares of the size that was asked for.

    Raises:
        DataError: naming the setting.
    """
    asked = recipe.shape_asked or (shape[0], recipe.image_size or shape[1], recipe.image_size or shape[2])
    if asked != shape:
        name = setting("image" if recipe.image else "image_size")
        if squared and recipe.image and asked[1] != asked[2]:
            raise DataError(
                f"the pictures of {where} are read as squares, and {name} asks for {'x'.join(map(str, asked))}: give "
                f"one number with {setting('image_size')} instead"
            )
        raise DataError(
            f"the images of {where} are {'x'.join(map(str, shape))} and stay so, not {'x'.join(map(str, asked))} as "
            f"asked: leave {name} out, or name other images"
        )


def check_runs(model: nn.Module, example: Tensor) -> None:
    """Refuse to try a network on noise that it does not run on, for want of images.

    Raises:
        ModelError: saying how to name the shape.
    """
    try:
        run(stand_in(model), example)
    except ModelError as error:
        raise ModelError(
            f"{error}; no images say what it takes: name the shape of one ({setting('image')}, such as 1x28x28)"
        ) from error


def as_taken(model: nn.Module, images: Calibration) -> Calibration:
    """Return images without what comes after the only argument that a network takes: labels of whatever kind.

    Args:
        model: the network.
        images: loaded without an example, which would have told.
    """
    first = images.batches[0]
    if not isinstance(first, tuple) or len(first) < 2:
        return images
    with suppress(TypeError, ValueError):
        kinds = [it.kind for it in inspect.signature(model.forward).parameters.values()]
        if kinds in ([Parameter.POSITIONAL_OR_KEYWORD], [Parameter.POSITIONAL_ONLY]):
            return replace(images, batches=tuple(batch[0] for batch in images.batches if isinstance(batch, tuple)))
    return images


def for_network(
    recipe: Recipe, model: nn.Module, data: Data | None, images: Calibration | None, tell: Tell = ignore
) -> tuple[Data | None, Calibration | None]:
    """Return data and unlabelled images of a recipe with the channels that its network takes, now that it is built."""
    fit = data if data is None else suited(data, model)
    alone = data is None and images is not None and _is_folder(recipe.calibrate)
    if fit is not data or (alone and images is not None and not _takes(model, images.example())):
        images = images_of(recipe, fit, tell, model)
    return fit, images


def check_size(model: nn.Module, images: Calibration, example: Any) -> None:
    """Refuse images that were loaded in another size than that of the example, where the network takes no such ones.

    Args:
        model: the network, tried only on other sizes.
        images: for it.
        example: what it runs on.

    Raises:
        DataError: saying both sizes, and how pictures are resized.
    """
    pairs = zip(tensors(images.example()), tensors(example), strict=False)
    other = [(one.shape, wanted.shape) for one, wanted in pairs if one.shape[2:] != wanted.shape[2:]]
    if not other:
        return
    try:
        run(model, moved(images.example(), device_of(model)))
    except ModelError as error:
        size, wanted = ("x".join(map(str, shape[2:])) for shape in other[0])
        raise DataError(
            f"the calibration images are {size} and the example is {wanted}, and the network does not run on the "
            f"images: load pictures with secateur.data.load_calibration(..., image_size={other[0][1][-1]}), or name "
            "the folder itself (calibrate=), whose pictures are resized to the example"
        ) from error


def shape_of(example: Any) -> tuple[int, int, int] | None:
    """Return channels, height and width of an example that is one batch of images; None for others."""
    if not isinstance(example, Tensor) or example.dim() != 4:
        return None
    channels, height, width = example.shape[1:]
    return channels, height, width


def repaired_by(job: Job, steps: Sequence[str], most: int | None = None) -> tuple[Sequence[Inputs], Judge]:
    """Return the batches that repairs of a run look at, and what they are as a judge of those that look at none.

    Where there are no images it is the example of the run; those that look at none are judged by some of the images.

    Args:
        job: the run.
        steps: the repairs.
        most: images to look at; None for all there are.
    """
    if job.images is None:
        return [job.inputs], Judge.of(None)
    if DATA_FREE.issuperset(steps):
        most = JUDGES if most is None else min(most, JUDGES)
    return (job.images if most is None else job.images.at_most(most)).batches, Judge.of(job.images.different)
