"""Data sets from the caller's own data loaders, passed through as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from secateur.arguments import checked
from secateur.core.surgery.forward import are_images
from secateur.data.batch_checks import OTHERWISE, check_batch, check_first, labelled, wants_labels
from secateur.data.dataset import Batches, Data, Source, example_of, of_classes
from secateur.data.order import Order, Split
from secateur.errors import DataError, nearest
from secateur.events import ignore, warn_once
from secateur.measure.forward import tensors, yielded
from secateur.rules import Classes, Count, Rule
from secateur.tasks import CLASSIFICATION, Task
from secateur.tasks.contract import check_task

Loader = Iterable[Any]
_ORDER: tuple[Split, ...] = ("train", "val", "test")
_GIVEN = Rule(
    lambda value: isinstance(value, Data | Mapping) or (isinstance(value, tuple | list) and len(value) in (2, 3)),
    "a data set, which secateur.load_data returns, or the loaders for training, validation and test",
)


@checked
def from_loaders(
    train: Loader,
    val: Loader,
    test: Loader | None = None,
    classes: Count | None = None,
    *,
    task: Task | None = None,
    name: str = "loaders",
) -> Data:
    """Make a data set of three loaders that yield batches as a task takes them.

    Order, batch size, augmentation and normalisation are the loaders' own: what ``Data.batches`` is asked
    for does not change them, so that two runs are alike only if the loaders are. With several processes each
    loader needs a ``DistributedSampler``, whose epoch is set to the seed of the pass.

    Args:
        train: usually a torch DataLoader; yields pairs of inputs and targets, tables with the targets under
            ``labels``, or whatever a task of your own takes. For classification without more words: (images,
            labels), (N, C, H, W) floating point, normalised, and (N,) integers. Numbers of other floating types
            arrive as float32.
        val: the same, of examples held out of the training ones.
        test: the same; not touched before it is asked for. If None, ``val`` stands for it, with a warning.
        classes: number of labels; needed for classification, and None where it is not known or there are none.
        task: what the examples are for; classification if None.
        name: what reports call the data set.

    Raises:
        DataError: if a loader can be read only once, or the first validation batch is none of the task.
    """
    if test is None:
        warn_once(
            "there is no test loader, so the validation loader stands for it: what is chosen by validation looks "
            "better there than it is",
            ignore,
        )
    task = task or CLASSIFICATION
    check_task(task)
    loaders: dict[Split, Loader] = {"train": train, "val": val, "test": val if test is None else test}
    for split, loader in loaders.items():
        if isinstance(loader, Iterator) or not hasattr(loader, "__iter__"):
            raise DataError(
                f"the {split} loader can be read at most once: pass a torch DataLoader or a list of batches"
            )
    _check_known(classes, task)
    found = list(itertools.islice(yielded(loaders["val"], "the val batches"), 1))
    if not found:
        raise DataError("the val loader yields no batch")
    [batch] = found
    source = LoaderSource(loaders, task, classes, batch)
    shape = _shape(example_of(task, source.first()))
    return Data(name, classes, shape, (0.0,) * shape[0], (1.0,) * shape[0], source, task)


def _check_known(classes: int | None, task: Task) -> None:
    if classes is None and wants_labels(task):
        raise DataError(
            "nobody says how many classes the loaders have: make them a data set that does, "
            f"secateur.data.from_loaders(..., classes=); {OTHERWISE}"
        )


@checked
def with_task(
    data: Annotated[Any, _GIVEN], task: Task, *, classes: Classes | None = None, name: str = "loaders"
) -> Data:
    """Return a data set for a task.

    Args:
        data: a ``Data``, whose batches stay as they are, or loaders as for ``from_loaders``: two or three of them, or a
            table with the entries ``train``, ``val`` and, if there is one, ``test``.
        task: what the examples are for.
        classes: number of labels, where the data does not say it, see ``from_loaders``.
        name: of loaders, in reports.

    Raises:
        DataError: if the examples are none of the task, or it needs another number of classes, or one that nobody says.
    """
    check_task(task)
    if isinstance(data, Data):
        known = of_classes(data, classes)
        if known.task is task and known is data:
            return data
        found = known.source.under(known, task)
        check_first(found)
        return found
    if isinstance(data, Mapping):
        named = cast("Mapping[str, Loader]", data)
        strange = next((key for key in named if key not in _ORDER), None)
        if strange is not None or not {"train", "val"} <= set(named):
            near = nearest(strange, _ORDER)
            what = "entries 'train' and 'val'" if strange is None else f"no entry {strange!r}{near}"
            raise DataError(f"a table of loaders must have {what}; name them train, val and, if there is one, test")
        data = [named[split] for split in _ORDER if split in named]
    return from_loaders(*cast("Sequence[Loader]", data), classes=classes, task=task, name=name)


def _shape(inputs: Any) -> tuple[int, int, int]:
    """Return channels, height and width of the first image in inputs of one example; ones for what it has not."""
    found = [tuple(tensor.shape) for tensor in tensors(inputs)]
    if isinstance(inputs, tuple) and are_images(cast("Any", inputs)[0]):
        found = [(1, *shape) for shape in found]
    first = next((shape for shape in found if len(shape) == 4), found[0])[1:]
    if len(first) > 3:  # of films and volumes
        first = (first[0], *first[-2:])
    channels, height, width = (*first, 1, 1, 1)[:3]
    return channels, height, width


class NoLengthError(DataError, TypeError):
    """A loader whose number of batches is unknown; also a TypeError, or ``list(batches)`` would fail."""


class LoaderSource(Source):
    """Three loaders.

    Args:
        loaders: one for each split.
        task: what its batches are for.
        classes: number of labels; None if not known.
        batch: the first one of the validation loader.
    """

    def __init__(self, loaders: Mapping[Split, Loader], task: Task, classes: int | None, batch: Any) -> None:
        self.loaders = dict(loaders)
        self.task = task
        self.classes = classes
        self._first = taken(batch, task, classes, "val", torch.device("cpu"))
        if not wants_labels(task):  # which were looked at just now
            check_batch(self._first, task, classes)

    def size(self, split: Split) -> int:
        """Return the number of examples in a split."""
        loader = self.loaders[split]
        if isinstance(loader, Sequence):
            return sum(self.task.count(batch) for batch in loader)
        # A sampler may leave images out, but a distributed one counts only the share of this process.
        for one in (getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
            if isinstance(one, Sized) and not isinstance(one, DistributedSampler):
                return len(one)
        has = "its data set" if hasattr(loader, "dataset") else "it a 'dataset' that has"
        raise DataError(f"the {split} loader does not tell how many images it has: give {has} a length")

    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""
        return LoaderBatches(self.loaders[order.split], order, self.task, self.classes)

    def first(self) -> Any:
        """Return the first validation batch."""
        return self._first

    def at_hand(self, split: Split) -> Sequence[Any]:
        """Return the batches of a list."""
        loader = self.loaders[split]
        return cast("Sequence[Any]", loader) if isinstance(loader, tuple | list) else ()

    def under(self, data: Data, task: Task) -> Data:
        """Return the same loaders for another task, if their batches are fit for it.

        Raises:
            DataError: if they are not, or nobody says how many classes there are.
        """
        _check_known(data.classes, task)
        source = LoaderSource(self.loaders, task, data.classes, self._first)
        return replace(data, task=task, shape=_shape(example_of(task, source.first())), source=source)


class LoaderBatches(Batches):
    """One pass over a loader."""

    def __init__(self, loader: Loader, order: Order, task: Task, classes: int | None) -> None:
        self.loader = loader
        self.order = order
        self.task = task
        self.classes = classes
        if order.world > 1 and self._sampler() is None:
            raise DataError(
                f"{order.world} processes would all see the same images of the {order.split} loader: "
                "give it a torch.utils.data.DistributedSampler"
            )

    def _sampler(self) -> DistributedSampler[Any] | None:
        sampler: object = getattr(self.loader, "sampler", None)
        return cast("DistributedSampler[Any]", sampler) if isinstance(sampler, DistributedSampler) else None

    def __len__(self) -> int:
        """How many batches the loader yields."""
        try:
            return len(cast("Sized", self.loader))
        except TypeError as error:
            message = f"the {self.order.split} loader has no length: give it, or its data set, one"
            raise NoLengthError(message) from error

    def __iter__(self) -> Iterator[Any]:
        """Yield the loader's batches, on the device of the pass."""
        sampler = self._sampler()
        if sampler is not None:
            sampler.set_epoch(self.order.seed)
        own = not isinstance(self.loader, DataLoader)  # the batches are the caller's own, and a forward may write
        for batch in yielded(self.loader, f"the {self.order.split} batches"):
            yield taken(batch, self.task, self.classes, self.order.split, self.order.device, copied=own)


def taken(
    batch: Any, task: Task, classes: int | None, split: Split, device: torch.device, *, copied: bool = False
) -> Any:
    """Return a batch on a device, its numbers of floating point in float32; class numbers are looked at.

    Raises:
        DataError: if it is no batch of images with class numbers, where it should be one.
    """
    if classes is not None and wants_labels(task):
        batch = labelled(batch, task, classes, split)
    return _moved(batch, device, copied)


def _moved(value: Any, device: torch.device, copied: bool) -> Any:
    if isinstance(value, Tensor):
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        return value.to(device, dtype, non_blocking=True, copy=copied)
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return {key: _moved(each, device, copied) for key, each in entries.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_moved(each, device, copied) for each in cast("tuple[Any, ...]", value)))
    if isinstance(value, tuple | list):
        parts = [_moved(each, device, copied) for each in cast("Sequence[Any]", value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value.to(device) if callable(getattr(value, "to", None)) else value
