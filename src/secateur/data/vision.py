"""The one place that imports torchvision and PIL, which are optional and slow to import."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError, SecateurError
from secateur.reading import Unfit, regular, shown

MOST_PIXELS = 2**26
"""Of one picture; the largest photographs of ImageNet have 61 million."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")

_ORIENTATION = 0x0112  # of EXIF, whose values from 5 on exchange height and width
_KIND_OF_PAGE, _COPY_OR_MASK = 254, 0b101  # of TIFF: a page that is a smaller copy of another, or its mask
_INK = 262  # of TIFF: 0 where white is 0
_DEEP = 65535
_PLAIN = ("L", "RGB")


def torchvision() -> Any:
    """Return the module torchvision.

    Raises:
        SecateurError: if it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise SecateurError('this data set needs torchvision: pip install "secateur[vision]"') from error


def picture_size(path: str) -> tuple[int, int]:
    """Return height and width of a picture as it is shown, without reading all of it.

    Raises:
        DataError: if it cannot be read.
    """
    with _opened(path) as opened:
        width, height = opened.size
        return (width, height) if _orientation(opened) >= 5 else (height, width)


def picture(path: str, channels: int) -> Any:
    """Return a picture as PIL has it, in mode L for one channel and RGB for three, 8 bits each, black 0 and white 255.

    Deeper channels are scaled, so that their white is white; palettes, CMYK and other colours are converted; what is
    transparent shows white behind it; a picture that says how the camera was held is turned upright. Grey is the
    luma of ITU-R 601, as everywhere.

    Raises:
        DataError: naming the file, if it cannot be read, has more than ``MOST_PIXELS``, holds several pictures, or
            does not say what black and white are.
    """
    with _opened(path) as opened:
        refusal = _why_not(opened)
        if not refusal:
            return _converted(opened, "L" if channels == 1 else "RGB")
    raise DataError(f"the image '{path}' {refusal}")


def pixels(found: Any) -> Tensor:
    """Return a picture of mode L or RGB as a tensor, (C, H, W) uint8."""
    whole = torch.from_numpy(np.array(found))
    return whole[None] if whole.ndim == 2 else whole.permute(2, 0, 1).contiguous()


def flipped(found: Any) -> Any:
    """Return a picture mirrored left to right."""
    return found.transpose(_images().Transpose.FLIP_LEFT_RIGHT)


def shrunk(found: Any, wide: int, high: int) -> Any:
    """Return a smaller copy of a picture, by bicubic interpolation with its filter widened to the step."""
    return found.resize((wide, high), _images().Resampling.BICUBIC)


def _images() -> Any:
    return importlib.import_module("PIL.Image")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that PIL can read here."""
    images = _images()
    images.init()
    return tuple(name for name in FORMATS if name in images.OPEN)


@contextlib.contextmanager
def _opened(path: str) -> Generator[Any]:
    """Open a picture file by its header; of other formats than those of photographs PIL starts programs to read some.

    Raises:
        DataError: if it is none, or anything goes wrong while it is used.
    """
    torchvision()  # brings PIL, or says what to install
    try:
        regular(path)
        with _images().open(path, formats=_formats()) as found:
            width, height = found.size
            if width * height > MOST_PIXELS:
                raise Unfit(f"{width} x {height} pixels are more than the {MOST_PIXELS:,} that are read")
            yield found
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> DataError:
    """Return the error that names a picture which cannot be read."""
    return DataError(f"the image '{path}' cannot be read ({shown(error)}): repair or remove it")


def _why_not(opened: Any) -> str:
    """Return why a file holds no picture with a meaning of its own; empty if it does."""
    pages = _pages(opened)
    if pages > 1:
        return f"holds {pages} pictures, an animation or a stack: save those that are meant one by one"
    whole = opened.mode == "I" and opened.format not in ("PNG", "PPM")  # whose numbers have 16 bits
    if opened.mode == "F" or whole:
        kind = "floating-point numbers" if opened.mode == "F" else "whole numbers of 32 bits, or with a sign"
        return f"holds {kind}, which do not say what black and white are: save it with 8 or 16 bits a channel"
    return ""


