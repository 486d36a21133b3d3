"""The number of threads of torch, which the workers of a pool set for themselves and for everybody."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def own_threads() -> Generator[None]:
    """Give torch its number of threads back, whatever the workers of a pool set."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
