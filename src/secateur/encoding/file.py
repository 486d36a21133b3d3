"""The file of an encoded network: a safetensors file of code streams, read within bounds.

It holds no pickle and runs nothing. Under ``raw/`` are the tensors that are stored as they are; a weight that shares
values has these under ``values/``, the Huffman codes of their numbers under ``numbers/`` and those of the distances
between them under ``gaps/``. Values of a weight on a grid are whole numbers, and the steps of its channels are under
``steps/``. What else must be known stands in its header as JSON, with a hash of it all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from secateur import reading
from secateur.artifact.bounded_reading import entry, naming, whole_number
from secateur.encoding.huffman_coding import bits_of, packed, unpacked
from secateur.encoding.on_grids import multiples
from secateur.encoding.rates import EncodedLayer
from secateur.encoding.relative_indices import from_gaps, to_gaps
from secateur.encoding.settings import MOST_BITS, MOST_GAP_BITS
from secateur.encoding.shared_values import Sharing
from secateur.errors import ArtifactError

FORMAT = 1
_KEY = "secateur.encoding"
_MOST_DIMS = 16
_FREE, _EACH = 2**26, 2**10  # numbers that any file may expand to, and more for each of its bytes: codes take at
# least two bits for a weight, and the longest way to the next is that of 128
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def to_bytes(
    tensors: Mapping[str, Tensor], shared: Mapping[str, str], sharings: Mapping[str, Sharing], gap_bits: int
) -> tuple[bytes, tuple[EncodedLayer, ...]]:
    """Return the file of a network, and what became of each of its weights.

    Args:
        tensors: its state, each tensor once.
        shared: under which name those are found that are tied.
        sharings: who shares what, for weights that do.
        gap_bits: of each distance.
    """
    parts: dict[str, Tensor] = {}
    about: dict[str, dict[str, Any]] = {}
    layers: list[EncodedLayer] = []
    for name, tensor in tensors.items():
        if name not in sharings:
            parts[f"raw/{name}"] = tensor
            continue
        values, numbers, gaps = _streams(tensor, sharings[name], gap_bits)
        grid = sharings[name].grid
        tables = {"values": values} if grid is None else {"values": values, "steps": grid.steps}
        parts |= {f"{kind}/{name}": table for kind, table in tables.items()}
        layer = EncodedLayer(name, tensor.numel(), len(numbers), len(values), len(gaps) - len(numbers), gap_bits)
        paper = sum(bits_of(np.bincount(stream, minlength=1).tolist()) for stream in (numbers, gaps))
        codes = {"numbers": packed(numbers), "gaps": packed(gaps)}
        parts |= {
            f"{kind}/{name}": torch.frombuffer(bytearray(code), dtype=torch.uint8) for kind, code in codes.items()
        }
        written = sum(map(len, codes.values())) + sum(it.numel() * it.element_size() for it in tables.values())
        layers.append(replace(layer, huffman=paper, written=written, steps=0 if grid is None else len(grid.steps)))
        about[name] = {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "weights": len(numbers),
            "gaps": len(gaps),
            "gap_bits": gap_bits,
            **({} if grid is None else {"axis": grid.axis}),
        }
    facts = {"format": FORMAT, "shared_values": about, "tied": dict(shared)}
    header = json.dumps({**facts, "sha256": _digest(facts, parts)}, separators=(",", ":"))
    return safetensors.torch.save(parts, {_KEY: header}), tuple(layers)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state of an encoded network, each tensor once, and under which name those are found that are tied.

    Nothing is expanded before it is known how large it becomes.

    Raises:
        ArtifactError: if there is no such file, it is none of an encoded network, damaged, or from a newer version.
    """
    with naming(path):
        size = reading.regular(path)
        if not reading.is_safetensors(path):
            raise ArtifactError(f"{path} does not begin as the file of an encoded network; check the path")
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise ArtifactError(f"{path} holds no encoded network but other tensors; check the path")
            facts = _facts(path, text)
            about = entry(facts, "shared_values")
            _check_sizes({name: entry(about, name) for name in about}, size)
            _check_names(file.keys(), about)
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("sha256", None) != _digest(facts, parts):
            raise reading.Unfit("its content has changed since it was written")
        tensors = {name.removeprefix("raw/"): part for name, part in parts.items() if name.startswith("raw/")}
        for name in about:
            if name in tensors:
                raise reading.Unfit(f"'{reading.shown(name)}' is in it twice")
            tensors[name] = _decoded(name, about[name], parts)
        return tensors, _tied(facts["tied"], tensors)


