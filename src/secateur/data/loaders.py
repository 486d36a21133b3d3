"""Data sets from the caller's own data loaders, passed through as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from secateur.arguments import checked
from secateur.data.dataset import Batches, Data, Source, check_labels
from secateur.data.order import Order, Split
from secateur.errors import DataError
from secateur.measure.forward import yielded
from secateur.rules import Count

Loader = Iterable[Any]


@checked
def from_loaders(train: Loader, val: Loader, test: Loader, classes: Count, *, name: str = "loaders") -> Data:
    """Make a data set of three loaders that yield normalised images with labels.

    Order, batch size, augmentation and normalisation are the loaders' own: what ``Data.batches`` is asked
    for does not change them, so that two runs are alike only if the loaders are. With several processes each
    loader needs a ``DistributedSampler``, whose epoch is set to the seed of the pass.

    Args:
        train: usually a torch DataLoader; yields (images, labels): (N, C, H, W) floating point and (N,)
            integers.
        val: the same, of images held out of the training images.
        test: the same; not touched before it is asked for.
        classes: number of labels.
        name: what reports call the data set.

    Raises:
        DataError: if a loader can be read only once, or the first validation batch is not as described.
    """
    loaders: dict[Split, Loader] = {"train": train, "val": val, "test": test}
    for split, loader in loaders.items():
        if isinstance(loader, Iterator) or not hasattr(loader, "__iter__"):
            raise DataError(
                f"the {split} loader can be read at most once: pass a torch DataLoader or a list of batches"
            )
    first = next(yielded(val, "the val batches"), None)
    if first is None:
        raise DataError("the val loader yields no batch")
    images, _ = _pair(first, classes, "val")
    channels, height, width = images.shape[1:]
    source = LoaderSource(loaders, classes, images[:1].clone())
    return Data(name, classes, (channels, height, width), (0.0,) * channels, (1.0,) * channels, source)


class NoLengthError(DataError, TypeError):
    """A loader whose number of batches is unknown; also a TypeError, or ``list(batches)`` would fail."""


class LoaderSource(Source):
    """Three loaders.

    Args:
        loaders: one for each split.
        classes: number of labels.
        image: the first validation image, (1, C, H, W).
    """

    def __init__(self, loaders: Mapping[Split, Loader], classes: int, image: Tensor) -> None:
        self.loaders = dict(loaders)
        self.classes = classes
        self.image = image

    def size(self, split: Split) -> int:
        """Return the number of images in a split."""
        loader = self.loaders[split]
        if isinstance(loader, DataLoader):
            # A sampler may leave images out, but a distributed one counts only the share of this process.
            counted: tuple[object, ...] = (cast("Any", loader).sampler, cast("Any", loader).dataset)
            for one in counted:
                if isinstance(one, Sized) and not isinstance(one, DistributedSampler):
                    return len(one)
        elif isinstance(loader, Sequence):
            return sum(len(_pair(batch, self.classes, split)[1]) for batch in loader)
        raise DataError(f"the {split} loader does not tell how many images it has: give its data set a length")

    def batches(self, order: Order) -> Batches:
        """Return the batches of one pass."""
        return LoaderBatches(self.loaders[order.split], order, self.classes)

    def example(self) -> Tensor:
        """Return the first validation image, (1, C, H, W) float32."""
        return self.image


class LoaderBatches(Batches):
    """One pass over a loader."""

    def __init__(self, loader: Loader, order: Order, classes: int) -> None:
        self.loader = loader
        self.order = order
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

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loader's images with their labels, on the device of the pass."""
        sampler = self._sampler()
        if sampler is not None:
            sampler.set_epoch(self.order.seed)
        for batch in yielded(self.loader, f"the {self.order.split} batches"):
            images, labels = _pair(batch, self.classes, self.order.split)
            device = self.order.device
            if not isinstance(self.loader, DataLoader):  # the batches are the caller's own, and a forward may write
                images = images.clone()
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _pair(batch: Any, classes: int, split: Split) -> tuple[Tensor, Tensor]:
    """Return a batch as images, (N, C, H, W) float32, and labels, (N,) int64, checked."""
    pair = cast("Sequence[Any]", batch) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2:
        raise DataError(
            f"the {split} loader yields a {type(cast('object', batch)).__name__}: it must yield pairs (images, labels)"
        )
    images, labels = pair
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"the {split} loader yields images as {what}: give normalised float tensors (N, C, H, W)")
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == (len(images),)
    if not whole:
        raise DataError(f"the {split} loader must yield one whole-number label for each image, as a tensor (N,)")
    check_labels(labels, classes, f"batches of the {split} loader")
    return images.to(torch.float32), labels.long()
