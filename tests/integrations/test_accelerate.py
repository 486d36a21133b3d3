"""What accelerate has prepared goes on after its network was cut in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

import secateur
from nets import Head, conv, lived_in
from secateur.session import Session


def network() -> nn.Module:
    torch.manual_seed(0)
    return lived_in(nn.Sequential(conv(3, 16), conv(16, 24), Head(24))).train()


def image(seed: int = 9) -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(folder: Path, first: int, last: int, precision: str, *, resume: bool = False) -> nn.Module:
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    net = network()
    session = Session(net, image(), "magnitude", 0.5, steps=2, limits=secateur.Limits(multiple=1))
    plain = torch.optim.AdamW(net.parameters(), 0.01)
    accelerator.register_for_checkpointing(session)
    if resume:  # before what was prepared gets its state
        session.load_state_dict(torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True))
    model, optimizer = accelerator.prepare(net, plain)
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9))
    if resume:
        accelerator.load_state(str(folder))
    for number in range(first, last):
        optimizer.zero_grad()
        accelerator.backward(model(image(number)).square().mean())
        optimizer.step()
        scheduler.step()
        session.step(optimizer, scheduler, model)
        assert accelerator.unwrap_model(model) is session.model is net
    if last < 4:
        accelerator.save_state(str(folder))
    return session.model


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, precision: str) -> None:
    whole = run(tmp_path, 0, 4, precision)
    run(tmp_path, 0, 1, precision)
    again = run(tmp_path, 1, 4, precision, resume=True)
    assert whole[0][0].out_channels < 16
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
