"""Small pictures as text, each stored once, and the colours that classes have."""

from __future__ import annotations

import base64
import colorsys
import importlib.util
import io
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

_SLACK = 0.01  # by which rounding may leave 0..1
_SMALL = 64  # pixels of the longer side up to which nothing is lost in storing
_OVER = 150  # of 255, how opaque colours over a picture are
_TURN = 0.618034  # of the colour circle from one class to the next: the golden section keeps them apart
_LIGHT = (0.5, 0.36, 0.68)
_GREY = "#8c8c8c"


def can_draw() -> bool:
    """Tell whether the library that stores pictures is installed."""
    return importlib.util.find_spec("PIL") is not None


def colour(number: int) -> str:
    """Return the colour of a class as ``#rrggbb``; the first, often the background, is grey."""
    if number == 0:
        return _GREY
    light = _LIGHT[number // 8 % len(_LIGHT)]
    parts = colorsys.hls_to_rgb((number - 1) * _TURN % 1.0, light, 0.75)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def visible(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return what a person sees of a network's input, (1 or 3, H, W) in 0..1, on the CPU.

    Pixels that are still outside of 0..1 when the normalisation is undone are stretched over it; of other than one or
    three channels the mean is shown.

    Args:
        image: (C, H, W).
        mean: what was taken from each channel.
        std: what each channel was divided by after that.
    """
    pixels = image.detach().cpu().float().nan_to_num(0.0, 0.0, 0.0)
    if len(pixels) == len(mean) == len(std):
        pixels = pixels * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    if len(pixels) not in (1, 3):
        pixels = pixels.mean(dim=0, keepdim=True)
    low, high = (float(end) for end in pixels.aminmax())
    if low < -_SLACK or high > 1 + _SLACK:
        pixels = (pixels - low) / max(high - low, torch.finfo(torch.float32).tiny)
    return pixels.clamp(0, 1)


class Album:
    """Pictures of at most one size.

    Args:
        side: pixels of the longer side; larger ones are made smaller.
        quality: of JPEG.
    """

    def __init__(self, side: int, quality: int) -> None:
        self.side = side
        self.pictures: list[dict[str, Any]] = []
        self.classes: set[int] = set()  # which have been drawn
        self._quality = quality
        self._known: dict[Hashable, int] = {}

    def photo(self, key: Hashable, pixels: Tensor) -> int:
        """Store a picture, and return its number; the same number for the same key.

        Args:
            key: which picture it is.
            pixels: (1 or 3, H, W) in 0..1.
        """
        from PIL import Image

        if key not in self._known:
            raw = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
            found = Image.fromarray(raw[0].numpy() if len(raw) == 1 else raw.permute(1, 2, 0).contiguous().numpy())
            found.thumbnail((self.side, self.side))
            small = max(found.size) <= _SMALL
            how = {"optimize": True} if small else {"quality": self._quality, "optimize": True}
            self._known[key] = self._added(found, "png" if small else "jpeg", how)
        return self._known[key]

    def overlay(self, classes: Tensor, like: int) -> int:
        """Store colours that lie over a picture, and return their number.

        Args:
            classes: (H, W) int64; those below 0 stay clear.
            like: number of the picture.
        """
        from PIL import Image

        width, height = self.size(like)
        rows = (torch.arange(height) * classes.shape[0]).div(height, rounding_mode="floor")
        columns = (torch.arange(width) * classes.shape[1]).div(width, rounding_mode="floor")
        thin = classes[rows][:, columns]
        seen: list[int] = thin.unique().tolist()
        self.classes.update(number for number in seen if number >= 0)
        places = torch.searchsorted(torch.tensor(seen), thin).clamp(max=255)
        found = Image.fromarray(places.to(torch.uint8).numpy())
        # a palette has no more than 256 entries
        colours = [bytes.fromhex(colour(max(number, 0))[1:]) for number in seen[:256]]
        found.putpalette(b"".join(colours))
        clear = bytes(0 if number < 0 else _OVER for number in seen[:256])
        return self._added(found, "png", {"optimize": True, "transparency": clear})

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height of a picture."""
        return self.pictures[number]["width"], self.pictures[number]["height"]

    def _added(self, found: Any, kind: str, how: Mapping[str, Any]) -> int:
        file = io.BytesIO()
        found.save(file, kind, **how)
        data = base64.b64encode(file.getvalue()).decode()
        self.pictures.append({"type": kind, "width": found.size[0], "height": found.size[1], "data": data})
        return len(self.pictures) - 1
