"""Photographs, too many for memory: worker processes read, resize and augment each batch as it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from secateur.data.augment import normalise, scaling
from secateur.data.dataset import Batches, Source
from secateur.data.order import Order, Split
from secateur.data.vision import MOST_PIXELS, picture, torchvision, unreadable
from secateur.errors import DataError
from secateur.reading import Unfit

WORKERS = 8  # more reading processes than this rarely help one accelerator
SHRINK = 256 / 224  # evaluation resizes the short side to this multiple of the image, then cuts the centre

Key = tuple[int, int]  # which image, and the seed of its augmentation
# An error travels from a worker as a value: raised there, its text would become the worker's traceback.
Item = tuple[Tensor, int] | DataError
Batch = tuple[Tensor, Tensor] | DataError
Size = int | tuple[int, int] | None
"""Side of a square, or height and width, in pixels; None leaves pictures as they are."""


@dataclass(frozen=True, eq=False)
class Files:
    """The images of one split.

    Attributes:
        paths: one file an image.
        labels: (N,) int64.
    """

    paths: tuple[str, ...]
    labels: Tensor

    def take(self, rows: Tensor) -> Files:
        """Return some of the images, in the order of ``rows``, (M,) int64."""
        chosen: list[int] = rows.numpy().tolist()
        return Files(tuple(self.paths[row] for row in chosen), self.labels[rows])


class FolderSource(Source):
    """Splits that are lists of image files.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        image_size: of the images; pictures that stay as they are must all have one size.
        workers: reading processes; chosen by the machine if None.
    """

    def __init__(
        self,
        parts: Mapping[Split, Files],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: Size,
        workers: int | None,
    ) -> None:
        self.parts = dict(parts)
        self.mean = mean
        self.std = std
        self.image_size = image_size
        self.workers = workers

    def size(self, split: Split) -> int:
        """Return the number of images in a split."""
        return len(self.parts[split].paths)

    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""
        return FolderBatches(self, order)

    def example(self) -> Tensor:
        """Return the first validation image, (1, C, H, W) float32, normalised."""
        item = self.pictures("val", "none")[0, 0]
        if isinstance(item, DataError):
            raise item
        return self.scaled(item[0].unsqueeze(0), torch.device("cpu"))

    def pictures(self, split: Split, augment: str) -> Pictures:
        """Return what reads the single images of a split."""
        return Pictures(self.parts[split], augment, self.image_size, len(self.mean))

    def scaled(self, raw: Tensor, device: torch.device) -> Tensor:
        """Return uint8 images, (N, C, H, W), as normalised float32 on a device."""
        moved = raw.to(device, non_blocking=True)
        return normalise(moved, *scaling(self.mean, self.std, moved.dtype, device))


class FolderBatches(Batches):
    """One pass over a list of image files."""

    def __init__(self, source: FolderSource, order: Order) -> None:
        self.source = source
        self.order = order
        self.files = source.parts[order.split]
        self.shares = order.shares(len(self.files.paths))

    def __len__(self) -> int:
        """How many batches this process gets."""
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised images with their labels."""
        rng = self.order.rng()
        rows = self.order.positions(len(self.files.paths), rng)
        # A seed for every place of the pass: pictures do not depend on which worker or process reads them.
        seeds = torch.randint(2**62, (len(rows),), generator=rng)
        device = self.order.device
        loader: Iterable[Batch] = DataLoader(
            self.source.pictures(self.order.split, self.order.augment),
            batch_sampler=Keys(rows, seeds, self.shares),  # pyright: ignore[reportArgumentType]
            num_workers=min(readers(self.source.workers, self.order.world), len(self.shares)),
            collate_fn=_collate,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or the loader would draw from the caller's random numbers
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield self.source.scaled(batch[0], device), batch[1].to(device, non_blocking=True)


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


def readers(asked: int | None, world: int = 1) -> int:
    """Return how many processes read pictures: as many as asked for, else what the machine has room for."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(WORKERS, max(1, cores // world))


class Pictures(Dataset[Item]):
    """Reads, resizes and augments single images.

    Args:
        files: the images.
        augment: one of ``AUGMENTS``; a crop is torchvision's random resized crop.
        image_size: of the result.
        channels: 3, or 1 for grey.
    """

    def __init__(self, files: Files, augment: str, image_size: Size, channels: int = 3) -> None:
        self.files = files
        self.channels = channels
        self.side = 0 if image_size is None or "crop" in augment else _side(image_size)
        self.transform = _transform(augment, image_size)

    def __getitem__(self, key: Key) -> Item:
        """Return an image, (C, H, W) uint8, with its label; the error itself where it cannot be read."""
        row, seed = key
        path = self.files.paths[row]
        try:
            found = picture(path, self.channels)
            if self.side and self.side**2 * max(found.size) > MOST_PIXELS * min(found.size):
                raise unreadable(path, Unfit(f"{found.size[0]} x {found.size[1]} pixels are too narrow to resize"))
        except DataError as error:
            return error
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            # Not torch.manual_seed, which would also reset the generators of every accelerator.
            torch.default_generator.manual_seed(seed)
            return self.transform(found), int(self.files.labels[row])


def _transform(augment: str, image_size: Size) -> Callable[[Any], Tensor]:
    transforms = torchvision().transforms
    steps: list[Any] = []
    if augment in ("crop", "crop_flip"):
        steps.append(transforms.RandomResizedCrop(image_size))
    elif image_size is not None:
        steps += [transforms.Resize(_side(image_size)), transforms.CenterCrop(image_size)]
    if augment in ("flip", "crop_flip"):
        steps.append(transforms.RandomHorizontalFlip())
    return cast("Callable[[Any], Tensor]", transforms.Compose([*steps, transforms.PILToTensor()]))


def _side(image_size: int | tuple[int, int]) -> int:
    """Return to what the short side of a picture is resized before its centre is cut out."""
    return round((image_size if isinstance(image_size, int) else max(image_size)) * SHRINK)


def _collate(items: list[Item]) -> Batch:
    """Stack images and labels; return the first error instead if there is one."""
    pairs: list[tuple[Tensor, int]] = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
