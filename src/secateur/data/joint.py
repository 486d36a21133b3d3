"""Images together with what lies on them: masks and boxes are resized, moved and mirrored as their image is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.data.vision import pixels, torchvision

EIGHTH = 8
"""Before a random crop of the original size this part of it is added on each side; 4 of 32 pixels, as is usual."""

SMALLEST = 1.0
"""Height and width in pixels of a box that a crop may leave; smaller ones go."""


class Joint:
    """Resizes to a square, and augments.

    Args:
        augment: one of ``AUGMENTS``.
        image_size: height and width of the result.
        ignore: class number of pixels of a mask that lie outside of the image; None to repeat those of the edge.
    """

    def __init__(self, augment: str, image_size: int, ignore: int | None = 0) -> None:
        v2, points = _v2(), _tv_tensors()
        self._wide = ignore is not None and not 0 <= ignore < 256  # what pixels of 8 bits cannot be filled with
        steps: list[Any] = [v2.Resize((image_size, image_size))]
        if augment in ("crop", "crop_flip"):
            fill = {points.Mask: 0 if ignore is None else ignore, "others": 0}
            mode = "edge" if ignore is None else "constant"
            steps.append(v2.RandomCrop(image_size, padding=max(1, image_size // EIGHTH), fill=fill, padding_mode=mode))
        if augment in ("flip", "crop_flip"):
            steps.append(v2.RandomHorizontalFlip())
        self.steps = v2.Compose(steps)

    def masked(self, picture: Any, mask: Any) -> tuple[Tensor, Tensor]:
        """Return an image, (C, S, S) uint8, with its mask of class numbers, (S, S) uint8 or, if need be, int64.

        Args:
            picture: as PIL has it.
            mask: array of class numbers, (H, W) uint8.
        """
        flat = torch.from_numpy(mask)[None]
        image, numbers = self.steps(picture, _tv_tensors().Mask(flat.long() if self._wide else flat))
        return pixels(image), numbers.as_subclass(Tensor)[0]

    def boxed(self, picture: Any, target: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an image, (C, S, S) uint8, with what is left of its target on it.

        Args:
            picture: as PIL has it.
            target: ``boxes`` (n, 4) float32 as x1, y1, x2, y2 in its pixels, with a row of everything else for each.
        """
        canvas, boxes = (picture.size[1], picture.size[0]), target["boxes"]
        image, moved = self.steps(picture, _tv_tensors().BoundingBoxes(boxes, format="XYXY", canvas_size=canvas))
        found = moved.as_subclass(Tensor).reshape(-1, 4).float()
        kept = (found[:, 2:] - found[:, :2]) >= torch.minimum(torch.tensor(SMALLEST), _sides(boxes, canvas, image))
        left = kept.all(dim=1)
        return pixels(image), {name: rows[left] for name, rows in {**target, "boxes": found}.items()}


def _sides(boxes: Tensor, canvas: tuple[int, int], image: Any) -> Tensor:
    """Return half of the height and width that each box had on the resized image: what was tiny before may stay."""
    wide, high = image.size
    scale = torch.tensor([wide / canvas[1], high / canvas[0]])
    return (boxes[:, 2:] - boxes[:, :2]) * scale / 2


def _v2() -> Any:
    torchvision()
    return importlib.import_module("torchvision.transforms.v2")


def _tv_tensors() -> Any:
    torchvision()
    return importlib.import_module("torchvision.tv_tensors")
