"""Unlabelled images to choose, share out and repair by: a few hundred model inputs, from wherever they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from secateur.arguments import checked
from secateur.core.surgery.forward import ends, listed
from secateur.data.arrays import is_bare
from secateur.data.duplicates import NORMALISED, SAMPLES, distinct, images_in, largest
from secateur.data.inputs import Inputs, Wanted, fitted, plain
from secateur.data.unlabelled import opened
from secateur.errors import DataError
from secateur.measure.forward import joinable, joined, length, part, refilled, tensors, yielded
from secateur.rules import PATH, Images, Rule, Seed, Side, Workers
from secateur.typed import check_types

FEWEST, MOST = 64, 1000
"""How many images are useful: below the first a fit follows the accidents of a few, above the second little changes."""

COUNT = 1000
BATCH = 128
BYTES = 64 << 20  # of one batch
SOURCE = Rule(
    lambda value: PATH.accepts(value) if isinstance(value, str | Path) else ends(value) and not is_bare(value),
    "a folder of pictures, an array or a file of arrays, a data loader, or an iterable of model inputs",
)
_EXAMPLE = Rule(ends, "what the network takes")


@checked
@dataclass(frozen=True, eq=False)
class Calibration:
    """Model inputs without labels.

    Attributes:
        batches: each exactly as the network's forward takes it: a tensor, a tuple of positional or a dict of keyword
            arguments. The first dimension of every tensor is the images; float32 unless the network takes something
            else. On the CPU.
        count: images in all batches together.
        source: where they are from and what was done to them, in words.
        mean: per channel, with which raw pixels were normalised; None where they came as the forward takes them.
        std: the same.
        lost: what could not be read, a sentence for each.
        doubt: what is doubtful about how they were read, a sentence; empty for nothing.
    """

    batches: tuple[Inputs, ...] = field(repr=False)
    count: int
    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    lost: tuple[str, ...] = field(default=(), repr=False)
    doubt: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_types(self)

    @cached_property
    def _distinct(self) -> list[Tensor]:
        return distinct(self.batches)

    @cached_property
    def different(self) -> int:
        """How many images there are without repeats and images of a single colour."""
        return sum(int(kept.sum()) for kept in self._distinct)

    @property
    def few(self) -> bool:
        """Whether there are fewer images than is advised."""
        return self.different < FEWEST

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Return what is wrong with the images, and what to do, a sentence for each; there may be nothing."""
        found: list[str] = []
        if self.few:
            found.append(self.note)
        if self.doubt:
            found.append(self.doubt)
        if self.lost:
            first, *more = self.lost
            others = f", and {len(more)} more" if more else ""
            found.append(f"{first}{others}; the images that can be read are used")
        if (most := largest(self.batches)) > NORMALISED:
            found.append(
                f"the calibration images hold values up to {most:.4g}, as pixels that nobody has normalised: give them "
                "as uint8 with mean and std, or normalised as those that the network was trained with, unless that was "
                "on such values"
            )
        return tuple(found)

    @property
    def note(self) -> str:
        """Return one sentence: how many images were used, and what more would bring."""
        if self.few:
            return f"{self.used}: at least {FEWEST} are advised, and up to {MOST:,} make the result more accurate"
        more = f"up to {MOST:,} win a little more" if self.count < MOST else "more would change little"
        return f"{self.used}: {more}"

    @property
    def used(self) -> str:
        """Return how many images there are, and from where."""
        used = f"{self.count:,} unlabelled image{'' if self.count == 1 else 's'} ({self.source})"
        return used if self.different else f"{used}, each of a single colour"

    def without_repeats(self) -> Calibration:
        """Return the images without repeats and images of a single colour, but for a lack of any others.

        Whatever holds images out would hold out what it has seen.
        """
        less = self.count - self.different
        if not less or not self.different:
            return self
        kept = [part(batch, rows) for batch, rows in zip(self.batches, self._distinct, strict=True)]
        source = f"{self.source}, without {less:,} repeats and images of a single colour"
        return replace(self, batches=tuple(it for it in kept if length(it)), count=self.different, source=source)

    def example(self) -> Inputs:
        """Return the first image, as a batch of one."""
        return part(self.batches[0], slice(0, 1))

    def of_type(self, dtype: torch.dtype) -> Calibration:
        """Return the same images, the numbers of floating point in another type."""
        batches = (
            refilled(batch, (it.to(dtype) if it.is_floating_point() else it for it in tensors(batch)))
            for batch in self.batches
        )
        return replace(self, batches=tuple(batches))

    def at_most(self, count: int) -> Calibration:
        """Return the first images, so many of them; they share memory with these."""
        kept: list[Inputs] = []
        left = count
        for batch in self.batches:
            if left > 0:
                kept.append(part(batch, slice(0, left)))
                left -= length(kept[-1])
        return replace(self, batches=tuple(kept), count=count - max(left, 0))

    def digest(self) -> str:
        """Return a short text that other images do not have; a few numbers of each batch are looked at."""
        found = hashlib.sha256(str(self.count).encode())
        for batch in self.batches:
            for tensor in tensors(batch):
                step = max(1, tensor.numel() // SAMPLES) | 1  # odd, so that it does not stay in one column of a map
                some = tensor.reshape(-1)[::step].contiguous()
                found.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                found.update(some.view(torch.uint8).numpy().data)
        return found.hexdigest()[:12]


@checked
def load_calibration(
    source: Annotated[Any, SOURCE],
    *,
    count: Images = COUNT,
    seed: Seed = 0,
    example: Annotated[Any, _EXAMPLE] = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: Side | None = None,
    default_size: Side = 224,
    workers: Workers = None,
) -> Calibration:
    """Return unlabelled images for a network.

    Args:
        source: where they are: a folder of pictures (searched to any depth; a folder ``train`` in it alone, where there
            is one), a ``.npy``, ``.npz`` or ``.safetensors`` file, an array or tensor, several of them in a tuple or
            dict for a network of several inputs, a ``Data`` (its training images), a torch DataLoader or Dataset, or
            any iterable of model inputs. Arrays of uint8 are raw pixels; those of other types are what the forward
            takes. Labels beside the inputs are dropped.
        count: how many images to use, if there are as many. They are drawn at random where the source can be indexed;
            of others the first ones are taken, and no more are read.
        seed: of the draw.
        example: inputs that the network runs on, which say what is an input, of what type and size; None if unknown.
        mean: per channel, for raw pixels in 0..1; that of a ``Data``, else ImageNet's if None. A single one makes the
            pictures of a folder grey, as does an example of one channel.
        std: the same; named together with the mean.
        image_size: height and width to which pictures in files are resized, as for evaluation. None for those of the
            example; without one, small pictures of one size stay as they are.
        default_size: height and width of pictures where nothing else says it.
        workers: processes that read pictures; chosen by the machine if None.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        SettingError: if a setting is out of range.
        SecateurError: if pictures are to be read and torchvision is not installed.

    Example:
        >>> calibration = load_calibration(torch.rand(200, 3, 32, 32), count=100)
        >>> calibration.count, len(calibration.batches)
        (100, 1)
    """
    if (mean is None) != (std is None):
        raise DataError("mean and std belong together: name both, or neither")
    known = example if example is None or listed(example) is not None else plain(example)
    wanted = Wanted(known, None if mean is None else tuple(mean), None if std is None else tuple(std))
    if isinstance(source, Calibration):
        return _checked(source, wanted)
    size = (image_size, default_size)
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)  # of loaders that shuffle
        read = opened(source, wanted, count, seed, size, workers)
        raw = list[bool]()
        batches = tuple(
            _batches(_noted(yielded(read.items, "the calibration images"), raw), read.wanted, count, read.single)
        )
    if not batches and read.lost:
        raise DataError(f"none of {len(read.lost)} pictures can be read; the first: {read.lost[0]}")
    if not batches:
        raise DataError(f"there are no images in {read.name}: give some, {FEWEST} to {MOST:,} if you can")
    used: tuple[tuple[float, ...] | None, tuple[float, ...] | None] = (None, None)
    images, source = next(iter(images_in(batches[0])), None), read.name
    if images is not None and (read.scaled or any(raw)):
        used = read.wanted.scale(images.shape[1])
    if images is not None and not read.scaled:
        source += f", normalised with {read.wanted.scaling()}" if any(raw) else ", not normalised here"
    found = Calibration(batches, sum(map(length, batches)), source, *used, tuple(read.lost), read.doubt)
    return found.without_repeats() if found.few else found


