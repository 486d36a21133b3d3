"""What a time depends on beside the network."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

_RESOLUTION = 1e-4  # seconds; some systems tell the time of a process in steps longer than a forward pass


def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return os.environ.get("PROCESSOR_IDENTIFIER") or platform.machine()  # platform.processor() starts a program


def device_name(device: torch.device) -> str:
    """Return the name of the processor or GPU that a device is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def capability(device: torch.device) -> str:
    """Return what a processor can compute at once, such as ``"AVX512"``, or the compute capability of a GPU."""
    if device.type == "cuda":
        return ".".join(map(str, torch.cuda.get_device_capability(device)))
    return torch.backends.cpu.get_cpu_capability()


def steadiest_clock(threads: int, device: torch.device) -> Callable[[], float]:
    """Return the clock, in seconds, that other programs disturb the least.

    With one thread on the CPU that is the time this program has computed: on an idle machine it goes like the clock on
    the wall, and on a busy one it stands still while others have their turn.
    """
    fine = time.get_clock_info("process_time").resolution < _RESOLUTION
    return time.process_time if threads == 1 and device.type == "cpu" and fine else time.perf_counter
