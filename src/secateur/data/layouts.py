"""How pairs of files lie in folders: images and, under the same names, what is wanted of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur import reading
from secateur.data.folder_settings import SPLITS
from secateur.data.listing import pictures_below
from secateur.data.order import Split
from secateur.data.vision import torchvision
from secateur.errors import DataError

Pairs = list[tuple[str, str]]
Names = Sequence[tuple[str, str]]
"""Names of folders that belong together, such as ``("images", "masks")``."""

_ENDINGS = ("_mask", "_label", "_L")  # of a second file's name, where the first has none
_MOST_LIST = 64 * reading.MIB


def paired(root: Path, names: Names, beside: Sequence[str] = ()) -> dict[Split, Pairs]:
    """Return the paths of pairs in each split that a folder has, in the order of their names.

    A split is ``train/images`` with ``train/masks``, ``images/train`` with ``masks/train``, or, for the words in
    ``beside``, ``train`` with ``trainannot``. Without any split, ``images`` and ``masks`` are all training examples.

    Args:
        root: of the data set.
        names: what the two folders may be called.
        beside: what may follow the name of a split's folder in that of its second one.

    Raises:
        DataError: if there are none, or a file has no other.
    """
    there(root)
    found = dict[Split, Pairs]()
    for split, words in SPLITS.items():
        places = [pair for word in words for pair in _places(root, word, names, beside)]
        place = next(((one, two) for one, two in places if one.is_dir() and two.is_dir()), None)
        if place is not None:
            found[split] = _matched(*place)
    if not found:
        flat = ((root / one, root / two) for one, two in names)
        place = next(((one, two) for one, two in flat if one.is_dir() and two.is_dir()), None)
        if place is not None:
            found["train"] = _matched(*place)
    if "train" not in found:
        one, two = names[0]
        raise DataError(
            f"'{root}' holds no training examples that are known as such: put them in train/{one} and train/{two}"
        )
    return found


def voc(root: Path) -> dict[Split, Pairs] | None:
    """Return the pairs of a folder as Pascal VOC lays it out, None if it is none.

    Raises:
        DataError: if a list cannot be read or names a file that is not there.
    """
    lists, images, masks = root / "ImageSets" / "Segmentation", root / "JPEGImages", root / "SegmentationClass"
    if not (lists.is_dir() and images.is_dir() and masks.is_dir()):
        return None
    found = dict[Split, Pairs]()
    for split, words in SPLITS.items():
        path = next((path for word in words if (path := lists / f"{word}.txt").is_file()), None)
        if path is None:
            continue
        try:
            stems = reading.text(path, _MOST_LIST).split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the list '{path}' cannot be read ({reading.shown(error)}): repair it") from None
        pairs = [(str(images / f"{stem}.jpg"), str(masks / f"{stem}.png")) for stem in stems]
        missing = next((file for pair in pairs for file in pair if not os.path.isfile(file)), None)
        if missing is not None:
            if split == "test":  # whose masks are kept secret
                continue
            raise DataError(f"'{path}' names '{missing}', which is not there: add it, or take it off the list")
        found[split] = pairs
    if not found.get("train"):
        raise DataError(f"'{lists}' holds no list train.txt with images: add one, a name without ending on each line")
    return found


def there(root: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        DataError: naming it.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder '{root}': name the one that holds the data set")


def pictures_in(folder: Path) -> list[str]:
    """Return the paths of all pictures below a folder, in the order of their names."""
    return sorted(os.path.join(here, name) for here, names in pictures_below(folder, hidden=False) for name in names)


def _places(root: Path, split: str, names: Names, beside: Sequence[str]) -> list[tuple[Path, Path]]:
    inside = [(root / split / one, root / split / two) for one, two in names]
    across = [(root / one / split, root / two / split) for one, two in names]
    return [*inside, *across, *((root / split, root / f"{split}{word}") for word in beside)]


def _matched(one: Path, two: Path) -> Pairs:
    """Return the files of two folders in pairs of the same name."""
    firsts, seconds = _by_stem(one), _by_stem(two)
    for stem in list(seconds):
        bare = next((stem.removesuffix(end) for end in _ENDINGS if stem.endswith(end)), stem)
        if stem not in firsts and bare in firsts and bare not in seconds:
            seconds[bare] = seconds.pop(stem)
    if not firsts:
        endings = ", ".join(torchvision().datasets.folder.IMG_EXTENSIONS)
        raise DataError(f"'{one}' holds no images (known endings: {endings})")
    for mine, other, where in ((firsts, seconds, two), (seconds, firsts, one)):
        alone = sorted(mine.keys() - other.keys())
        if alone:
            more = f", nor have {len(alone) - 1} more" if len(alone) > 1 else ""
            raise DataError(f"'{mine[alone[0]]}' has no file of the same name in '{where}'{more}: add or remove it")
    return [(firsts[stem], seconds[stem]) for stem in sorted(firsts)]


def _by_stem(folder: Path) -> dict[str, str]:
    found = dict[str, str]()
    for path in pictures_in(folder):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in found:
            raise DataError(f"'{found[stem]}' and '{path}' have the same name, so that nothing else fits one of them")
        found[stem] = path
    return found


def taken(pairs: Mapping[Split, Pairs], split: Split) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the first and the second files of a split."""
    first, second = zip(*pairs[split], strict=True)
    return first, second
