"""Pictures of noise."""

from __future__ import annotations

import torch
from torch import Tensor


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
