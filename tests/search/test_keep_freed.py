"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import sys

import pytest

import forked

CODE = """
import ctypes, torch
from secateur.search.malloc_settings import keep_freed

class Info(ctypes.Structure):  # mallinfo(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

def mapped():
    info = ctypes.CDLL(None).mallinfo2
    info.restype = Info
    return info().hblkhd  # bytes of blocks that were mapped for one use, and go back when they are freed

keep_freed()
before = mapped()
block = torch.ones(24 << 20, dtype=torch.uint8)
print(mapped() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="the C library is not a recent glibc",
)
def test_large_blocks_are_not_mapped_for_one_use() -> None:
    done = forked.run(["-c", CODE])
    assert int(done.stdout) == 0
