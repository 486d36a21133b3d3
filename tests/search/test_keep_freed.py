"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

ROUNDS, BLOCKS = 20, 4
CODE = f"""
import resource, torch
from secateur.search.memory import keep_freed
if {{keep}}:
    keep_freed()
def round():
    blocks = [torch.ones(8 << 20, dtype=torch.uint8) for _ in range({BLOCKS})]
round(), round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have rules of their own")
def test_pages_are_not_mapped_again_and_again() -> None:
    pages = ROUNDS * BLOCKS * (8 << 20) // resource.getpagesize()
    assert faults(keep=False) > 0.9 * pages  # or there would be nothing to mend
    assert faults(keep=True) < 0.2 * pages  # a block or two may lie badly once
