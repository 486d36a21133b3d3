from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.training import Speed
from secateur.training.placement import placed


def disturb(model: nn.Sequential, speed: Speed) -> None:
    contiguous = speed.memory_format == "contiguous"
    with placed(model, torch.device("cpu"), speed):
        assert model[0].weight.is_contiguous() == model[2].weight.is_contiguous() == contiguous
        model.train()
        raise ZeroDivisionError


def test_formats_and_modes_come_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
    model[0].to(memory_format=torch.channels_last)
    model[2].train()
    strides = [tensor.stride() for tensor in model.parameters()]
    values = [tensor.detach().clone() for tensor in model.parameters()]
    identities = [id(tensor) for tensor in model.parameters()]
    for layout in ("contiguous", "channels_last"):
        with pytest.raises(ZeroDivisionError):
            disturb(model, Speed(memory_format=layout))
        assert [tensor.stride() for tensor in model.parameters()] == strides
        assert [m.training for m in model] == [False, False, True]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), values, strict=True))
    assert [id(tensor) for tensor in model.parameters()] == identities


def test_nothing_is_placed_where_there_is_nothing() -> None:
    with placed(None, torch.device("cpu"), Speed()):
        pass
