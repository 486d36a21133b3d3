"""Weights to and from one safetensors file, strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from secateur import reading
from secateur.artifact.bounded_reading import ADVICE, naming
from secateur.core.zeros.blocks import BlockLayer
from secateur.errors import ArtifactError
from secateur.spelling import said

Header: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type (as safetensors writes it, such as ``"F32"``) and shape of each stored tensor, by name."""


def to_bytes(model: nn.Module) -> bytes:
    """Return the state of a network as a safetensors file; tied tensors are stored once.

    Raises:
        ArtifactError: if the state holds something other than tensors.
    """
    return as_file(*tensors_of(model))


def as_file(tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> bytes:
    """Return what ``tensors_of`` returned as a safetensors file."""
    # one entry, for safetensors writes several in random order and equal networks shall give equal files
    return safetensors.torch.save(dict(tensors), {"shared": json.dumps(shared)} if shared else {"format": "pt"})


def tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state of a network on the CPU, each tensor once, and under which name others are found that are tied.

    Raises:
        ArtifactError: if the state holds something other than tensors.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    names: dict[Any, str] = {}
    storages: set[Any] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ArtifactError(f"cannot save '{name}': it is a {type(value).__name__}, not a tensor; make it one")
        if value.layout != torch.strided:
            raise ArtifactError(
                f"cannot save '{name}': its layout is {str(value.layout).removeprefix('torch.')}, and safetensors "
                "holds dense tensors only; register it with persistent=False, or make it dense"
            )
        storage = value.untyped_storage()
        place = (value.device, storage.data_ptr())
        view = (*place, value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and view in names:
            shared[name] = names[view]
            continue
        names[view] = name
        # safetensors refuses tensors whose memory overlaps or has holes
        alone = place not in storages and storage.nbytes() == value.numel() * value.element_size()
        storages.add(place)
        tensors[name] = (value.detach() if alone else value.detach().clone()).cpu().contiguous()
    return tensors, shared


def read_into(model: nn.Module, path: Path) -> None:
    """Give a network the weights of a file; names, shapes and types become exactly those of the file.

    Raises:
        ArtifactError: if the file is no safetensors file, or does not belong to this network.
    """
    check_fit(model, header(path), path)
    with naming(path), safetensors.safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        put_into(model, tensors | {name: tensors[first] for name, first in _shared(file.metadata()).items()})


def put_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network a state that ``check_fit`` has found to be its own; types become those of the state.

    Raises:
        reading.Unfit: if block layers are numbered otherwise than the network's.
    """
    _check_numbering(model, tensors)
    own: dict[str, Any] = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if own[name].dtype != tensor.dtype:
            own[name].data = own[name].data.to(tensor.dtype)
    with torch.no_grad():
        model.load_state_dict(dict(tensors), strict=True)


def header(path: Path) -> Header:
    """Return type and shape of every tensor in a file by its name, tied ones included; none is read.

    Raises:
        ArtifactError: if it is no safetensors file.
    """
    with naming(path):
        if not reading.is_safetensors(path):
            raise reading.Unfit("it does not begin as a safetensors file")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                found = {name: (str(it.get_dtype()), tuple(it.get_shape())) for name, it in parts.items()}
                return found | {name: found[first] for name, first in _shared(file.metadata()).items()}
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"{path} is damaged: {reading.shown(error)}; {ADVICE}") from None


def check_fit(model: nn.Module, found: Header, path: Path, advice: str = "") -> None:
    """Compare what ``header`` found with the tensors of a network.

    Args:
        model: the network.
        found: type and shape of each tensor.
        path: the file, for messages.
        advice: what to do where they differ; by default for a network that was rebuilt from an artifact.

    Raises:
        ArtifactError: if a name, shape or kind of numbers differs.
    """
    own: dict[str, Any] = model.state_dict(keep_vars=True)
    advice = advice or "the network it was saved from differs from the one that was rebuilt; " + said(
        "pass the right one as dense=", "bring back the code that it was saved with"
    )
    for name in (*own, *found):
        if name not in found or name not in own:
            where = "is not in" if name not in found else "is only in"
            raise ArtifactError(f"'{reading.shown(name)}' {where} {path}: {advice}")
        kind, stored = found[name]
        if own[name].shape != stored:
            raise ArtifactError(
                f"'{name}' has shape {reading.written(stored)} in {path} instead of {tuple(own[name].shape)}: {advice}"
            )
        if own[name].is_floating_point() != kind.startswith(("F", "BF")):
            raise ArtifactError(
                f"'{name}' has numbers of another kind ({kind}) in {path} than in the network: {advice}"
            )


def _shared(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return which tensors are others' by another name."""
    found: Any = reading.values((metadata or {}).get("shared", "{}"))
    if not isinstance(found, dict) or not all(isinstance(it, str) for it in cast("dict[str, Any]", found).values()):
        raise reading.Unfit("its table of shared tensors is none")
    return cast("dict[str, str]", found)


def _check_numbering(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse other channel numbers of block layers than those that surgery gave them: they are no weights."""
    for name, module in model.named_modules():
        if isinstance(module, BlockLayer):
            for leaf, own in module.named_buffers(recurse=False):
                key = f"{name}.{leaf}" if name else leaf
                if key in tensors and not own.is_floating_point() and not torch.equal(own.cpu(), tensors[key]):
                    raise reading.Unfit(f"'{key}' numbers other channels than the plan")
