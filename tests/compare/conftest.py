from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.compare import run_one
from secateur.data import Data
from secateur.data.arrays import from_arrays

NETS = Path(__file__).parents[1] / "nets.py"
SMALL = f"""
model = "{NETS}:Plain"
data = "colours"
seeds = [0, 1]
[target]
keeps = [0.5]
[[method]]
name = "magnitude"
scope = "global"
[pretrain]
epochs = 1
batch_size = 16
augment = "none"
precision = "float32"
memory_format = "contiguous"
compile = "off"
device = "cpu"
[train]
epochs = 2
batch_size = 16
augment = "none"
precision = "float32"
memory_format = "contiguous"
compile = "off"
device = "cpu"
"""


def _images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    images = torch.randn(count, 3, 8, 8, generator=rng)
    images[:, 0] += labels[:, None, None]
    return images, labels


@pytest.fixture
def small() -> str:
    """Return a recipe of ten runs."""
    return SMALL


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Data:
    """Return a data set of 140 small images, which comparisons get whatever they ask for."""
    data = from_arrays(_images(80, 1), _images(40, 2), _images(20, 3), name="colours", classes=5)
    monkeypatch.setattr(run_one, "data_of", lambda recipe, download=False: data)
    return data
