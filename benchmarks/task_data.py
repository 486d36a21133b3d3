"""Folders for ``tasks.py`` and its recipes, made of folders of pictures; nothing is copied that can be linked.

    python benchmarks/task_data.py --textures DIR --restoration DIR --work WORK

``textures`` holds one folder of pictures for each class (ten of the Describable Textures, for instance), and
``restoration`` the folders ``Set5`` and ``Set14``. What is made:

- ``WORK/set5`` and ``WORK/set14``: super-resolution, trained on the textures and tested on these pictures.
- ``WORK/textures``: classes; every third picture of each is a test picture, the others are for training.
- ``WORK/discs``: a made-up task of regression. Each picture is a piece of a texture of 64 x 64 pixels with 0 to 9 discs
  of random colours, radii (3 to 7 pixels) and places, which may cover each other in part; their number is wanted.
  Pieces for tests are of other pictures than those for training.
"""

from __future__ import annotations

import argparse
import copy
import csv
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from secateur.data import Data, load_data
from secateur.recipe import Recipe
from secateur.tasks import read_task

TASKS = {
    "camvid": ("camvid",),
    "bccd": ("bccd",),
    "superresolution": ("textures", "restoration"),
    "retrieval": ("textures",),
    "discs": ("textures",),
    "lraspp": ("camvid",),
    "textures": ("textures",),
    "cells": ("bccd",),
}
"""The recipes, the most telling first, with the folders of pictures that they need."""

SIDE = 64
MOST_DISCS = 9
RADII = (3, 7)
EDGE = 8
"""Least distance of a centre from the edge in pixels, so that a disc is seen whole."""

NEAR = 4
"""Least distance of the centres of two discs in pixels, so that none is hidden by another of its size."""
DISCS = {"train": 2000, "test": 500}
TEST = 3
"""Every so many-th picture is a test picture."""


def loaded(name: str, recipe: Recipe, arguments: argparse.Namespace) -> Iterator[tuple[str, Data]]:
    """Yield the data sets of a task by the names of their test images; the first one trains."""
    if name == "superresolution":
        restoration(arguments.textures, arguments.restoration, arguments.work)
        found = {each: f"superresolution:{arguments.work / each.lower()}?scale=2" for each in ("Set5", "Set14")}
    elif name in {"retrieval", "textures"}:
        classes(arguments.textures, arguments.work)
        found = {"test": f"{recipe.data.partition(':')[0]}:{arguments.work / 'textures'}"}
    elif name == "discs":
        discs(arguments.textures, arguments.work)
        found = {"test": f"pairs:{arguments.work / name}"}
    else:
        kind, _, folder = recipe.data.partition(":")
        found = {"test": f"{kind}:{getattr(arguments, folder)}"}
    task = read_task(recipe.task) if recipe.task else None
    size = recipe.image_size or 224
    for said, spec in found.items():
        yield said, load_data(spec, seed=recipe.seed, image_size=size, workers=recipe.workers, task=task)


def shortened(data: Data, images: int) -> Data:
    """Return data with a few images of each split, evenly from all of it."""
    source: Any = copy.copy(data.source)
    source.parts = {
        split: part.take(torch.linspace(0, len(part.labels) - 1, min(images, len(part.labels))).long())
        for split, part in source.parts.items()
    }
    return replace(data, source=source)


def restoration(textures: Path, tests: Path, work: Path) -> None:
    """Make the folders of super-resolution."""
    for name in ("Set5", "Set14"):
        _link(work / name.lower() / "train", textures)
        _link(work / name.lower() / "test", tests / name)


def classes(textures: Path, work: Path) -> None:
    """Make the folder of retrieval and of the transfer of a classifier."""
    for split, path in _split(textures):
        _link(work / "textures" / split / path.parent.name / path.name, path)


def discs(textures: Path, work: Path, seed: int = 0) -> None:
    """Draw the pictures of the regression, unless they are there."""
    paths = list(_split(textures))
    for split, count in DISCS.items():
        folder, draw = work / "discs" / split, random.Random(f"{split} {seed}")
        if (folder / "targets.csv").is_file():  # which is written last
            continue
        folder.mkdir(parents=True, exist_ok=True)
        own = [path for kind, path in paths if kind == split]
        rows = []
        for number in range(count):
            wanted = draw.randint(0, MOST_DISCS)
            name = f"{number:05}.png"
            _drawn(draw.choice(own), wanted, draw).save(folder / name)
            rows.append((name, wanted))
        with (folder / "targets.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(rows)


def _split(textures: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(path for path in textures.iterdir() if path.is_dir()):
        for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
            yield ("test" if number % TEST == TEST - 1 else "train"), path


def _drawn(path: Path, wanted: int, draw: random.Random) -> Image.Image:
    with Image.open(path) as picture:
        left, top = (draw.randint(0, length - SIDE) for length in picture.size)
        piece = picture.convert("RGB").crop((left, top, left + SIDE, top + SIDE))
    pen, centres = ImageDraw.Draw(piece), list[tuple[int, int]]()
    while len(centres) < wanted:
        x, y = (draw.randint(EDGE, SIDE - 1 - EDGE) for _ in range(2))
        if all(max(abs(x - a), abs(y - b)) >= NEAR for a, b in centres):
            centres.append((x, y))
            radius, colour = draw.randint(*RADII), tuple(draw.randint(0, 255) for _ in range(3))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return piece


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(target.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("textures", "restoration", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    restoration(asked.textures, asked.restoration, asked.work)
    classes(asked.textures, asked.work)
    discs(asked.textures, asked.work)


if __name__ == "__main__":
    main()