def _noted(items: Iterator[Any], raw: list[bool]) -> Iterator[Any]:
    """Yield items, and note of the first whether it holds raw pixels."""
    for item in items:
        if not raw:
            raw.append(any(it.dtype == torch.uint8 and it.dim() > 2 for it in tensors(plain(item))))
        yield item


def _checked(given: Calibration, wanted: Wanted) -> Calibration:
    """Return images that were loaded before, in the structure of these inputs; their size was chosen then."""
    if not given.batches:
        raise DataError("the calibration holds no images: give some")
    for batch in given.batches:
        _refuse_infinite(batch)
    if wanted.example is None:
        return given
    wanted = replace(wanted, any_size=True)
    batches = tuple(fitted(batch, wanted) for batch in given.batches)
    return replace(given, batches=batches, count=sum(map(length, batches)))


def _batches(items: Iterator[Any], wanted: Wanted, count: int, single: Callable[[Any], bool]) -> Iterator[Inputs]:
    """Yield batches of an even size, of ``count`` images in all; items are read one by one and no further."""
    waiting: list[Inputs] = []
    held, left, most = 0, count, BATCH
    for item in items:
        now = fitted(item, wanted, single=single(item))
        now = part(now, slice(0, left))
        if length(now) == 0:
            continue
        if not any(tensor.numel() for tensor in tensors(now)):
            raise DataError("the calibration images hold no pixels: repair or remove those images")
        if wanted.example is None:  # what comes next must be alike
            wanted = replace(wanted, example=part(now, slice(0, 1)))
        if waiting and not joinable((waiting[0], now)):  # images of another size, which the network takes as well
            yield from _split(joined(waiting), most)
            waiting, held = [], 0
        if not waiting:
            most = _largest(now)
        waiting.append(now)
        held += length(now)
        left -= length(now)
        if held >= most:
            *whole, rest = _split(joined(waiting), most)
            yield from whole
            waiting, held = [rest], length(rest)
        if left == 0:
            break
    if waiting:
        yield from _split(joined(waiting), most)


def _split(inputs: Inputs, most: int) -> list[Inputs]:
    """Return finite inputs in batches of at most so many images."""
    _refuse_infinite(inputs)
    return [part(inputs, slice(at, at + most)) for at in range(0, length(inputs), most)]


def _refuse_infinite(inputs: Inputs) -> None:
    for tensor in tensors(inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError("the calibration images hold NaN or infinite values: repair or remove those images")


def _largest(inputs: Inputs) -> int:
    """Return how many images a batch may have."""
    first = list(tensors(part(inputs, slice(0, 1))))
    return max(1, min(BATCH, BYTES // max(1, sum(it.numel() * it.element_size() for it in first))))
