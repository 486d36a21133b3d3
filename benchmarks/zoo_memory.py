"""By how much a process grows while something runs, as Linux counts it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns, and by how many MiB the process grew at most, without the code that it loaded."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free already is not part of the growth, nor may it hide it
    start, code = _entry("VmRSS"), _entry("RssFile")
    Path("/proc/self/clear_refs").write_text("5")
    result = work()
    return result, max(0.0, _entry("VmHWM") - start - (_entry("RssFile") - code))


def mebibytes(model: nn.Module) -> float:
    """Return the size of a network's tensors."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 2**20


def _entry(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) / 1024 for text in lines if text.startswith(name))
