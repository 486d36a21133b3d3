"""Widths that no reshaping call shows: the attribute that holds them follows, or what meets them stays."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nets import Head, conv, lived_in
from pictures import images
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace


class Net(nn.Module):
    def __init__(self, middle: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.stem, self.middle, self.last, self.head = conv(3, 16), middle, conv(width, 12), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.middle(self.stem(x))))


def assert_any_cut_is_exact(net: nn.Module, graph: Graph) -> None:
    for step in (2, 3, 5):
        plan = Plan(
            tuple(DropUnits(g.name, tuple(range(i % 2, g.size - 1, step + i))) for i, g in enumerate(graph.groups))
        )
        assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact


class Asserts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels, self.out, self.inner = 16, 10, nn.Conv2d(16, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        x = self.inner(x)
        if x.shape[1] != self.out:
            raise ValueError(f"{self.out} channels are expected")
        return x


class OfTheClass(nn.Module):
    channels = 16

    def forward(self, x: Tensor) -> Tensor:
        assert x.size(1) == self.channels
        assert self.channels % 1 == 0
        return x


@dataclass(frozen=True)
class Settings:
    width: int
    name: str = "x"


class Pair(NamedTuple):
    width: int
    other: int


class Configured(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == (self.config["width"] if isinstance(self.config, dict) else self.config.width)
        return x


def padded(x: Tensor, planes: int) -> Tensor:
    zeros = torch.zeros(x.shape[0], planes - x.shape[1], *x.shape[2:], dtype=x.dtype)
    return torch.cat((x, zeros), 1)


def closing_over(planes: int) -> Callable[[Tensor], Tensor]:
    return lambda x: padded(x, planes)


class ZeroShortcut(nn.Module):
    def __init__(self, shortcut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.grow, self.short = nn.Conv2d(16, 24, 1), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.grow(x) + self.short(x)


class Branches(nn.Module):
    """Runs with any width, but another way."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) if x.shape[1] == self.width else x


FOLLOWED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # network, width that leaves it, groups
    "assert": (Asserts, 10, 3),
    "class attribute": (OfTheClass, 16, 2),
    "dataclass": (lambda: Configured(Settings(16)), 16, 2),
    "namespace": (lambda: Configured(SimpleNamespace(width=16)), 16, 2),
    "named tuple": (lambda: Configured(Pair(16, 3)), 16, 2),
    "dict": (lambda: Configured({"width": 16}), 16, 2),
    "keyword of a partial": (lambda: ZeroShortcut(functools.partial(padded, planes=24)), 24, 2),
    "closure": (lambda: ZeroShortcut(closing_over(24)), 24, 2),
}


@pytest.mark.parametrize("kind", FOLLOWED)
def test_numbers_follow_the_widths(kind: str) -> None:
    make, width, groups = FOLLOWED[kind]
    net = lived_in(Net(make(), width))
    graph = trace(net, images(1))
    assert len(graph.groups) == groups
    assert graph.assignments
    assert_any_cut_is_exact(net, graph)


def test_what_was_set_is_saved_and_the_dense_network_keeps_its_own() -> None:
    net = lived_in(Net(ZeroShortcut(functools.partial(padded, planes=24)), 24))
    graph = trace(net, images(1))
    plan = Plan((DropUnits(graph.groups[0].name, (0, 3)),))
    thin = apply(net, graph, plan)
    file = io.BytesIO()
    torch.save(thin, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(images(2)), thin(images(2)))
    assert loaded.middle.short.keywords == {"planes": 22}
    assert net.middle.short.keywords == {"planes": 24}  # pyright: ignore


def test_all_modules_of_a_class_follow_at_once() -> None:
    net = lived_in(nn.Sequential(*(part for _ in range(70) for part in (nn.Conv2d(3, 3, 1), ThreeWide())), Head(3)))
    graph = trace(net, images(1))
    assert len(graph.assignments) == 70
    assert_any_cut_is_exact(net, graph)


class ThreeWide(nn.Module):
    channels = 3

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return x


class Written(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 16
        return x


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.half = 8

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 2 * self.half + 0 * len(str(self))
        return x


class WrittenConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * torch.ones(1, 16, 1, 1))


class Equalised(nn.Conv2d):
    """Its scale is computed from how many weights each output reads, which is another number in a thinner network."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * (2 / self.weight.shape[1]) ** 0.5, self.bias)


class EqualisedByOne(Equalised):
    """Reads its first output as such, which has to stay."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * (2 / self.weight[0].numel()) ** 0.5, self.bias)


class ByChannels(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.in_channels


class Ternary(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().sum((1, 2, 3), keepdim=True) / (self.weight.shape[1] * 9)
        return self._conv_forward(x, self.weight.sign() * scale, self.bias)


PINNED: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {  # network, groups that are left
    "written": (Written, {"last.0"}),
    "another number": (Doubled, {"last.0"}),
    "a written constant": (WrittenConstant, {"middle.inner", "last.0"}),
    "branch": (Branches, {"last.0"}),
    "equalised": (lambda: Equalised(16, 16, 3, padding=1), {"middle", "last.0"}),
    "equalised by one": (lambda: EqualisedByOne(16, 16, 3, padding=1), {"last.0"}),
    "by channels": (lambda: ByChannels(16, 16, 3, padding=1), {"middle", "last.0"}),
    "ternary": (lambda: Ternary(16, 16, 3, padding=1), {"middle", "last.0"}),
}


@pytest.mark.parametrize("kind", PINNED)
def test_where_nothing_can_be_set_only_what_meets_the_code_stays(kind: str) -> None:
    make, groups = PINNED[kind]
    net = lived_in(Net(make()))
    graph = trace(net, images(1))
    assert {group.name for group in graph.groups} == groups
    assert_any_cut_is_exact(net, graph)
    row = next(row for row in graph.explain().rows if row.layer == "stem.0")
    reasons = ("in a way that was not understood", "combined with a tensor whose size is fixed")
    assert any(reason in row.reason for reason in reasons)


def test_shared_settings_stay_as_they_are() -> None:
    shared = SimpleNamespace(width=16)
    net = lived_in(Net(Configured(shared)))
    graph = trace(net, images(1))
    apply(net, graph, Plan((DropUnits("stem.0", (1, 2)),)))
    assert shared.width == 16


def test_a_whole_transformer_of_torch_loses_width_with_what_it_embeds() -> None:
    class Translating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
            self.queries, self.head = nn.Parameter(torch.randn(1, 5, 16)), nn.Linear(16, 7)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.transformer(tokens, self.queries.expand(len(x), -1, -1)))

    net = Translating().eval()
    graph = trace(net, images(2))
    assert graph.group("patches").size == 16
    assert_any_cut_is_exact(net, graph)
    assert apply(net, graph, Plan((DropUnits("patches", (0, 1)),))).transformer.d_model == 14
