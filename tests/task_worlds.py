"""A small world for each built-in task: a folder of made pictures, and networks that learn from it in a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 32
SPLITS = {"train": 16, "val": 8, "test": 8}

NETWORKS = """
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

def block(inner, outer):
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())

class UNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.down = block(3, 8)
        self.deep = nn.Sequential(nn.MaxPool2d(2), block(8, 16), block(16, 16), nn.Upsample(scale_factor=2))
        self.up = block(24, 8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        first = self.down(images)
        return self.head(self.up(torch.cat([first, self.deep(first)], dim=1)))

class Upscaler(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(2)
        )
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, images):
        features = self.head(images)
        for layer in self.body:
            features = features + layer(features)
        return self.tail(features)

class Backbone(nn.Sequential):
    out_channels = 8

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()
        )

def segmenter(classes=3):
    return UNet(classes)

def detector(classes=3):
    anchors = AnchorGenerator(sizes=((12,),), aspect_ratios=((1.0,),))
    return RetinaNet(
        Backbone(), classes, anchor_generator=anchors, min_size=32, max_size=32, detections_per_img=5, score_thresh=0.0
    )

def upscaler():
    return Upscaler()

def denoiser():
    return nn.Sequential(block(3, 8), block(8, 8), nn.Conv2d(8, 3, 3, padding=1))

def pooled(outputs):
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(block(3, 8), nn.MaxPool2d(2), block(8, 16), pool, nn.Flatten(), nn.Linear(16, outputs))

def embedder():
    return pooled(8)

def regressor():
    return pooled(2)

def labeller(classes=3):
    return pooled(classes)
"""
"""Source of the networks, as a user would keep it in a file."""


@dataclass(frozen=True)
class World:
    """Data of a task and a network for it.

    Attributes:
        task: name of the task.
        data: what ``secateur.load_data`` is told.
        model: what ``secateur.build`` is told.
        size: of the images, as the command line takes it.
    """

    task: str
    data: str
    model: str
    size: int = SIDE


def world(task: str, root: Path) -> World:
    """Write the pictures and the networks of a task into a folder."""
    kind = _KINDS[task]
    for split, count in SPLITS.items():
        kind.write(root / "pictures", split, count)
    (root / "nets.py").write_text(NETWORKS)
    return World(task.partition(" ")[0], f"{kind.spec}:{root / 'pictures'}", f"{root / 'nets.py'}:{kind.network}")


@dataclass(frozen=True)
class _Kind:
    spec: str
    network: str
    write: Any


def _rng(split: str) -> np.random.Generator:
    return np.random.default_rng(len(split))


def _picture(rng: np.random.Generator, side: int = SIDE) -> tuple[Any, tuple[int, int, int, int], int]:
    """Return a noisy picture with a bright square, red or green, its box and its class, 1 or 2."""
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    x, y = (int(it) for it in rng.integers(2, side - 14, 2))
    number = int(rng.integers(1, 3))
    pixels[y : y + 12, x : x + 12, number - 1] = 230
    return pixels, (x, y, 12, 12), number


def _save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _masks(root: Path, split: str, count: int) -> None:
    rng = _rng(split)
    for number in range(count):
        pixels, (x, y, wide, high), kind = _picture(rng)
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[y : y + high, x : x + wide] = kind
        mask[0, 0] = 11  # which is said not to count
        _save(root / split / "images" / f"{number:02}.png", pixels)
        _save(root / split / "masks" / f"{number:02}.png", mask)


def _boxes(root: Path, split: str, count: int) -> None:
    rng, images, annotations = _rng(split), [], []
    for number in range(count):
        pixels, box, kind = _picture(rng)
        _save(root / split / f"{number:02}.png", pixels)
        images.append({"id": number, "file_name": f"{number:02}.png", "width": SIDE, "height": SIDE})
        annotations.append({"id": number, "image_id": number, "category_id": kind, "bbox": list(box)})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def _classes(root: Path, split: str, count: int) -> None:
    rng = _rng(split)
    for number in range(count):
        pixels, _, kind = _picture(rng)
        _save(root / split / ("red", "green")[kind - 1] / f"{number:02}.png", pixels)


def _plain(root: Path, split: str, count: int) -> None:
    rng = _rng(split)
    for number in range(count):
        _save(root / split / f"{number:02}.png", _picture(rng)[0])


def _noisy(root: Path, split: str, count: int) -> None:
    rng = _rng(split)
    for number in range(count):
        pixels = _picture(rng)[0]
        noise = rng.integers(-20, 21, pixels.shape)
        _save(root / split / "input" / f"{number:02}.png", (pixels + noise).clip(0, 255).astype(np.uint8))
        _save(root / split / "target" / f"{number:02}.png", pixels)


def _numbers(root: Path, split: str, count: int) -> None:
    rng, lines = _rng(split), ["file,x,y"]
    for number in range(count):
        pixels, (x, y, *_), _ = _picture(rng)
        _save(root / split / f"{number:02}.png", pixels)
        lines.append(f"{number:02}.png,{x / SIDE},{y / SIDE}")
    (root / split / "targets.csv").write_text("\n".join(lines) + "\n")


_KINDS = {
    "classification": _Kind("imagefolder", "labeller", _classes),
    "segmentation": _Kind("segmentation", "segmenter", _masks),
    "detection": _Kind("coco", "detector", _boxes),
    "restoration": _Kind("pairs", "denoiser", _noisy),
    "restoration at a scale": _Kind("superresolution", "upscaler", _plain),
    "regression": _Kind("pairs", "regressor", _numbers),
    "retrieval": _Kind("retrieval", "embedder", _classes),
}
TASKS = tuple(_KINDS)
