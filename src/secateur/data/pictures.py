"""Photographs with labels, read, resized and augmented one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from secateur.data.order import Split
from secateur.data.picture_source import PictureSource, Reader
from secateur.data.vision import MOST_PIXELS, picture, torchvision, unreadable
from secateur.reading import Unfit

SHRINK = 256 / 224  # evaluation resizes the short side to this multiple of the image, then cuts the centre

Item = tuple[Tensor, Tensor]
Size = int | tuple[int, int] | None
"""Side of a square, or height and width, in pixels; None leaves pictures as they are."""


@dataclass(frozen=True, eq=False)
class Files:
    """The images of one split.

    Attributes:
        paths: one file an image.
        labels: (N,) int64; zeros where images have no class.
        numbers: what else is wanted of each image, (N, numbers) float32; None where it is its label.
    """

    paths: tuple[str, ...]
    labels: Tensor
    numbers: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What is wanted of each image: its label or its numbers."""
        return self.labels if self.numbers is None else self.numbers

    def take(self, rows: Tensor) -> Files:
        """Return some of the images, in the order of ``rows``, (M,) int64."""
        chosen: list[int] = rows.tolist()
        numbers = None if self.numbers is None else self.numbers[rows]
        return Files(tuple(self.paths[row] for row in chosen), self.labels[rows], numbers)


class FolderSource(PictureSource):
    """Splits that are lists of image files, with a label or with numbers for each.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        image_size: of the images; pictures that stay as they are must all have one size.
        workers: reading processes; chosen by the machine if None.
    """

    parts: dict[Split, Files]

    def __init__(
        self,
        parts: Mapping[Split, Files],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: Size,
        workers: int | None,
    ) -> None:
        super().__init__(parts, mean, std, workers)
        self.image_size = image_size

    def pictures(self, split: Split, augment: str) -> Pictures:
        """Return what reads the single images of a split."""
        return Pictures(self.parts[split], augment, self.image_size, len(self.mean))


class Pictures(Reader):
    """Reads, resizes and augments single images.

    Those with numbers are resized as a whole: what is wanted of them may be anywhere in them, and numbers do not move
    with what is cut off.

    Args:
        files: the images.
        augment: one of ``AUGMENTS``; a crop is torchvision's random resized crop.
        image_size: of the result.
        channels: 3, or 1 for grey.
    """

    def __init__(self, files: Files, augment: str, image_size: Size, channels: int = 3) -> None:
        self.files = files
        self.channels = channels
        whole = files.numbers is not None
        self.side = 0 if image_size is None or whole or "crop" in augment else _side(image_size)
        self.transform = _transform(augment, image_size, whole)

    def opened(self, row: int) -> Any:
        """Return a picture."""
        path = self.files.paths[row]
        found = picture(path, self.channels)
        if self.side:
            check_narrow(path, found.size, self.side)
        return found

    def changed(self, found: Any, row: int) -> Item:
        """Return an image, (C, H, W) uint8, with its label or its numbers."""
        return self.transform(found), self.files.targets[row]


def check_narrow(path: str, size: tuple[int, int], side: int) -> None:
    """Refuse a strip that would be huge with its short side resized to so many pixels."""
    if side**2 * max(size) > MOST_PIXELS * min(size):
        raise unreadable(path, Unfit(f"{size[0]} x {size[1]} pixels are too narrow to resize"))


def _transform(augment: str, image_size: Size, whole: bool) -> Callable[[Any], Tensor]:
    transforms = torchvision().transforms
    steps: list[Any] = []
    if augment in ("crop", "crop_flip"):
        steps.append(transforms.RandomResizedCrop(image_size))
    elif whole and image_size is not None:
        steps.append(transforms.Resize((image_size, image_size) if isinstance(image_size, int) else image_size))
    elif image_size is not None:
        steps += [transforms.Resize(_side(image_size)), transforms.CenterCrop(image_size)]
    if augment in ("flip", "crop_flip"):
        steps.append(transforms.RandomHorizontalFlip())
    return cast("Callable[[Any], Tensor]", transforms.Compose([*steps, transforms.PILToTensor()]))


def _side(image_size: int | tuple[int, int]) -> int:
    """Return to what the short side of a picture is resized before its centre is cut out."""
    return round((image_size if isinstance(image_size, int) else max(image_size)) * SHRINK)