def _pages(opened: Any) -> int:
    """Return how many pictures a file holds; previews and smaller copies of the first do not count."""
    count = int(getattr(opened, "n_frames", 1))
    if count == 1 or opened.format == "MPO":  # a photograph with a preview
        return 1
    if opened.format != "TIFF":
        return count
    own = 0
    for page in range(count):
        opened.seek(page)
        own += not int(opened.tag_v2.get(_KIND_OF_PAGE, 0)) & _COPY_OR_MASK
    opened.seek(0)
    return own


def _converted(opened: Any, mode: str) -> Any:
    turned = _orientation(opened)
    found = _shallow(opened) if opened.mode.startswith("I") else opened
    if found.mode in ("La", "RGBa"):
        found = found.convert("LA" if found.mode == "La" else "RGBA")
    if "A" in found.mode or "transparency" in found.info:
        found = found.convert("RGBA")
        white = _images().new("RGBA", found.size, (255, 255, 255, 255))
        white.alpha_composite(found)
        found = white.convert("RGB")
    elif found.mode not in _PLAIN:
        found = found.convert("L" if found.mode == "1" else "RGB")
    found = found.convert(mode)
    found.load()
    return _upright(found, turned)


def _shallow(opened: Any) -> Any:
    """Return a grey picture of 16 bits with 8, to the nearest."""
    deep = np.asarray(opened).astype(np.int64)
    if isinstance(clear := opened.info.get("transparency"), int):
        deep[deep == clear] = _DEEP
    if opened.format == "TIFF" and opened.tag_v2.get(_INK) == 0:
        deep = _DEEP - deep
    shallow = (deep.clip(0, _DEEP) * 255 + _DEEP // 2) // _DEEP
    return _images().fromarray(shallow.astype(np.uint8))


def _orientation(opened: Any) -> int:
    try:
        return int(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged note beside a sound picture
        return 1


def _upright(found: Any, orientation: int) -> Any:
    ways = _images().Transpose
    turns = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }
    return found.transpose(turns[orientation]) if orientation in turns else found


_SPREAD = {"L;2": 85, "L;4": 17}  # what PIL multiplies small numbers with
_NUMBERS = ("1", "L", "P", "RGB")


def class_map(path: str, *, coloured: bool = False) -> Any:
    """Return the pixels of a mask as they are stored, upright: (H, W) uint8, or (H, W, 3) where they are colours.

    Args:
        path: of the mask.
        coloured: whether palettes are taken for the colours in them; they are for their numbers otherwise.

    Raises:
        DataError: naming the file, if it cannot be read, or not hold class numbers as they were meant.
    """
    with _opened(path) as opened:
        refusal = _why_no_mask(opened)
        if not refusal:
            turned = _orientation(opened)
            if coloured and opened.mode == "P":
                return np.asarray(_upright(opened.convert("RGB"), turned))
            spread = _SPREAD.get(str(opened.tile[0].args), 1) if opened.tile else 1
            return np.asarray(_upright(opened, turned)).astype(np.uint8) // np.uint8(spread)
    raise DataError(f"the mask '{path}' {refusal}")


def _why_no_mask(opened: Any) -> str:
    if _pages(opened) > 1:
        return "holds several pictures: save the one that is meant"
    if opened.format in ("JPEG", "MPO"):
        return "is a JPEG, which changes numbers a little: save masks as PNG"
    if opened.mode.startswith(("I", "F")):
        return "holds numbers of more than 8 bits: class numbers are 0 to 255, so save it with 8 bits"
    if opened.mode not in _NUMBERS:
        return f"has the mode {opened.mode}, neither class numbers nor colours: save it in grey, or with a palette"
    return ""
