"""Weights to and from one safetensors file, strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from secateur.errors import ArtifactError


def to_bytes(model: nn.Module) -> bytes:
    """Return the state of a network as a safetensors file; tied tensors are stored once.

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
    # one entry, for safetensors writes several in random order and equal networks shall give equal files
    return safetensors.torch.save(tensors, {"shared": json.dumps(shared)} if shared else {"format": "pt"})


def read_into(model: nn.Module, path: Path) -> None:
    """Give a network the weights of a file; names, shapes and types become exactly those of the file.

    Raises:
        ArtifactError: if the file is no safetensors file, or does not belong to this network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; restore it, or run the recipe again") from None
    tensors |= {name: tensors[first] for name, first in json.loads(metadata.get("shared", "{}")).items()}
    own: dict[str, Any] = model.state_dict(keep_vars=True)
    advice = "the network it was saved from differs from the one that was rebuilt; pass the right one as dense="
    for name in (*own, *tensors):
        if name not in tensors or name not in own:
            where = "is not in" if name not in tensors else "is only in"
            raise ArtifactError(f"'{name}' {where} {path}: {advice}")
        if own[name].shape != tensors[name].shape:
            stored, wanted = tuple(tensors[name].shape), tuple(own[name].shape)
            raise ArtifactError(f"'{name}' has shape {stored} in {path} instead of {wanted}: {advice}")
        if own[name].dtype != tensors[name].dtype:
            own[name].data = own[name].data.to(tensors[name].dtype)
    with torch.no_grad():
        model.load_state_dict(tensors, strict=True)
