from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nets import Plain
from secateur.data import Data
from secateur.data.arrays import from_arrays
from secateur.training import Settings, fit

CLASSES = 5
COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, 0], [0, -1, -1]])


def learnable(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise images, (N, 3, 8, 8), whose colour tells the label."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 8, 8, generator=rng)
    return images + COLOURS[labels][:, :, None, None], labels


@pytest.fixture(scope="session")
def data() -> Data:
    return from_arrays(learnable(80, 1), learnable(40, 2), learnable(20, 3), name="colours", classes=CLASSES)


@pytest.fixture(scope="session")
def train() -> Settings:
    """Return a short training whose arithmetic is fixed, so that equal runs are equal bit for bit."""
    return Settings(
        epochs=2,
        batch_size=16,
        lr=0.05,
        augment="none",
        precision="float32",
        memory_format="contiguous",
        compile="off",
        device="cpu",
    )


@pytest.fixture(scope="session")
def trained(data: Data, train: Settings) -> nn.Module:
    """Return a network that tells the colours, in evaluation mode; it is pruned and never changed."""
    torch.manual_seed(0)
    net = Plain()
    fit(net, data, replace(train, epochs=15))
    return net.eval()


@pytest.fixture
def net() -> nn.Module:
    """Return a small network in training mode, as it comes from its author."""
    torch.manual_seed(0)
    return Plain()
