"""Files of arrays: how large they are is known from their headers before anything is expanded or copied."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.lib import format as npy_format

from secateur import reading

MOST_EXPANDED = 256 * reading.MIB
"""Bytes that a compressed file may always expand to."""

PER_BYTE = 16
"""Bytes that a larger one may expand to for each of its own; pictures of digits expand to five."""

MOST_IMAGE = 2**26
"""Numbers in one image; the rows that are wanted are copied, however large the file is."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def npy(path: Path) -> Any:
    """Return the array in a file, which stays on the disk.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it holds more than numbers, or images too large for any network.
    """
    reading.regular(path)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    _check(found.shape, found.dtype)
    return found


def npz(path: Path) -> dict[str, Any]:
    """Return the arrays in a file by name.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it holds more than numbers, or expands to far more than its size.
        zipfile.BadZipFile: if it is damaged.
    """
    entries = reading.entries(path)
    expanded, most = sum(entry.file_size for entry in entries), max(MOST_EXPANDED, PER_BYTE * reading.regular(path))
    if expanded > most or any(entry.compress_type not in _METHODS for entry in entries):
        raise reading.Unfit(f"it would expand to {expanded:,} bytes, and at most {most:,} are read")
    with zipfile.ZipFile(path) as file:
        for entry in entries:
            _check_entry(file, entry)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def safetensors_in(path: Path) -> dict[str, Any]:
    """Return the tensors in a file by name, in the order of the names.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is none, or its header is larger than there is reason for.
    """
    if not reading.is_safetensors(path):
        raise reading.Unfit("it does not begin as a safetensors file")
    return dict(sorted(safetensors.torch.load_file(str(path)).items()))  # pyright: ignore[reportUnknownMemberType]


def _check_entry(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Compare the size that an array claims, for which memory would be taken at once, with that of its entry."""
    with file.open(entry) as stream:
        version = npy_format.read_magic(stream)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(stream)
        _check(shape, dtype)
        if math.prod(shape) * dtype.itemsize != entry.file_size - stream.tell():
            raise reading.Unfit(f"'{reading.shown(entry.filename)}' is not as large as its header says")


def _check(shape: tuple[int, ...], dtype: Any) -> None:
    if dtype.kind not in "biufc":
        raise reading.Unfit("it holds more than numbers")
    if math.prod(shape[1:]) > MOST_IMAGE:
        raise reading.Unfit(f"its images of shape {shape[1:]} are larger than any network takes")
