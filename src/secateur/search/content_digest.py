"""A name for the content of tensors, by which notes of a search are found again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor], facts: str = "") -> str:
    """Return a name for the content of named tensors, and for what else counts."""
    total = hashlib.sha256(facts.encode())
    for name, tensor in tensors.items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
