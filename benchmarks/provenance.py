"""What a measurement depends on beside its settings: the machine, and the versions of what was measured."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any

import torch

from secateur.artifact.environment import commit
from secateur.measure.machine import processor


@functools.cache
def machine() -> dict[str, Any]:
    """Return what times depend on beside the code."""
    return {"processor": processor(), "capability": torch.backends.cpu.get_cpu_capability(), "threads": 1}


@functools.cache
def versions(*packages: str) -> dict[str, str]:
    """Return the versions of some packages; of this library also the commit, where it is run from a checkout."""
    known = {name: _version(name) for name in ("secateur", "torch", *packages)}
    found = commit(Path(__file__).parent)
    return known | {"secateur": f"{known['secateur']}+{found[:7] if found else 'unknown'}"}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