def _streams(tensor: Tensor, sharing: Sharing, gap_bits: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    members = sharing.members.flatten().numpy()
    places = np.flatnonzero(members)
    return sharing.values(tensor).contiguous(), members[places] - 1, to_gaps(places, gap_bits)


def _facts(path: Path, text: str) -> dict[str, Any]:
    facts: Any = reading.values(text)
    if not isinstance(facts, dict):
        raise reading.Unfit("its header holds no table")
    found = whole_number(facts, "format")
    if found > FORMAT:
        raise ArtifactError(f"{path} is of a newer version; run: pip install --upgrade secateur")
    if found < FORMAT:
        raise reading.Unfit(f"there never was a format {found}")
    return cast("dict[str, Any]", facts)


def _check_names(names: Iterable[str], about: Mapping[str, Any]) -> None:
    """Refuse tensors that belong to no weight."""
    for name in names:
        kind, _, weight = name.partition("/")
        if kind != "raw" and not (kind in ("values", "steps", "numbers", "gaps") and weight in about):
            raise reading.Unfit(f"'{reading.shown(name)}' in it is no part of a network")


def _check_sizes(about: Mapping[str, Mapping[str, Any]], size: int) -> None:
    """Refuse weights that are larger than what a file of such a size has reason to hold."""
    left = _FREE + _EACH * size
    for name, known in about.items():
        shape: Any = known["shape"]
        if not isinstance(shape, list) or len(cast("list[Any]", shape)) > _MOST_DIMS:
            raise reading.Unfit(f"the shape of '{reading.shown(name)}' is no list of sizes")
        sizes = cast("list[Any]", shape)
        if not all(type(each) is int and 0 <= each < 2**31 for each in sizes):
            raise reading.Unfit(f"the shape of '{reading.shown(name)}' holds what is no size")
        whole = math.prod(sizes)
        left -= whole
        if left < 0:
            raise reading.Unfit(f"its {size:,} bytes claim to hold more numbers than such a file has reason to")
        weights, gaps = whole_number(known, "weights"), whole_number(known, "gaps")
        if not weights <= gaps <= whole or not 1 <= whole_number(known, "gap_bits") <= MOST_GAP_BITS:
            raise reading.Unfit(f"the codes of '{reading.shown(name)}' have impossible sizes")


def _decoded(name: str, known: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    values, dtype = parts[f"values/{name}"], _TYPES.get(str(known["dtype"]))
    if dtype is None or values.dtype != dtype or values.dim() != 1 or len(values) > 2**MOST_BITS:
        raise reading.Unfit(f"the values of '{reading.shown(name)}' are not such as are shared")
    codes = {kind: parts[f"{kind}/{name}"] for kind in ("numbers", "gaps")}
    if any(code.dtype != torch.uint8 for code in codes.values()):
        raise reading.Unfit(f"the codes of '{reading.shown(name)}' are no bytes")
    numbers = unpacked(codes["numbers"].numpy().tobytes(), known["weights"])
    gaps = unpacked(codes["gaps"].numpy().tobytes(), known["gaps"])
    whole = math.prod(known["shape"])
    places = from_gaps(gaps, known["gap_bits"], whole)
    if len(places) != len(numbers) or (len(numbers) and int(numbers.max()) >= len(values)):
        raise reading.Unfit(f"the codes of '{reading.shown(name)}' do not fit together")
    tensor = torch.zeros(whole, dtype=dtype)
    tensor[torch.from_numpy(places)] = values[torch.from_numpy(numbers.astype(np.int64))]
    return _on_grid(name, known, parts, tensor.reshape(known["shape"]))


def _on_grid(name: str, known: Mapping[str, Any], parts: Mapping[str, Tensor], tensor: Tensor) -> Tensor:
    """Return a weight whose values are whole numbers, as multiples of the steps of its channels; another as it is."""
    steps = parts.get(f"steps/{name}")
    if steps is None and "axis" not in known:
        return tensor
    axis = whole_number(known, "axis")
    if (
        steps is None
        or axis >= tensor.dim()
        or steps.dtype != torch.float32
        or steps.shape != tensor.shape[axis : axis + 1]
    ):
        raise reading.Unfit(f"the steps of '{reading.shown(name)}' do not fit its shape")
    return multiples(tensor, steps, axis, tensor.dtype)


def _tied(found: Any, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    table = cast("dict[str, Any]", found if isinstance(found, dict) else {"": None})
    if not all(isinstance(to, str) and to in tensors and name not in tensors for name, to in table.items()):
        raise reading.Unfit("its table of tied tensors does not fit")
    return table


def _digest(facts: Mapping[str, Any], parts: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(parts):
        part = parts[name].contiguous()
        digest.update(f"{name} {part.dtype} {list(part.shape)}".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
