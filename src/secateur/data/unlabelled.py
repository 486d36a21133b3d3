"""Where unlabelled images can be: data sets, files, arrays and loaders, none read further than it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from secateur import reading
from secateur.data import array_files as arrays_in
from secateur.data.dataset import Data
from secateur.data.inputs import Inputs, Wanted, is_image, plain, unlabelled
from secateur.data.loaders import LoaderSource
from secateur.data.order import Order
from secateur.data.picture_source import PictureSource
from secateur.data.splits import mixed
from secateur.data.unlabelled_folder import of_folder
from secateur.errors import DataError
from secateur.measure.forward import part, refilled, table_like, tensors, tuple_like, yielded

CHUNK = 128
ENDINGS = (".npy", ".npz", ".safetensors")

Single = Callable[[Any], bool]


@dataclass(frozen=True, eq=False)
class Read:
    """A source that was opened.

    Attributes:
        items: what it holds, batch by batch or image by image, with labels or without.
        name: where that is from, in words.
        wanted: what the network takes, as far as the source does not say otherwise.
        single: tells whether an item is a single image, where the network's inputs do not tell.
        scaled: whether the items were raw pixels and are normalised already, with the constants that are wanted.
        lost: fills up with the names of what cannot be read, while the items are.
        doubt: what is doubtful about all of it; empty for nothing.
    """

    items: Iterator[Any]
    name: str
    wanted: Wanted
    single: Single = lambda item: False
    scaled: bool = False
    lost: list[str] = field(default_factory=list[str])
    doubt: str = ""


def opened(
    source: Any, wanted: Wanted, count: int, seed: int, size: tuple[int | None, int], workers: int | None
) -> Read:
    """Open a source of unlabelled images, see ``load_calibration``.

    Raises:
        DataError: if it is missing, damaged or nothing that holds images.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            lost = list[str]()
            images, name, used, doubt = of_folder(path, wanted, count, seed, size, workers, lost)
            return Read(images, name, replace(used, any_size=True), scaled=True, lost=lost, doubt=doubt)
        return _of_arrays(_file(path, wanted.example), f"'{path}'", wanted, count, seed)
    if isinstance(source, Data):
        own = not isinstance(source.source, LoaderSource)  # which has normalised by itself, nobody knows how
        wanted = replace(wanted, any_size=True, **({"mean": source.mean, "std": source.std} if own else {}))
        items = _of_data(source, count, seed)
        first = next(items, None)
        if wanted.example is None and first is not None and not isinstance(first, Tensor):
            wanted = replace(wanted, example=part(first, slice(0, 1)))  # no input may pass for a label
        items = chain(() if first is None else (first,), items)
        return Read(items, f"training images of {source.name}", wanted, scaled=own)
    if isinstance(source, DataLoader):
        return Read(_of_loader(cast("DataLoader[Any]", source), count, seed), "a data loader", wanted)
    if _is_arrays(source, wanted.example):
        return _of_arrays(source, "arrays", wanted, count, seed)
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        if not isinstance(source, Sized):
            raise DataError("the data set for calibration has no length: give it one, or a data loader of it")
        return Read(_of_items(cast("Any", source), seed), "a data set", wanted, lambda item: True)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return Read(_of_items(cast("Sequence[Any]", source), seed), "a list of inputs", wanted, is_image)
    if isinstance(source, Iterable):
        items = yielded(cast("Iterable[Any]", source), "the calibration images")
        return Read(items, "an iterable of inputs, its first ones", wanted, is_image)
    raise DataError(
        f"{type(source).__name__} holds no images: give a folder of pictures, an array or a file of arrays, a data "
        "loader, or an iterable of model inputs"
    )


def _of_data(data: Data, count: int, seed: int) -> Iterator[Any]:
    """Yield inputs of training examples drawn by the seed; of pictures in files only as many as are wanted are read."""
    source = data.source
    if isinstance(source, PictureSource):
        some = source.only("train", mixed(source.size("train"), seed)[:count])
        batches = some.batches(Order("test", CHUNK, "none", False, seed, torch.device("cpu"), 0, 1))
    else:
        batches = data.batches("train", CHUNK, shuffle=not isinstance(source, LoaderSource), seed=seed)
    for batch in batches:
        yield data.task.inputs(batch)


def _of_loader(loader: DataLoader[Any], count: int, seed: int) -> Iterator[Any]:
    """Yield what a loader yields; of one that goes through its whole data set, images drawn by the seed."""
    whole = type(loader) is DataLoader and type(loader.sampler) in (SequentialSampler, RandomSampler)
    data: Any = loader.dataset
    if not whole or loader.batch_size is None or not isinstance(data, Sized):
        return yielded(loader, "the calibration images")
    chosen: list[int] = mixed(len(data), seed)[:count].tolist()
    again = DataLoader(
        cast("Dataset[Any]", data),
        batch_size=min(loader.batch_size, CHUNK),
        sampler=chosen,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=cast("Any", loader).multiprocessing_context,
        generator=torch.Generator().manual_seed(seed),
    )
    return yielded(again, "the calibration images")


def _of_items(items: Any, seed: int) -> Iterator[Any]:
    """Yield the items of a sequence in an order drawn by the seed."""
    order: list[int] = mixed(len(items), seed).tolist()
    for place in order:
        yield items[place]


