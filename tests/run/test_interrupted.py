"""An interruption, wherever in whichever forward, leaves the network exactly as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Settings, apply, masked, prune, trace, verify
from secateur.data import Data, from_arrays
from secateur.export import export_pt2, export_source
from secateur.measure import deploy, latency, measure

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
MOST = 24  # interruptions of a verb, spread over its calls of the forward


class Interrupted(nn.Module):
    """A network in training, with all that a forward may change; its calls are counted outside of it."""

    calls = 0
    last = 0

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.two, self.drop, self.head = nn.Conv2d(16, 16, 3), nn.Dropout(0.1), nn.Linear(16, 5)
        self.register_buffer("seen", torch.zeros(()))
        self.heard = 0
        self.train()
        self.drop.eval()
        self.one.weight.requires_grad_(False)
        self.two.register_forward_hook(_listen)

    def forward(self, x: Tensor) -> Tensor:
        Interrupted.calls += 1
        number = Interrupted.calls  # other passes may go on beside this one
        self.seen += 1
        self.shape = x.shape
        x = self.norm(self.one(x)).relu()
        self.heard += 1
        if number == Interrupted.last:
            raise KeyboardInterrupt
        return self.head(self.drop(self.two(x).relu().mean((2, 3))))


def _listen(module: nn.Module, inputs: Any, output: Tensor) -> None:
    return None


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that a network has: which objects, with which values, in which mode, with which hooks."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[f"{name}:{key}"] = {k: id(v) for k, v in value.items()} if isinstance(value, dict) else value
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{name}="] = (tensor.requires_grad, tensor.grad, json.dumps(tensor.tolist()))
    return found


def digits() -> Data:
    pixels = torch.randint(0, 256, (120, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(120) % 5
    return from_arrays((pixels[:80], labels[:80]), (pixels[80:], labels[80:]), name="digits")


def verbs(model: nn.Module, folder: Any) -> dict[str, Callable[[], object]]:
    graph = trace(model, IMAGES)
    plan = prune(model, IMAGES, "magnitude", 0.6, latency=False).plans[0]
    thin, data, brief = apply(model, graph, plan), digits(), Settings(epochs=1, batch_size=32)

    def silenced() -> None:
        with masked(model, graph, plan):
            Interrupted.calls = Interrupted.last = 1
            raise KeyboardInterrupt

    return {
        "prune": lambda: prune(model, IMAGES, "magnitude", 0.6, latency=False),
        "prune by images": lambda: prune(model, None, None, 0.6, calibrate=data, latency=False),
        "prune and tune": lambda: prune(model, None, "magnitude", 0.6, data, train=brief, latency=False),
        "trace": lambda: trace(model, IMAGES),
        "masked": silenced,
        "verify": lambda: verify(model, graph, plan, thin, IMAGES),
        "measure": lambda: measure(model, IMAGES, time=False),
        # Any pass takes longer than this: how many there are depends on no clock.
        "latency": lambda: latency(model, IMAGES, seconds=1e-6),
        "deploy": lambda: deploy(model, IMAGES, time=False),
        "export": lambda: [export(model, IMAGES, folder / name) for export, name in EXPORTS],
    }


EXPORTS = ((export_pt2, "a.pt2"), (export_source, "a.py"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "verb",
    [
        "prune",
        pytest.param("prune by images", marks=pytest.mark.slow),  # longer ways to the same
        "prune and tune",
        "trace",
        "masked",
        "verify",
        "measure",
        "latency",
        "deploy",
        pytest.param("export", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_at_any_call_leaves_the_network_as_it_was(verb: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    Interrupted.last = 0
    model = Interrupted()
    call = verbs(model, tmp_path)[verb]
    before, gradients = state(model), torch.is_grad_enabled()
    Interrupted.calls = 0
    if verb != "masked":
        call()
    total = max(1, Interrupted.calls)
    assert state(model) == before
    for number in sorted({1 + round(k * (total - 1) / MOST) for k in range(MOST + 1)}):
        Interrupted.calls, Interrupted.last = 0, number
        with pytest.raises(KeyboardInterrupt):
            call()
        assert Interrupted.calls >= number
        assert state(model) == before, number
        assert torch.is_grad_enabled() == gradients
    Interrupted.last = 0
