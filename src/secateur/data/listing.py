"""Which pictures lie below a folder, in a fixed order; a folder that links lead to twice is looked into once."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.data.vision import torchvision

Found = list[tuple[str, list[str]]]


def pictures_below(root: Path, *, hidden: bool) -> Found:
    """Return the folders below a folder, itself included, each with the names of the pictures in it.

    Args:
        root: searched to any depth; links are followed.
        hidden: whether folders and files whose names begin with a dot are looked at.

    Returns:
        Folders as they are walked through, names in order.
    """
    endings = tuple(torchvision().datasets.folder.IMG_EXTENSIONS)
    seen: set[tuple[int, int]] = set()  # links in a circle would be followed forty times at each turn
    found: Found = []
    for here, folders, files in os.walk(root, followlinks=True):
        stat = os.stat(here)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        names = sorted(name for name in files if hidden or not name.startswith("."))
        found.append((here, [name for name in names if name.lower().endswith(endings)]))
    return found
