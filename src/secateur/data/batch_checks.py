"""Whether what a loader yields is a batch of a task; said before any work, and in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from secateur.core.surgery.forward import listed
from secateur.core.task import TARGETS, Task
from secateur.data.dataset import Data, check_labels
from secateur.data.order import Split
from secateur.errors import DataError
from secateur.measure.forward import tensors
from secateur.spelling import setting_as
from secateur.tasks import Classification, Detection, Regression, Restoration, Retrieval, Segmentation
from secateur.tasks.detection import check_boxes
from secateur.tasks.segmentation import check_masks
from secateur.tasks.shapes import described

OTHERWISE = "if they are for another task than classification, name it, as task=secateur.tasks.Segmentation()"
"""What to say where the targets of loaders may be other than class numbers of images."""

_MANY = 2**31  # classes, where nobody knows how many there are


def wants_labels(task: Task) -> bool:
    """Tell whether batches of a task must hold one class number for each example."""
    return isinstance(task, Classification) and not task.multi_label


def labelled(batch: Any, task: Task, classes: int, split: Split) -> Any:
    """Return a batch of inputs with class numbers, checked; of a plain pair the images as well.

    Raises:
        DataError: if it is none.
    """
    if isinstance(batch, Mapping) and any(name in batch for name in TARGETS):
        labels = _numbers(task.target(batch), task.count(batch), classes, split)
        name = next(name for name in TARGETS if name in batch)
        return {**cast("Mapping[str, Any]", batch), name: labels}
    pair = cast("Sequence[Any]", batch) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2:
        raise DataError(
            f"the {split} loader yields a {type(cast('object', batch)).__name__}: it must yield pairs (images, labels)"
        )
    images, labels = pair
    if isinstance(images, Mapping | tuple | list) and next(tensors(images), None) is not None:
        return images, _numbers(labels, task.count(batch), classes, split)
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"the {split} loader yields images as {what}: give normalised float tensors (N, C, H, W)")
    return images, _numbers(labels, len(images), classes, split)


def check_batch(batch: Any, task: Task, classes: int | None, where: str = "the first batch of the val loader") -> None:
    """Refuse a first validation batch that is none of a task.

    Args:
        batch: the first of the validation split.
        task: what it should be for.
        classes: number of labels; None if not known.
        where: what messages call it.

    Raises:
        DataError: saying what it lacks.
    """
    try:
        inputs, target, count = task.inputs(batch), task.target(batch), task.count(batch)
    except DataError as error:
        raise DataError(f"{where} does not fit {task.name}: {error}") from None
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise DataError(f"{where} does not fit {task.name}: {type(error).__name__}: {error}") from error
    found = list(tensors(inputs))
    if not found or not count:
        raise DataError(f"{where} holds no tensors that a network could be called with, but {described(inputs)}")
    if any(it.dtype == torch.uint8 and it.dim() > 2 for it in found):
        raise DataError(f"{where} holds pixels as whole numbers: give normalised float tensors (N, C, H, W)")
    if any(it.is_floating_point() and not bool(torch.isfinite(it).all()) for it in found):
        raise DataError(f"{where} holds inputs that are NaN or infinite: repair or remove those examples")
    try:
        _check_target(target, inputs, count, task, classes)
    except DataError as error:
        raise DataError(f"{where} does not fit {task.name}: {error}") from None


def check_first(data: Data) -> None:
    """Refuse a data set whose first validation example is none of its task.

    Raises:
        DataError: saying what it lacks.
    """
    check_batch(data.source.first(), data.task, data.classes, f"the first validation example of {data.name}")


def _check_target(target: Any, inputs: Any, count: int, task: Task, classes: int | None) -> None:
    if isinstance(task, Classification):
        _check_labels(target, count, classes, task)
    elif isinstance(task, Segmentation):
        check_masks(target, torch.empty(count, classes or _MANY, device="meta"), task.ignore)
    elif isinstance(task, Detection):
        _check_detection(target, inputs, classes, task)
    elif isinstance(task, Retrieval):
        if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != (count,):
            raise DataError(f"its targets must be class numbers of shape ({count},), not {described(target)}")
    elif isinstance(task, Regression | Restoration):
        if not isinstance(target, Tensor) or not target.dim() or len(target) != count:
            raise DataError(f"its targets must be numbers for each of {count} examples, not {described(target)}")
        if not bool(torch.isfinite(target).all()):
            raise DataError("a target is NaN or infinite: leave such examples out")
        if isinstance(task, Restoration) and target.dim() != 4:
            raise DataError(f"its targets must be images (N, C, H, W), not {described(target)}")


def _check_labels(target: Any, count: int, classes: int | None, task: Classification) -> None:
    shape = tuple(target.shape) if isinstance(target, Tensor) else ()
    if task.multi_label and (len(shape) != 2 or shape[0] != count or classes not in (None, shape[1])):
        raise DataError(f"its labels must be 0 or 1 for each of {classes or 'the'} classes, not {described(target)}")
    if not task.multi_label and (shape != (count,) or target.is_floating_point()):
        raise DataError(f"its labels must be class numbers of shape ({count},), not {described(target)}")


def _check_detection(target: Any, inputs: Any, classes: int | None, task: Detection) -> None:
    boxes, images = check_boxes(target, task), listed(inputs)
    if images is None or len(images) != len(boxes):
        raise DataError(
            f"it must hold an image (C, H, W) for each of {len(boxes)} tables of boxes, stacked or in a list, not "
            f"{described(inputs[0])}"
        )
    _check_pixels(boxes, images)
    for number, (one, image) in enumerate(zip(boxes, images, strict=True)):
        _check_classes(one["labels"], classes or _MANY, task)
        _check_inside(one["boxes"], image, number)


def _check_classes(labels: Tensor, classes: int, task: Detection) -> None:
    if len(labels) and int(labels.max()) >= classes:
        count = f"{classes} classes" + (", the background being one of them" if task.background else "")
        raise DataError(
            f"a box has the label {int(labels.max())}, but there are {count}, 0 to {classes - 1}: say that there are "
            f"more ({setting_as('classes', int(labels.max()) + 1)}), or number the labels otherwise"
        )


def _check_pixels(boxes: Sequence[Mapping[str, Tensor]], images: Sequence[Tensor]) -> None:
    """Refuse boxes that are shares of height and width, all of which would lie in the first pixel."""
    corners = torch.cat([one["boxes"].reshape(-1) for one in boxes])
    if len(corners) and float(corners.max()) <= 1 and min(length for it in images for length in it.shape[-2:]) > 1:
        raise DataError(
            "all of its boxes lie between 0 and 1, as shares of an image do; boxes are x1, y1, x2, y2 in pixels: "
            "multiply them by width and height"
        )


def _check_inside(boxes: Tensor, image: Tensor, number: int) -> None:
    high, wide = image.shape[-2:]
    inner = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([wide, high, wide, high]))
    left, whole = (((it[:, 2:] - it[:, :2]).clamp(min=0)).prod(dim=1) for it in (inner, boxes))
    away = 2 * left < whole
    if bool(away.any()):
        corners = ", ".join(f"{it:g}" for it in boxes[away][0].tolist())
        raise DataError(
            f"the box {corners} of image {number} lies mostly outside of its {wide} x {high} pixels; boxes are x1, y1, "
            "x2, y2 in pixels of the image that the network is given"
        )


def _numbers(labels: Any, count: int, classes: int, split: Split) -> Tensor:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != (count,):
        raise DataError(
            f"the {split} loader must yield one whole-number label for each image, as a tensor (N,), not "
            f"{described(labels)}; {OTHERWISE}"
        )
    check_labels(labels, classes, f"batches of the {split} loader")
    return labels.long()
