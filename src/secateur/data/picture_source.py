"""Examples in files, too many for memory: worker processes read and augment each batch as it is needed."""

from __future__ import annotations

import copy
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from secateur.data.augment import normalise, scaling
from secateur.data.dataset import Batches, Data, Source
from secateur.data.order import Order, Split
from secateur.errors import DataError

WORKERS = 8  # more reading processes than this rarely help one accelerator
_CPU = torch.device("cpu")

Key = tuple[int, int]  # which example, and the seed of its augmentation


class Listed(Protocol):
    """The examples of one split, as files that nobody has read yet.

    Attributes:
        labels: the class of each example, (N,), by which some are held out; zeros where examples have none.
    """

    @property
    def labels(self) -> Tensor:
        """The class of each example."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return some of them, in the order of ``rows``, (M,) int64."""
        ...


class Reader(Dataset[Any], ABC):
    """Reads and augments single examples."""

    def __getitem__(self, key: Key) -> Any:
        """Return an example; the error itself where it cannot be read.

        Raised in a worker, the text of an error would become the worker's traceback.
        """
        row, seed = key
        try:
            found = self.opened(row)
            with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
                # Not torch.manual_seed, which would also reset the generators of every accelerator.
                torch.default_generator.manual_seed(seed)
                return self.changed(found, row)
        except DataError as error:
            return error

    @abstractmethod
    def opened(self, row: int) -> Any:
        """Return what the files of an example hold."""

    @abstractmethod
    def changed(self, found: Any, row: int) -> Any:
        """Return it with the size that is wanted, augmented by torch's random numbers."""


class PictureSource(Source):
    """Splits that are lists of files.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        workers: reading processes; chosen by the machine if None.
    """

    def __init__(
        self, parts: Mapping[Split, Listed], mean: tuple[float, ...], std: tuple[float, ...], workers: int | None
    ) -> None:
        self.parts: dict[Split, Any] = dict(parts)
        self.mean = mean
        self.std = std
        self.workers = workers

    @abstractmethod
    def pictures(self, split: Split, augment: str) -> Reader:
        """Return what reads the single examples of a split."""

    def collated(self, items: Sequence[Any]) -> Any:
        """Return examples as one batch, images still uint8; here pairs of tensors, each of one shape."""
        images, targets = zip(*items, strict=True)
        return torch.stack(images), torch.stack(targets)

    def finished(self, batch: Any, device: torch.device) -> Any:
        """Return a batch of a pair on a device, its images normalised."""
        images, targets = batch
        return self.scaled(images, device), targets.to(device, non_blocking=True)

    def size(self, split: Split) -> int:
        """Return the number of examples in a split."""
        return len(self.parts[split].labels)

    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""
        return PictureBatches(self, order)

    def shares(self, order: Order) -> list[slice]:
        """Return, for each batch, which places of the pass belong to this process."""
        return order.shares(self.size(order.split))

    def rows(self, order: Order, rng: torch.Generator) -> Tensor:
        """Return which example each place of the pass shows, (N,) int64."""
        return order.positions(self.size(order.split), rng)

    def first(self) -> Any:
        """Return the first validation example, as a batch of one."""
        item = self.pictures("val", "none")[0, 0]
        if isinstance(item, DataError):
            raise item
        return self.finished(self.collated([item]), _CPU)

    def only(self, split: Split, rows: Tensor) -> Self:
        """Return a source whose test split is some of the examples of a split, in this order."""
        again = copy.copy(self)
        again.parts = {"test": self.parts[split].take(rows)}
        return again

    def recoloured(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Self:
        """Return the same examples with other constants, grey where there is one of each."""
        again = copy.copy(self)
        again.mean, again.std = mean, std
        return again

    def scaled(self, raw: Tensor, device: torch.device) -> Tensor:
        """Return uint8 images, (N, C, H, W), as normalised float32 on a device."""
        moved = raw.to(device, non_blocking=True)
        return normalise(moved, *scaling(self.mean, self.std, moved.dtype, device))


class PictureBatches(Batches):
    """One pass over a list of files."""

    def __init__(self, source: PictureSource, order: Order) -> None:
        self.source = source
        self.order = order
        self.shares = source.shares(order)

    def __len__(self) -> int:
        """How many batches this process gets."""
        return len(self.shares)

    def __iter__(self) -> Iterator[Any]:
        """Yield batches with normalised images."""
        rng = self.order.rng()
        rows = self.source.rows(self.order, rng)
        # A seed for every place of the pass: pictures do not depend on which worker or process reads them.
        seeds = torch.randint(2**62, (len(rows),), generator=rng)
        device = self.order.device
        loader: Iterable[Any] = DataLoader(
            self.source.pictures(self.order.split, self.order.augment),
            batch_sampler=Keys(rows, seeds, self.shares),  # pyright: ignore[reportArgumentType]
            num_workers=min(readers(self.source.workers, self.order.world), len(self.shares)),
            collate_fn=_Collating(self.source),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or the loader would draw from the caller's random numbers
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield self.source.finished(batch, device)


class Keys(Sampler[list[Key]]):
    """Tells the workers what to read, batch by batch.

    Args:
        rows: which image each place of the pass shows, (N,) int64.
        seeds: the seed of its augmentation, (N,) int64.
        shares: the places of each batch.
    """

    def __init__(self, rows: Tensor, seeds: Tensor, shares: list[slice]) -> None:
        self.rows = rows
        self.seeds = seeds
        self.shares = shares

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.shares)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of one batch after another."""
        for share in self.shares:
            yield list(zip(self.rows[share].numpy().tolist(), self.seeds[share].numpy().tolist(), strict=True))


class _Collating:
    """Makes a batch of examples; returns the first error instead if there is one."""

    def __init__(self, source: PictureSource) -> None:
        self.source = source

    def __call__(self, items: list[Any]) -> Any:
        wrong = next((item for item in items if isinstance(item, DataError)), None)
        return self.source.collated(items) if wrong is None else wrong


def readers(asked: int | None, world: int = 1) -> int:
    """Return how many processes read pictures: as many as asked for, else what the machine has room for."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(WORKERS, max(1, cores // world))


def with_channels(data: Data, channels: int) -> Data:
    """Return the same pictures in grey, 1 channel, or in colour, 3; mean and deviation follow.

    Args:
        data: of pictures in files; other data is returned as it is.
        channels: 1 or 3.
    """
    source = data.source
    if not isinstance(source, PictureSource) or channels == len(data.mean):
        return data
    mean, std = (grey(it) if channels == 1 else it * channels for it in (data.mean, data.std))
    again = source.recoloured(mean, std)
    return replace(data, shape=(channels, *data.shape[1:]), mean=mean, std=std, source=again)


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, of ITU-R 601."""


def grey(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean, or the deviation, of grey pictures from that of their colours, which rise and fall together."""
    return (math.fsum(weight * value for weight, value in zip(LUMA, values, strict=True)),)
