"""Model inputs of any structure out of what arrays and loaders hold: labels go, pixels are scaled, shapes checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from secateur.core.surgery.forward import listed
from secateur.data.arrays import CHANNELS, images_of, tensor_of
from secateur.data.augment import normalise, scaling
from secateur.data.dataset import constants
from secateur.data.folder import GREY, IMAGENET
from secateur.errors import DataError
from secateur.measure.forward import ExampleInputs, refilled, table_like, tensors, tuple_like
from secateur.spelling import said

Inputs = ExampleInputs
_CPU = torch.device("cpu")
_UNLIKE = object()
_WHAT = "the calibration images"


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a network takes.

    Attributes:
        example: inputs that it runs on, on the CPU, their first dimension the images; None where they are not known.
        mean: per channel, for pixels in 0..1; None for ImageNet's.
        std: the same.
        any_size: whether images may have another height and width than those of the example.
    """

    example: Inputs | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    any_size: bool = False

    def scale(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation for images of so many channels.

        Raises:
            DataError: if there are none, or not one for each channel.
        """
        if self.mean is not None and self.std is not None:
            return constants(self.mean, self.std, channels)
        if channels != len(IMAGENET[0]):
            both = said("secateur.data.load_calibration(..., mean=, std=)", "--mean, --std", "'mean' and 'std'")
            raise DataError(
                f"images of {channels} channel(s) have no usual mean and standard deviation: name both ({both}), or "
                "give the network's data"
            )
        return IMAGENET

    def scaling(self) -> str:
        """Return whose mean and standard deviation these are, in words."""
        if (self.mean, self.std) == GREY:
            return "ImageNet's mean and deviation, those of grey"
        return "ImageNet's mean and deviation" if self.mean is None else "the given mean and deviation"


def plain(item: Any) -> Any:
    """Return a structure with its arrays as tensors on the CPU, and with tuples for lists.

    Raises:
        DataError: if an array does not hold numbers.
    """
    if isinstance(item, Tensor | np.ndarray):
        return tensor_of(cast("Tensor", item))
    if isinstance(item, Mapping):
        entries = cast("Mapping[Any, Any]", item)
        return table_like(entries, {key: plain(value) for key, value in entries.items()})
    if isinstance(item, tuple | list):
        values = cast("tuple[Any, ...]", item)
        return tuple_like(values, map(plain, values))
    return item


def fitted(item: Any, wanted: Wanted, *, single: bool = False) -> Inputs:
    """Return a batch as a network takes it: its structure, without labels, float32 unless the network says otherwise.

    Where the network's inputs are known, they decide what is an input and what a label, and an item with one dimension
    less is a single image. Where they are not, the second of two is a label if it is one integer for each image.
    Images in uint8 are raw pixels where a network takes floating point: their channels are found and they are
    normalised. Everything else is taken to be what the forward takes, and is only converted.

    Args:
        item: what an array or a loader holds: tensors or arrays, in tuples, lists or mappings.
        wanted: what the network takes.
        single: whether items are single images where the network's inputs do not tell.

    Raises:
        DataError: if it does not fit.
    """
    if wanted.example is not None and (like := listed(wanted.example)) is not None:
        wanted = replace(wanted, any_size=True)  # which is what lists are for
        return ([_fitted(it[None], like[0][None], wanted, _WHAT)[0] for it in _images(item)],)
    item = plain(item)
    found = unlabelled(item, wanted.example)
    leaves = list(tensors(found))
    if not leaves:
        raise DataError(
            f"the calibration images are of type {type(item).__name__}: give tensors or arrays of numbers, or the "
            "folder of the pictures"
        )
    if wanted.example is None:
        likes: list[Tensor | None] = [None] * len(leaves)
        single = single or (found is not item and isinstance(item, tuple) and _rank(item[-1]) == 0)
    else:
        likes = list(tensors(wanted.example))
        pairs = list(zip(leaves, tensors(wanted.example), strict=True))
        single = all(leaf.dim() == like.dim() - 1 and not _lacks_channel(leaf, like) for leaf, like in pairs)
    names = [f"input {number} of the calibration images" for number in range(1, len(leaves) + 1)]
    names = names if len(leaves) > 1 else [_WHAT]
    made = [
        _fitted(leaf.unsqueeze(0) if single else leaf, like, wanted, name)
        for leaf, like, name in zip(leaves, likes, names, strict=True)
    ]
    counts = [len(leaf) for leaf in made]
    if len(set(counts)) > 1:
        raise DataError(f"the inputs hold {' and '.join(map(str, counts))} images: give as many of each")
    return refilled(found, iter(made))


def unlabelled(item: Any, example: Inputs | None) -> Any:
    """Return the inputs in what a loader yields, in the structure of the example if there is one.

    Raises:
        DataError: if nothing in it has the structure of the example.
    """
    if example is None:
        alone = isinstance(item, tuple) and len(cast("tuple[Any, ...]", item)) == 1
        return item[0] if alone or has_labels(item) else item
    for choice in _choices(item, example):
        found = _like(choice, example)
        if found is not _UNLIKE:
            return found
    raise DataError(
        f"the calibration images are {_structure(item)}, but the network takes {_structure(example)}: give inputs as "
        "its forward takes them"
    )


def _images(item: Any) -> list[Tensor]:
    """Return the single images in an item for a network that takes a list of them."""
    found = listed(item)
    if found is not None:
        return found
    pair = cast("tuple[Any, ...]", item) if isinstance(item, tuple | list) else ()
    if pair and not isinstance(item[0], Tensor | np.ndarray):
        return _images(pair[0])
    first = plain(pair[0] if pair else item)
    if isinstance(first, Tensor) and first.dim() in (3, 4):
        return [first] if first.dim() == 3 else list(first.unbind())
    raise DataError(f"{_WHAT} are {_structure(plain(item))}, but the network takes a list of images (C, H, W) each")


def has_labels(item: Any) -> bool:
    """Tell whether an item is a pair of which the second is one integer for each image of the first."""
    pair = cast("tuple[Any, ...]", item) if isinstance(item, tuple) else ()
    if len(pair) != 2 or _rank(pair[1]) is None:
        return False
    first = next(tensors(pair[0]), None)
    return first is not None and (_rank(pair[1]) == 0 or (first.dim() > 1 and pair[1].shape == first.shape[:1]))


def is_image(item: Any) -> bool:
    """Tell whether a tensor, of which nothing else is known, is a single image with its channels first, or a vector."""
    found = plain(item)
    if isinstance(found, Tensor) and found.dim() == 1:
        return found.is_floating_point()
    first = next(tensors(found), None)
    return first is not None and first.dim() == 3 and first.shape[0] in CHANNELS


def _rank(label: object) -> int | None:
    """Return 0 for a whole number and 1 for a vector of them; None for anything else."""
    if isinstance(label, int) and not isinstance(label, bool):
        return 0
    whole = isinstance(label, Tensor) and not label.is_floating_point() and not label.is_complex()
    return label.dim() if isinstance(label, Tensor) and whole and label.dim() < 2 else None


def _choices(item: Any, example: Inputs) -> Iterator[Any]:
    """Yield what may be the inputs in an item, the most likely first."""
    yield item
    if isinstance(item, Tensor) and len(list(tensors(example))) == 1:
        yield refilled(example, iter([item]))
    if isinstance(item, tuple) and item:
        first, *_ = cast("tuple[Any, ...]", item)
        yield first
        if isinstance(first, Tensor) and len(list(tensors(example))) == 1:
            yield refilled(example, iter([first]))
        if isinstance(example, tuple):
            yield item[: len(example)]


def _like(item: Any, example: Any) -> Any:
    """Return the tensors of an item in the structure of the example, ``_UNLIKE`` if it has another structure."""
    if isinstance(example, Tensor):
        return item if isinstance(item, Tensor) else _UNLIKE
    if isinstance(example, Mapping):
        entries = cast("Mapping[Any, Any]", example)
        theirs = cast("Mapping[Any, Any]", item) if isinstance(item, Mapping) else {}
        found = {key: _like(theirs[key], value) if key in theirs else _UNLIKE for key, value in entries.items()}
        return _UNLIKE if any(value is _UNLIKE for value in found.values()) else table_like(entries, found)
    if isinstance(example, tuple):
        values = cast("tuple[Any, ...]", example)
        if not isinstance(item, tuple) or len(cast("tuple[Any, ...]", item)) != len(values):
            return _UNLIKE
        parts = tuple(_like(one, value) for one, value in zip(cast("tuple[Any, ...]", item), values, strict=True))
        return _UNLIKE if any(one is _UNLIKE for one in parts) else tuple_like(values, parts)
    return example  # what is no tensor is the same for all images


def _structure(item: Any) -> str:
    if isinstance(item, Tensor):
        return "one tensor"
    if isinstance(item, Mapping):
        return f"a dict of {', '.join(str(key) for key in cast('Mapping[Any, Any]', item))}"
    if isinstance(item, tuple):
        return f"a tuple of {len(cast('tuple[Any, ...]', item))}"
    return f"of type {type(item).__name__}"


def _lacks_channel(leaf: Tensor, like: Tensor) -> bool:
    """Tell whether grey images come without the dimension of their one channel."""
    return (
        like.dim() == 4
        and leaf.dim() == 3
        and like.shape[1] == 1
        and leaf.shape[0] != 1
        and leaf.shape[1:] == like.shape[2:]
    )


def _fitted(leaf: Tensor, like: Tensor | None, wanted: Wanted, name: str) -> Tensor:
    """Return one input with the type that the network takes, normalised if it was raw pixels."""
    if like is not None and _lacks_channel(leaf, like):
        leaf = leaf.unsqueeze(1)
    floating = leaf.is_floating_point() if like is None else like.is_floating_point()
    _check_pixels(leaf, like, floating, name)
    pixels = leaf.dtype == torch.uint8 and leaf.dim() > 2 and (like is None or (floating and like.dim() == 4))
    if pixels:
        channels = -1 if like is None else like.shape[1]
        last = leaf.dim() == 4 and leaf.shape[3] == channels != leaf.shape[1]
        leaf = images_of(leaf, "calibration", "auto" if like is None else "NHWC" if last else "NCHW")
    if leaf.dim() == 0:
        raise DataError(f"{name} are a single number: give tensors whose first dimension is the images")
    if like is not None:
        _check_shape(leaf, like, wanted.any_size, name)
    if pixels:
        mean, std = wanted.scale(leaf.shape[1])
        leaf = normalise(leaf, *scaling(mean, std, leaf.dtype, _CPU))
    if leaf.is_complex() or (like is not None and leaf.is_floating_point() != floating):
        takes = "real numbers" if like is None else _kind(like)
        remedy = "convert them to normalised floats, or give uint8 pixels" if floating else "convert them"
        raise DataError(f"{name} are {_kind(leaf)} where the network takes {takes}: {remedy}")
    if like is not None:
        return leaf.to(like.dtype)
    return leaf.to(torch.float32) if leaf.is_floating_point() else leaf


def _check_pixels(leaf: Tensor, like: Tensor | None, floating: bool, name: str) -> None:
    """Refuse images in another type than floating point and uint8, before anything is said of their layout."""
    if leaf.dim() != 4 or leaf.dtype == torch.uint8 or leaf.is_floating_point():
        return
    coloured = bool({leaf.shape[1], leaf.shape[3]}.intersection(CHANNELS))
    image = coloured if like is None else floating and like.dim() == 4
    if image:
        takes = "" if like is None else f" where the network takes {_kind(like)}"
        known = f", or example inputs if the network takes {_kind(leaf)}" if like is None else ""
        raise DataError(
            f"{name} are {_kind(leaf)}{takes}: give uint8 pixels (0 to 255), their channels first or last, or floating "
            f"point as the network takes it, normalised and with the channels first{known}"
        )


def _check_shape(leaf: Tensor, like: Tensor, any_size: bool, name: str) -> None:
    here, there = tuple(leaf.shape[1:]), tuple(like.shape[1:])
    if here == there or (any_size and len(here) == len(there) == 3 and here[0] == there[0]):
        return
    remedy = "give batches whose first dimension is the images"
    if len(here) == len(there):
        remedy = "resize them, or give example inputs of their size"
        if len(here) == 3 and here[2] == there[0] != here[0] and (any_size or here[:2] == there[1:]):
            remedy = "put the channels first, as permute(0, 3, 1, 2) does"
        elif here[0] != there[0]:
            channels = f"give {there[0]} channel{'' if there[0] == 1 else 's'}"
            remedy = channels if len(here) > 1 else "give as many numbers"
    raise DataError(f"{name} are of shape {here} each where the network takes {there}: {remedy}")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
