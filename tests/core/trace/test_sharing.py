"""Modules, weights and buffers that several places share, and the names of what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nets import Head, conv, images, lived_in, make
from plans import half, sizes
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace


def thinned(net: nn.Module) -> tuple[Graph, nn.Module]:
    """Remove half of every group and check that the result is right, also on paper."""
    lived_in(net)
    graph = trace(net, images(1))
    plan = half(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(3, seed=4)).exact
    assert size(graph, plan).params == sum(p.numel() for p in thin.parameters())
    return graph, thin


# -- modules ------------------------------------------------------------------------------------------------


class Siamese(nn.Module):
    """One trunk for two views; their features meet in a difference."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(conv(3, 8), conv(8, 6)), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.trunk(x) - self.trunk(x.flip(3))).abs())


def test_a_trunk_for_two_views() -> None:
    graph, _ = thinned(Siamese())
    assert sizes(graph) == {"trunk.0.0": 8, "trunk.1.0": 6}
    assert [cost.layer for cost in graph.costs] == ["trunk.0.0", "trunk.1.0", "trunk.0.0", "trunk.1.0", "head.fc"]


class SharedHead(nn.Module):
    """One head reads two levels of a pyramid: their channels go together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.tower, self.head = conv(3, 8), conv(8, 8, stride=2), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> list[Tensor]:
        one = self.one(x)
        return [self.head(self.tower(level)) for level in (one, self.two(one))]


def test_a_head_for_two_levels() -> None:
    graph, _ = thinned(SharedHead())
    assert sizes(graph) == {"one.0": 8, "tower.0": 6}
    assert graph.group("one.0").layers == ("one.0", "two.0")


class SharedNorm(nn.Module):
    """One norm behind two layers binds them, though they never meet."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.left, self.right = Head(8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.norm(self.one(x))) + self.right(self.norm(self.two(x)))


def test_a_norm_for_two_layers() -> None:
    graph, thin = thinned(SharedNorm())
    assert sizes(graph) == {"one": 8}
    assert thin.norm.num_features == thin.two.out_channels == 4


def test_a_module_under_two_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 8), Head(8)
            self.mid = conv(8, 8)
            self.alias = self.mid

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.alias(self.mid(self.stem(x))))

    graph, thin = thinned(Net())
    assert sizes(graph) == {"stem.0": 8}
    assert thin.alias is thin.mid


# -- weights and buffers ------------------------------------------------------------------------------------


class TiedTransposed(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight, self.out = conv(3, 6), nn.Parameter(torch.randn(8, 6)), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = torch.tanh(x @ self.weight.t()) @ self.weight
        return self.out(x.permute(0, 3, 1, 2))


def test_a_weight_that_is_used_in_both_directions_shrinks_in_both() -> None:
    graph, thin = thinned(TiedTransposed())
    assert sizes(graph) == {"stem.0": 6, "weight": 8}
    assert thin.weight.shape == (4, 3)
    assert graph.tied == {"weight"}


def test_tied_layers_shrink_once_and_stay_tied() -> None:
    graph, thin = thinned(make("tied"))
    assert thin.a.weight is thin.b.weight
    assert sorted(name for name in graph.tensors if name.endswith(".weight")) == [
        "a.weight",
        "head.fc.weight",
        "stem.0.weight",
        "stem.1.weight",
    ]


class Buffers(nn.Module):
    """A mask, a table that is not saved, a count that no operator sees, and one buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = conv(3, 8), conv(8, 6), Head(6)
        self.register_buffer("mask", torch.rand(1, 8, 1, 1) > 0.3)
        self.register_buffer("table", torch.rand(6), persistent=False)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("unused", torch.rand(8))
        self.register_buffer("again", self.table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.stem(x) * self.mask) * self.table[:, None, None]
        return self.head(x + self.again[:, None, None])


def test_buffers_shrink_with_their_channels() -> None:
    net = Buffers()
    graph, thin = thinned(net)
    assert sizes(graph) == {"stem.0": 8, "mid.0": 6}
    assert torch.equal(thin.mask, net.mask[:, 1::2])
    assert torch.equal(thin.table, net.table[1::2])
    assert thin.again is thin.table
    assert thin.steps == 7
    assert torch.equal(thin.unused, net.unused)
    assert thin.state_dict().keys() == net.state_dict().keys()
    assert not graph.parameters & {"mask", "table", "steps", "unused", "again"}


def test_a_buffer_that_is_shared_by_two_widths_pins_neither_more_than_needed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = conv(3, 8), conv(8, 8), Head(8)
            self.register_buffer("ramp", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(x) * self.ramp) * self.ramp)

    graph, thin = thinned(Net())
    assert sizes(graph) == {"one.0": 8}  # the buffer binds what it touches
    assert graph.group("one.0").layers == ("one.0", "two.0")
    assert thin.ramp.shape == (1, 4, 1, 1)


# -- names --------------------------------------------------------------------------------------------------


def test_groups_of_one_layer_are_numbered_in_the_order_of_its_channels() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(3, 15)
            self.a, self.b, self.c, self.head = conv(4, 3), conv(5, 3), conv(6, 3), Head(9)

        def forward(self, x: Tensor) -> Tensor:
            a, b, c = self.stem(x).split([4, 5, 6], 1)
            return self.head(torch.cat([self.c(c), self.a(a), self.b(b)], 1))

    graph, _ = thinned(Three())
    assert sizes(graph) == {"stem.0": 4, "stem.0#2": 5, "stem.0#3": 6, "c.0": 3, "a.0": 3, "b.0": 3}
    assert list(sizes(graph)) == ["stem.0", "stem.0#2", "stem.0#3", "c.0", "a.0", "b.0"]


@pytest.mark.parametrize("name", ["option A", "uneven split", "first channels", "cat then add", "frozen norm"])
def test_names_are_unique_and_those_of_layers_that_make(name: str) -> None:
    net = make(name)
    graph = trace(net, images(1))
    names = [g.name for g in graph.groups]
    assert len(set(names)) == len(names)
    modules = dict(net.named_modules())
    assert all(n.partition("#")[0] in modules for n in names)
    assert all(n.partition("#")[0] == g.layers[0] for n, g in zip(names, graph.groups, strict=True))


def test_names_do_not_change_when_another_group_shrinks() -> None:
    net = make("first channels")
    graph = trace(net, images(1))
    thin = apply(net, graph, Plan((DropUnits("stem.0#2", (0, 1, 2)),)))
    assert sizes(trace(thin, images(1))) == {"stem.0": 16, "stem.0#2": 5, "part.0": 6}
