"""Let the C library keep the memory of one forward for the next."""

from __future__ import annotations

import torch

_BLOCK = 31 << 20  # bytes; glibc learns from blocks below 32 MiB only


def keep_freed() -> None:
    """Have memory that forwards free stay with the process, where the C library is glibc; elsewhere nothing happens.

    Blocks above a threshold are mapped for each use and given back at once, and the kernel clears every page of them
    again, which small networks feel. The threshold grows to the largest block that was ever freed (mallopt(3),
    M_MMAP_THRESHOLD), so freeing one that was never touched is enough. Each thread may keep twice as much unused.
    """
    torch.empty(_BLOCK, dtype=torch.uint8)
