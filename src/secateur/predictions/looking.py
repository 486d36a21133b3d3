"""Some test examples, what two networks make of them, and those of them on which they disagree the most."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Data
from secateur.data.picture_source import PictureSource
from secateur.data.splits import mixed
from secateur.measure.forward import call, device_of, dtype_of, evaluating, listed, moved, tensors, yielded
from secateur.measure.quality import typed
from secateur.predictions.album import Album, can_draw
from secateur.predictions.boxes import Boxes
from secateur.predictions.classes import Classes
from secateur.predictions.content import document
from secateur.predictions.masks import Masks
from secateur.predictions.neighbours import Neighbours
from secateur.predictions.numbers import Numbers
from secateur.predictions.painter import Painter, Seen
from secateur.predictions.restored import Restored
from secateur.tasks import Classification, Detection, Regression, Restoration, Retrieval, Segmentation, Task

LOOKED_AT = 96
"""Test examples that are looked at, at most."""

SHOWN = 12
"""Those of them that are shown."""

MOST = 300_000
"""Bytes of predictions.json; as a part of the page it takes a little more."""

_BATCH = 16
_HELD = 256 << 20  # bytes of examples that are held, which are few where they are large
_SIZES = ((256, 82), (224, 80), (192, 78), (160, 76), (128, 76), (96, 74), (64, 70))  # pixels, quality
_PAINTERS: Mapping[type[Task], type[Painter[Any]]] = {
    Classification: Classes,
    Detection: Boxes,
    Regression: Numbers,
    Restoration: Restored,
    Retrieval: Neighbours,
    Segmentation: Masks,
}
_IN_WORDS = (Classification, Regression)


def painter_of(task: Task, data: Data) -> Painter[Any] | None:
    """Return what draws the answers of a task; None if nobody knows how, or what draws is not installed."""
    kind = next((each for each in _PAINTERS if isinstance(task, each)), None)
    if kind is None or not (can_draw() or kind in _IN_WORDS):
        return None
    return _PAINTERS[kind](task, data)


def some_batches(data: Data) -> list[Any]:
    """Return batches of the test split with ``LOOKED_AT`` examples or a few more, less where they are large.

    They are drawn at random, always the same ones, so that runs on one data set can be compared. For retrieval they are
    the first ones where so few of those have company that nothing could be retrieved.
    """
    found = _taken(data, shuffle=True)
    if isinstance(data.task, Retrieval) and found:
        labels = torch.cat([data.task.target(batch).cpu() for batch in found])[:LOOKED_AT]
        _, counts = labels.unique(return_counts=True)
        if int(counts[counts > 1].sum()) < SHOWN:
            return _taken(data, shuffle=False)
    return found


def _taken(data: Data, *, shuffle: bool) -> list[Any]:
    found, count, held = list[Any](), 0, 0
    source = data.source
    if isinstance(source, PictureSource):  # whose workers would read ahead what nobody looks at
        size = source.size("test")
        rows = mixed(size, 0) if shuffle else torch.arange(size)
        data, shuffle = replace(data, source=source.only("test", rows[:LOOKED_AT])), False
    for batch in yielded(data.batches("test", _BATCH, shuffle=shuffle), "the test examples"):
        found.append(batch)
        count += data.task.count(batch)
        held += sum(tensor.nbytes for tensor in tensors(batch))
        if count >= LOOKED_AT or held >= _HELD:
            break
    return found


def answers(model: nn.Module, batches: Sequence[Any], painter: Painter[Any]) -> list[Any]:
    """Return what a network makes of each of ``LOOKED_AT`` examples, where it is and without changing it.

    Raises:
        ModelError: if it does not run on them, or returns nothing that the task can use.
    """
    task, found = painter.task, list[Any]()
    place, dtype = device_of(model), dtype_of(model)
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            there = moved(batch, place)
            output = task.output(call(model, typed(task.inputs(there), dtype)))
            found += painter.found(typed(output, torch.float32), there)
    return found[:LOOKED_AT]


def drawn(painter: Painter[Any], batches: Sequence[Any], dense: Sequence[Any], pruned: Sequence[Any]) -> dict[str, Any]:
    """Return the content of predictions.json, empty if there is nothing to show.

    Args:
        painter: of the task.
        batches: of ``some_batches``.
        dense: answers of the dense network.
        pruned: those of the pruned one.
    """
    with torch.inference_mode():
        images = [image for batch in batches for image in _images(painter.task, batch)]
        wanted = [target for batch in batches for target in painter.wanted(batch)]
        columns = zip(images, wanted, dense, pruned, strict=False)
        seen = [Seen(number, *parts) for number, parts in enumerate(columns)]
        apart = [math.inf if math.isnan(value) else value for value in painter.compare(seen)] if seen else []
        worst = sorted((at for at in range(len(seen)) if apart[at] > -math.inf), key=lambda at: -apart[at])[:SHOWN]
        return _fitting(painter, [(seen[at], apart[at]) for at in worst], len(seen)) if worst else {}


def _fitting(painter: Painter[Any], worst: Sequence[tuple[Seen, float]], looked_at: int) -> dict[str, Any]:
    """Return the document with pictures as large as there is room for, and fewer of them if need be."""
    while worst:
        for side, quality in _SIZES:
            album = Album(side, quality)
            examples = [painter.example(each, apart, album) for each, apart in worst]
            note = f"{painter.order} {painter.note(album)}".strip()
            about: dict[str, Any] = {"looked_at": looked_at, "note": note, "legend": painter.legend(album)}
            found = document(painter.task.name, painter.layout, examples, album.pictures, **about)
            if len(json.dumps(found, separators=(",", ":"))) <= MOST:
                return found
        worst = worst[: len(worst) // 2]
    return {}


def _images(task: Task, batch: Any) -> list[Tensor | None]:
    """Return the image of each example of a batch, None for those that have none."""
    inputs, count = task.inputs(batch), task.count(batch)
    several = listed(inputs)
    if several is not None:
        return list(several)
    fits = (each for each in tensors(inputs) if each.dim() == 4 and len(each) == count and each.is_floating_point())
    found = next(fits, None)
    return [None] * count if found is None or not found.numel() else list(found.cpu())
