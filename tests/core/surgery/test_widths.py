"""Attributes that name a width follow it where it is certain which, and stay everywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import conv, images, lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, relative_difference, verify
from secateur.core.trace import trace


class Branches(nn.Module):
    """Two branches and an identity that can be made one convolution, by a method that needs the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups, self.fused = width, width, 1, False
        self.wide, self.narrow = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x).relu() if self.fused else (self.wide(x) + self.narrow(x) + x).relu()

    @torch.no_grad()
    def fuse(self) -> None:
        self.wide.weight[:, :, 1, 1] += self.narrow.weight[:, :, 0, 0] + torch.eye(self.in_channels)
        assert self.wide.bias is not None
        assert self.narrow.bias is not None
        self.wide.bias += self.narrow.bias
        self.fused = True


class Net(nn.Module):
    """A step between a stem of 12 channels and a head."""

    def __init__(self, step: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.stem, self.step, self.head = conv(3, 12), step, nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self.stem(x)))


def thinned(net: nn.Module) -> Any:
    """Drop one unit of the first group, two of the second and so on."""
    net = lived_in(net)
    graph = trace(net, images(1))
    plan = Plan(tuple(DropUnits(g.name, tuple(range(n + 1))) for n, g in enumerate(graph.groups)))
    thin = apply(net, graph, plan).eval()
    assert verify(net, graph, plan, thin, images(1)).exact
    return thin


def test_a_block_can_be_fused_after_pruning() -> None:
    thin = thinned(Net(Branches(12)))
    assert (thin.step.in_channels, thin.step.out_channels, thin.step.groups) == (11, 11, 1)
    before = thin(images(2))
    thin.step.fuse()
    assert relative_difference(before, thin(images(2))) < 1e-5


class Two(nn.Module):
    """Two layers as wide as each other, which lose other channels."""

    def __init__(self, name: str, value: int = 12) -> None:
        super().__init__()
        setattr(self, name, value)
        self.one, self.two = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu()).relu()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("out_channels", 9, 6),
        ("c2", 9, 6),
        ("dim", 9, 6),
        ("in_channels", 9, 9),  # nothing inside reads so many
        ("in_channels", 12, 12),  # this is what enters, or what is between
        ("dim", 12, 12),
        ("heads", 9, 9),  # a name that says nothing
        ("_dim", 9, 9),
    ],
)
def test_a_name_and_a_width_have_to_fit(name: str, value: int, expected: int) -> None:
    assert getattr(thinned(Net(Two(name, value), 9)).step, name) == expected


def test_what_the_forward_looks_at_stays() -> None:
    class Scaled(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.dim

    assert thinned(Net(Scaled("dim", 9), 9)).step.dim == 9

    class Above(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.step.dim

    assert thinned(Above(Two("dim", 9), 9)).step.dim == 9

    class ByName(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / getattr(self, "d" + "im")

    assert thinned(Net(ByName("dim", 9), 9)).step.dim == 9


def test_what_does_not_run_keeps_its_width_and_the_name() -> None:
    class Spare(Two):
        def __init__(self) -> None:
            super().__init__("dim", 9)
            self.register_buffer("spare", torch.zeros(9))

    assert thinned(Net(Spare(), 9)).step.dim == 9


class Split(nn.Module):
    """Ultralytics' C2f: the forward halves, a second one for exports says how wide a half is."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 6
        self.cv1, self.inner, self.cv2 = conv(12, 12, 1), nn.Sequential(conv(6, 6), conv(6, 6)), conv(18, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        return self.cv2(torch.cat([*y, self.inner(y[-1])], 1))

    def forward_split(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat([a, b, self.inner(b)], 1))


def test_another_forward_says_which_of_several_widths_is_meant() -> None:
    net = Net(Split())
    calls: list[int] = []
    net.step.cv1[0].register_forward_hook(lambda *_: calls.append(1))
    thin = thinned(net)
    calls.clear()
    widths = {layer.out_channels for layer in thin.step.inner.modules() if isinstance(layer, nn.Conv2d)}
    assert thin.step.c * 2 == thin.step.cv1[0].out_channels
    assert widths != {thin.step.c}
    before = thin(images(2))
    thin.step.forward = thin.step.forward_split
    assert relative_difference(before, thin(images(2))) < 1e-5


def test_no_hook_of_the_user_hears_of_the_comparison() -> None:
    net = lived_in(Net(Split()))
    graph = trace(net, images(1))
    calls: list[int] = []
    net.step.cv1[0].register_forward_hook(lambda *_: calls.append(1))
    plan = Plan((DropUnits(graph.groups[0].name, (0,)), DropUnits(graph.groups[1].name, (0, 1))))
    thin = apply(net, graph, plan)
    assert not calls
    thin(images(1))
    assert calls == [1]


def test_a_second_forward_that_computes_something_else_proves_nothing() -> None:
    class Other(Split):
        def forward_split(self, x: Tensor) -> Tensor:
            return super().forward_split(x) * 2

    thin = thinned(Net(Other()))
    assert thin.step.c == 6


class Gate(nn.Module):
    """A size that is a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = conv(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.view(-1, 6, 8, 8))


def test_widths_are_looked_for_when_the_code_inside_has_followed() -> None:
    class Gated(Split):
        def __init__(self) -> None:
            super().__init__()
            self.inner.append(Gate())

    thin = thinned(Net(Gated()))
    assert thin.step.c * 2 == thin.step.cv1[0].out_channels < 12
