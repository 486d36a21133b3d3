"""Folders for detection: images, and boxes in COCO's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.data import coco, layouts
from secateur.data.dataset import Data
from secateur.data.folder_settings import AS_THEY_ARE, FolderSettings
from secateur.data.joint import Joint
from secateur.data.order import Split
from secateur.data.picture_source import PictureSource, Reader
from secateur.data.vision import picture
from secateur.errors import DataError
from secateur.tasks import Detection

BACKGROUND = "background"
Target = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class BoxFiles:
    """The images of one split with their boxes."""

    images: tuple[coco.Boxed, ...]

    @property
    def labels(self) -> Tensor:
        """Zeros: images have no class."""
        return torch.zeros(len(self.images), dtype=torch.int64)

    def take(self, rows: Tensor) -> BoxFiles:
        """Return some of them, in the order of ``rows``, (M,) int64."""
        chosen: list[int] = rows.tolist()
        return BoxFiles(tuple(self.images[row] for row in chosen))


class BoxSource(PictureSource):
    """Splits that are lists of images with boxes.

    Args:
        parts: the files of each split.
        mean: per channel, for pixels in 0..1; a single one asks for grey images.
        std: per channel.
        image_size: height and width to which images are resized.
        workers: reading processes; chosen by the machine if None.
    """

    parts: dict[Split, BoxFiles]

    def __init__(
        self,
        parts: Mapping[Split, BoxFiles],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: int,
        workers: int | None,
    ) -> None:
        super().__init__(parts, mean, std, workers)
        self.image_size = image_size

    def pictures(self, split: Split, augment: str) -> BoxReader:
        """Return what reads the single images of a split."""
        return BoxReader(self.parts[split], augment, self.image_size, len(self.mean))

    def collated(self, items: Sequence[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
        """Return images, (N, C, S, S) uint8, with a table of boxes and labels for each."""
        return torch.stack([image for image, _ in items]), [target for _, target in items]

    def finished(self, batch: tuple[Tensor, list[Target]], device: torch.device) -> tuple[Tensor, list[Target]]:
        """Return a batch on a device, its images normalised."""
        images, targets = batch
        moved = [{name: it.to(device, non_blocking=True) for name, it in target.items()} for target in targets]
        return self.scaled(images, device), moved


class BoxReader(Reader):
    """Reads, resizes and augments single images with their boxes."""

    def __init__(self, files: BoxFiles, augment: str, image_size: int, channels: int) -> None:
        self.files = files
        self.channels = channels
        self.joint = Joint(augment, image_size)

    def opened(self, row: int) -> Any:
        """Return a picture."""
        known = self.files.images[row]
        found = picture(known.path, self.channels)
        if found.size != known.size:
            raise DataError(
                f"the image '{known.path}' has {found.size[0]} x {found.size[1]} pixels, but its boxes are said to be "
                f"of one of {known.size[0]} x {known.size[1]}: they belong to another image"
            )
        return found

    def changed(self, found: Any, row: int) -> tuple[Tensor, Target]:
        """Return an image, (C, S, S) uint8, with its boxes and labels, and where there are any which are crowds."""
        known = self.files.images[row]
        target = {
            "boxes": torch.tensor(known.boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(known.labels, dtype=torch.int64),
        }
        if known.crowds:
            target["iscrowd"] = torch.tensor(known.crowds, dtype=torch.int64)
        return self.joint.boxed(found, target)


def box_folder(root: Path, settings: FolderSettings) -> Data:
    """Make a data set of images with boxes, see ``coco.files_of`` and ``coco.read``.

    Missing splits are held out of the training images, see ``FolderSettings.completed``. Images without boxes stay.

    Raises:
        DataError: if files are missing or do not fit together.
        SecateurError: if torchvision is not installed.
    """
    layouts.there(root)
    files = coco.files_of(root)
    found, names = dict[Split, BoxFiles](), dict[Any, str]()
    for split, path in files.items():
        images, own = coco.read(path, root, split)
        if names and own != names:
            raise DataError(
                f"'{path}' and '{files['train']}' number their categories differently, so that their boxes do not mean "
                "the same: give both the same list of categories"
            )
        names, found[split] = own, BoxFiles(tuple(images))
    parts = settings.completed(found)
    scale = settings.scale(AS_THEY_ARE)
    source = BoxSource(parts, *scale, settings.image_size, settings.workers)
    shape = (len(scale[0]), settings.image_size, settings.image_size)
    words = (BACKGROUND, *names.values())
    return Data(root.resolve().name, len(words), shape, *scale, source, settings.task or Detection(), words)