def _is_arrays(source: Any, example: Inputs | None) -> bool:
    """Tell whether a source is the inputs of many images at once, and no sequence of inputs."""
    if isinstance(source, Tensor | np.ndarray | Mapping):
        return True
    values = cast("Sequence[Any]", source) if isinstance(source, tuple | list) else ()
    if isinstance(source, tuple) and len(values) == 2 and _labelled(values[0], values[1]):
        return True
    if not values or not all(isinstance(value, Tensor | np.ndarray) for value in values):
        return False
    if isinstance(example, tuple):
        ranks = [tensor.dim() for tensor in tensors(example)]
        found = [value.ndim for value in values[: len(ranks)]]
        return found in (ranks, [rank - 1 for rank in ranks])
    return isinstance(source, tuple) and example is None


def _labelled(inputs: Any, labels: Any) -> bool:
    """Tell whether there is one whole number for each row of the inputs."""
    first = next(_leaves(inputs), None)
    vector = isinstance(labels, Tensor | np.ndarray) and labels.ndim == 1 and _whole(labels)
    return first is not None and vector and first.ndim > 1 and len(first) == len(labels)


def _of_arrays(arrays: Any, name: str, wanted: Wanted, count: int, seed: int) -> Read:
    """Return images drawn by the seed from arrays with one row for each; only these rows are copied."""
    leaves = list(_leaves(arrays))
    if not leaves:
        raise DataError(f"{name} hold no arrays: give tensors or arrays of numbers")
    if any(leaf.ndim == 0 for leaf in leaves):
        raise DataError(f"{name} hold a single number: give arrays whose first dimension is the images")
    like = None if wanted.example is None else next(tensors(wanted.example), None)
    if like is not None and tuple(leaves[0].shape) == tuple(like.shape[1:]):
        return Read(iter([arrays]), name, wanted)  # one image
    sizes = [len(leaf) for leaf in leaves]
    if len(set(sizes)) > 1:
        raise DataError(f"{name} hold {' and '.join(map(str, sizes))} rows: give one row for each image")
    rows = mixed(sizes[0], seed)[:count]

    def drawn() -> Iterator[Any]:
        for some in rows.split(CHUNK):
            yield _rows(arrays, some)

    return Read(drawn(), name, wanted)


def _leaves(arrays: Any) -> Iterator[Any]:
    if isinstance(arrays, Tensor | np.ndarray):
        yield arrays
    elif isinstance(arrays, Mapping):
        for value in cast("Mapping[Any, Any]", arrays).values():
            yield from _leaves(value)
    elif isinstance(arrays, tuple | list):
        for value in cast("Sequence[Any]", arrays):
            yield from _leaves(value)


def _rows(arrays: Any, rows: Tensor) -> Any:
    """Return some rows of every array."""
    if isinstance(arrays, Tensor):
        return arrays.detach()[rows.to(arrays.device)]
    if isinstance(arrays, np.ndarray):
        return arrays[rows.numpy()]
    if isinstance(arrays, Mapping):
        entries = cast("Mapping[Any, Any]", arrays)
        return table_like(entries, {key: _rows(value, rows) for key, value in entries.items()})
    if isinstance(arrays, tuple | list):
        parts = cast("tuple[Any, ...]", arrays)
        return tuple_like(parts, (_rows(value, rows) for value in parts))
    return arrays


def _file(path: Path, example: Inputs | None) -> Any:
    """Return the arrays in a file in the structure of a network's inputs."""
    if not path.is_file():
        raise DataError(f"there is no folder or file '{path}': give a folder of pictures or a file of arrays")
    if path.suffix not in ENDINGS:
        raise DataError(
            f"'{path}' is no file of arrays, which end in {', '.join(ENDINGS)}: give such a file, or the folder of the "
            "pictures"
        )
    try:
        if path.suffix == ".npy":
            return arrays_in.npy(path)
        found: dict[str, Any] = arrays_in.npz(path) if path.suffix == ".npz" else arrays_in.safetensors_in(path)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        line = reading.shown(error)
        raise DataError(f"'{path}' cannot be read ({line}): it is damaged, or holds more than numbers") from error
    return _arranged(found, path, example)


def _arranged(found: Mapping[str, Any], path: Path, example: Inputs | None) -> Any:
    """Return named arrays as one, a tuple or a dict, without labels."""
    if isinstance(example, Mapping):
        return unlabelled({name: plain(array) for name, array in found.items()}, example)
    inputs = {name: array for name, array in found.items() if not (array.ndim == 1 and _whole(array))} or found
    wanted = None if example is None else len(list(tensors(example)))
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    if wanted is None:
        numbered = all(name.startswith("arr_") for name in inputs)  # as numpy calls arrays without names
        return tuple(inputs.values()) if numbered else dict(inputs)
    if len(found) == wanted:
        inputs = found
    if len(inputs) != wanted:
        raise DataError(
            f"'{path}' holds the arrays {', '.join(found)}, but the network takes {wanted} input(s): save these alone"
        )
    return refilled(example, (plain(array) for array in inputs.values()))


def _whole(array: Any) -> bool:
    return not array.is_floating_point() if isinstance(array, Tensor) else bool(np.issubdtype(array.dtype, np.integer))
