"""Forwards that do something else than compute: it works as usual, or is refused in one sentence."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from secateur import prune
from secateur.errors import ModelError, SecateurError, TraceError

IMAGE = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 5)).eval()


class Around(nn.Module):
    """A network around which a subclass does something."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))


class Prints(Around):
    def forward(self, x: Tensor) -> Tensor:
        print("forward")
        return self.net(x)


class Sleeps(Around):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.001)
        return self.net(x)


class Counts(Around):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        return self.net(x) * self.calls


class Switches(Around):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) if self.calls % 2 else self.net(x) * 2


class Nothing(Around):
    def forward(self, x: Tensor) -> None:
        self.net(x)


class Number(Around):
    def forward(self, x: Tensor) -> float:
        return float(self.net(x).sum())


class Text(Around):
    def forward(self, x: Tensor) -> dict[str, str]:
        return {"label": str(self.net(x).argmax())}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Prints, Sleeps, Counts])
def test_what_a_forward_does_beside_is_its_own_affair(kind: type[Around]) -> None:
    net = kind()
    result = prune(net, IMAGE, "magnitude", 0.6, latency=False)
    assert result.after.counts.macs <= 0.6 * result.before.counts.macs
    assert (net.calls, float(net.seen), result.model.calls) == (0, 0.0, 0)


def quantised() -> nn.Module:
    ao = torch.ao.quantization
    net = nn.Sequential(ao.QuantStub(), nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), ao.DeQuantStub()).eval()
    net.qconfig = ao.get_default_qconfig("x86")
    ao.prepare(net, inplace=True)(IMAGE)
    return ao.convert(net)


REFUSED = {
    "scripted": (lambda: torch.jit.script(plain()), ModelError, "scripted network .*give the module that it was made"),
    "traced": (lambda: torch.jit.trace(plain(), IMAGE), ModelError, "scripted network .*give the module that it was"),
    "exported": (lambda: torch.export.export(plain(), (IMAGE,)), ModelError, "exported program .*give the network"),
    "module of it": (
        lambda: torch.export.export(plain(), (IMAGE,)).module(),
        ModelError,
        "exported program .*give the",
    ),
    "unflattened": (
        lambda: torch.export.unflatten(torch.export.export(plain(), (IMAGE,))),
        ModelError,
        "exported program .*give the network",
    ),
    "quantised": (quantised, ModelError, "'0' is quantised .*prune the network before it is quantised"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyConv2d(8, 3)),
        ModelError,
        "'0.weight' has no shape before the first forward .*: run the network on an input once",
    ),
    "nothing": (Nothing, TraceError, "Nothing returns no tensors.*make its forward return tensors"),
    "a number": (Number, TraceError, "Number returns no tensors.*make its forward return tensors"),
    "a text": (Text, TraceError, "Text returns no tensors.*make its forward return tensors"),
    "switches": (Switches, TraceError, "Switches takes another path when it runs again .*; let it draw and count in"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_in_one_sentence(name: str) -> None:
    make, kind, words = REFUSED[name]
    with pytest.raises(SecateurError, match=words) as refused:
        prune(make(), IMAGE, "magnitude", 0.6, latency=False)
    assert isinstance(refused.value, kind)
    assert "\n" not in str(refused.value)
