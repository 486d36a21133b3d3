from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.errors import TrainingError
from secateur.training import Speed
from secateur.training.placement import placed, speaking


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


@pytest.mark.parametrize(
    "text",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:35432",
        "[enforce fail at pair.cc:446] Connection reset by peer",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting",
    ],
)
def test_sockets_are_not_what_a_user_hears_of(text: str, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    with pytest.raises(TrainingError, match=r"start all of them again$"), speaking(place):
        raise RuntimeError(text)
    place.touch()
    with pytest.raises(TrainingError, match=r"start all of them again; it goes on from .*checkpoint$"), speaking(place):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shapes"), speaking(place):
        raise RuntimeError("shapes cannot be multiplied")
