"""On what a result was made: versions, machine, time, and the text of the method that made it."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from secateur.artifact.commit import commit
from secateur.measure.machine import processor

_PACKAGES = (
    "numpy",
    "scipy",
    "safetensors",
    "accelerate",
    "torchmetrics",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
)


def environment(method: object, seed: int | None) -> dict[str, Any]:
    """Return everything about the machine that may matter for repeating a result, ready for JSON.

    Args:
        method: the method of the run, whose file is quoted.
        seed: of the run; None where it is not known.
    """
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "secateur": version("secateur") or "",
        "packages": {name: found for name, found in versions.items() if found},
        "platform": _system(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": commit(Path.cwd()),
        "seed": seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": _source(method),
    }


def _system() -> str:
    """Return what ``platform.platform()`` does, which starts a program for the part that is left out here."""
    parts = (platform.system(), platform.release(), platform.machine(), *platform.libc_ver())
    return "-".join(part for part in parts if part)


def version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source(method: object) -> str:
    module = inspect.getmodule(type(method))
    try:
        return inspect.getsource(module) if module else ""
    except (OSError, TypeError):
        return ""
