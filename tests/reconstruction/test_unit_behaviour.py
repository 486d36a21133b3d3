"""How units behave is found with few passes, on inputs of the example's own kind, and never ends a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import Head, Plain, conv, images, lived_in
from secateur.core.trace import trace
from secateur.reconstruction import shares
from secateur.reconstruction.noise import noises


def behaviours(net: nn.Module, example: Any) -> dict[str, str | None]:
    """Return what the units of each group are found to do when half of them go."""
    net.eval()
    graph = trace(net, example)
    gone = {group.name: tuple(range(group.size // 2)) for group in graph.free}
    found = shares(net, graph, example, gone)
    return {name: found[name][0] if name in found else None for name in gone}


class Deep(nn.Module):
    """Many groups; counts its passes in all copies of itself together."""

    passes = 0

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), act()) for _ in range(12)]
        self.body = nn.Sequential(conv(3, 8), *layers, Head(8))

    def forward(self, x: Tensor) -> Tensor:
        Deep.passes += 1
        return self.body(x)


@pytest.mark.parametrize(("act", "said"), [(nn.ReLU, "rectified"), (nn.Sigmoid, "other"), (nn.Identity, "linear")])
def test_a_dozen_passes_are_enough_for_however_many_groups(act: type[nn.Module], said: str) -> None:
    net = lived_in(Deep(act)).eval()
    graph = trace(net, images(1))
    gone = {group.name: (0, 1, 2) for group in graph.free}
    Deep.passes = 0
    found = shares(net, graph, images(4), gone)
    assert Deep.passes <= 12
    assert [behaviour for behaviour, _ in found.values()][1:] == [said] * 12


class Odd(nn.Module):
    """One group among others in which not even copies can stand in for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(torch.softmax(4 * self.b(self.a(x)), 1))))


def test_where_one_group_fails_the_others_are_found_all_the_same() -> None:
    assert list(behaviours(lived_in(Odd()), images(2)).values()) == ["rectified", None, "rectified"]


class Picky(nn.Module):
    """Refuses what is out of range, in another type, or no picture."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net = kind, lived_in(Plain())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "range" and (x.min() < 0 or x.max() > 1):
            raise AssertionError("images must lie in 0..1")
        if self.kind == "mask":
            assert mask is not None
            assert bool(((mask == 0) | (mask == 1)).all())
            x = x * mask
        return self.net(x)


@pytest.mark.parametrize("kind", ["range", "mask", "double"])
def test_what_is_tried_is_of_the_kind_of_the_example(kind: str) -> None:
    net, example = Picky(kind), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    given: Any = (example, (example > 0.2).float()) if kind == "mask" else example
    if kind == "double":
        net, given = net.double(), example.double()
    assert set(behaviours(net, given).values()) == {"rectified"}


def test_values_are_those_of_the_example_and_whole_numbers_stay() -> None:
    example = {"x": torch.rand(3, 2, 4).double(), "hot": F.one_hot(torch.arange(3), 4).float(), "n": torch.arange(3)}
    first, *_, last = noises(Plain(), example)
    assert torch.equal(first["x"].flatten().sort().values, example["x"][:1].flatten().sort().values)
    assert not torch.equal(first["x"], example["x"][:1])
    assert torch.equal(first["hot"], example["hot"][:1])
    assert torch.equal(first["n"], example["n"][:1])
    assert torch.equal(last["x"], example["x"])


class Tired(nn.Module):
    """Runs a few times and then no more."""

    left = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = lived_in(Plain())

    def forward(self, x: Tensor) -> Tensor:
        Tired.left -= 1
        if Tired.left < 0:
            raise LookupError("no more")
        return self.net(x)


@pytest.mark.parametrize("runs", [2, 3])
def test_where_nothing_can_be_tried_groups_are_left_alone(runs: int) -> None:
    net, Tired.left = Tired().eval(), 1000
    graph = trace(net, images(1))
    Tired.left = runs
    assert shares(net, graph, images(1), {group.name: (0, 1) for group in graph.free}) == {}
