"""Sizes written into Python code are found, followed and rewritten, in evaluation and in training mode."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import Head, conv, images, lived_in, make
from secateur.core.code.written_numbers import is_reshaping, is_written, record, reshaping_nodes
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, masked, relative_difference, run, verify
from secateur.core.surgery.rewriting import Change, rewrite
from secateur.core.trace import trace
from secateur.errors import ModelError
from written import changes

Forward = Callable[["Written", Tensor], Tensor]


class Written(nn.Module):
    """A stem of 12 channels, one step that names sizes, and a head for what comes out."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.inner, self.head = conv(3, 12), conv(5, 5), Head(width)

    def step(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self.stem(x)))


def gated(self: Written, x: Tensor) -> Tensor:
    a, b = x.split(6, 1)
    return a * torch.sigmoid(b)


def named(self: Written, x: Tensor) -> Tensor:
    a, b = torch.split(x, split_size_or_sections=[5, 7], dim=1)
    return torch.cat([b, self.inner(a)], 1)


# how it is written, what it does to (N, 12, 8, 8), and the channels that come out; n sizes follow the widths
WAYS: dict[str, tuple[Forward, int, int]] = {
    "view": (lambda self, x: x.view(-1, 12, 64).view(-1, 12, 8, 8), 12, 2),
    "view of a tuple": (lambda self, x: x.view((x.shape[0], 12, 64))[..., None], 12, 1),
    "view, size()": (lambda self, x: x.view(x.size(0), 12, x.size(2), x.size(3)), 12, 1),
    "reshape": (lambda self, x: x.reshape(-1, 12, 4, 16), 12, 1),
    "reshape of a list": (lambda self, x: torch.reshape(x, [-1, 12, 4, 16]), 12, 1),
    "view, named": (lambda self, x: x.view(size=(-1, 12, 4, 16)), 12, 1),
    "reshape, named": (lambda self, x: torch.reshape(x, shape=(-1, 12, 4, 16)), 12, 1),
    "expand": (lambda self, x: x * x.mean((2, 3), keepdim=True).expand(-1, 12, 8, 8), 12, 1),
    "unflatten": (lambda self, x: x.flatten(1).unflatten(1, (12, 64))[..., None], 12, 1),
    "split": (lambda self, x: torch.cat([self.inner(x.split([5, 7], 1)[0]), x.split([5, 7], 1)[1]], 1), 12, 4),
    "split, named": (named, 12, 2),
    "equal split": (gated, 6, 1),
    "narrow": (lambda self, x: torch.cat([self.inner(x.narrow(1, 0, 5)), x.narrow(1, 5, 7)], 1), 12, 3),
    "narrow, named": (lambda self, x: self.inner(x.narrow(dim=1, start=0, length=5)), 5, 1),
    "unflatten, named": (lambda self, x: torch.unflatten(x.flatten(1), dim=1, sizes=(12, 64))[..., None], 12, 1),
    "beside names alone": (
        lambda self, x: torch.narrow(input=x, dim=2, start=0, length=8).view(-1, 12, 64)[..., None],
        12,
        1,
    ),
    "first": (lambda self, x: self.inner(x[:, :5]), 5, 1),
    "last": (lambda self, x: self.inner(x[:, -5:]), 5, 1),
    "all but the last": (lambda self, x: self.inner(x[:, :-7]), 5, 1),
    "from the middle": (lambda self, x: self.inner(x[:, 4:9]), 5, 2),
    "ellipsis": (lambda self, x: self.inner(x[..., 2:7, :, :]), 5, 2),
    "pad": (lambda self, x: F.pad(x, (0, 0, 0, 0, 2, 3)) + F.pad(self.inner(x[:, :5]), (0, 0, 0, 0, 0, 12)), 17, 4),
    "pad, named": (lambda self, x: F.pad(self.inner(x[:, :5]), pad=(0, 0, 0, 0, 3, 0)), 8, 2),
}


def written(name: str) -> tuple[nn.Module, Graph]:
    step, width, _ = WAYS[name]
    net = lived_in(type("Written", (Written,), {"step": step})(width))
    return net, trace(net, images(1))


def uneven(graph: Graph) -> Plan:
    """Every third unit, so that parts of a tensor shrink by different amounts."""
    return Plan(tuple(DropUnits(g.name, tuple(range(0, g.size - 1, 3))) for g in graph.groups))


@pytest.mark.parametrize("name", WAYS)
def test_written_sizes_follow_the_widths(name: str) -> None:
    net, graph = written(name)
    assert {rewrite.module for rewrite in graph.rewrites} == {""}
    assert sum(len(rewrite.literals) for rewrite in graph.rewrites) == WAYS[name][2]
    assert sum(row.prunable for row in graph.explain().rows if row.layer == "stem.0") == 12
    plan = uneven(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), images(3, seed=2)).exact


@pytest.mark.parametrize("name", WAYS)
def test_the_rewritten_network_computes_the_same_in_training_mode(name: str) -> None:
    net, graph = written(name)
    net.double()
    plan = uneven(graph)
    thin, x = apply(net, graph, plan), images(4, dtype=torch.float64)
    with masked(net.train(), graph, plan):
        expected = net(x)
    assert relative_difference(expected, thin.train()(x)) < 1e-9
    assert relative_difference(run(net, x), expected) > 1e-3  # the two modes differ


# -- finding ------------------------------------------------------------------------------------------------


class Shapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]  # slicing a shape is no call on a tensor
        x = x.view(n, c, 8 * 8)
        return x[:, :12].reshape(x.size()[0], 12, c // 12, -1)


def test_constants_are_told_from_what_is_computed() -> None:
    graph = record(Shapes())
    assert graph is not None
    assert [str(node.target) for node in reshaping_nodes(graph)][::2] == ["view", "reshape"]
    assert is_written(graph, 0, "view", ("args", 2)) is False
    assert is_written(graph, 0, "view", ("args", 3)) is True
    assert is_written(graph, 1, "__getitem__", ("args", 1, 1, "stop")) is True
    assert is_written(graph, 2, "reshape", ("args", 2)) is True
    assert is_written(graph, 2, "reshape", ("args", 3)) is False


def test_a_place_that_the_recording_does_not_have_is_unknown() -> None:
    graph = record(Shapes())
    assert is_written(graph, 3, "view", ("args", 1)) is None
    assert is_written(graph, 0, "reshape", ("args", 1)) is None
    assert is_written(graph, 0, "view", ("args", 9)) is None
    assert is_written(graph, 0, "view", ("kwargs", "shape", 0)) is None
    assert is_written(None, 0, "view", ("args", 1)) is None


@pytest.mark.parametrize(
    ("index", "matters"),
    [(slice(0, 3), True), ((slice(None), slice(0, 3)), True), (0, False), ((0, 1), False), (None, False)],
)
def test_picking_by_number_is_no_reshaping(index: object, matters: bool) -> None:
    assert is_reshaping("__getitem__", (torch.zeros(4, 4), index)) == matters


class Looping(nn.Module):
    """Cannot be recorded: how often it loops depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        while float(self.limit) > 1e6:
            x = x / 2
        return x.view(-1, 12 * int(self.limit), 64)


def test_what_cannot_be_recorded_is_no_error_while_looking() -> None:
    assert record(Looping()) is None
    assert record(Shapes()) is not None


# -- rewriting ----------------------------------------------------------------------------------------------


class Modes(nn.Module):
    """Names the size at different calls in training and in evaluation mode."""

    def __init__(self, training_call: str = "view") -> None:
        super().__init__()
        self.weight, self.training_call = nn.Parameter(torch.ones(1)), training_call

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * self.weight * 2
            return x.view(-1, 6) if self.training_call == "view" else x.reshape(-1, 6)
        return x.view(-1, 6)


def test_both_modes_are_rewritten_and_told_apart() -> None:
    module = Modes()
    x = torch.arange(8.0)
    rewrite(module, changes(module, torch.arange(12.0), [(0, "view", ("args", 2), 4)]))
    assert module.training
    assert torch.equal(module(x), 2 * x.view(-1, 4))
    assert torch.equal(module.eval()(x), x.view(-1, 4))
    assert torch.equal(copy.deepcopy(module).train()(x), 2 * x.view(-1, 4))


def test_a_mode_with_other_calls_is_refused_and_the_mode_restored() -> None:
    module = Modes("reshape").eval()
    with pytest.raises(ModelError, match=r"Modes\.forward cannot be adapted") as caught:
        rewrite(module, [Change(0, "view", ("args", 2), 4)])
    assert "\n" not in str(caught.value)
    assert not module.training
    assert type(module) is Modes


def test_a_forward_that_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Looping\.forward cannot be adapted"):
        rewrite(Looping(), [Change(0, "view", ("args", 2), 8)])
    with pytest.raises(ModelError, match=r"Shapes\.forward cannot be adapted"):
        rewrite(Shapes(), [Change(7, "view", ("args", 2), 8)])


def test_channels_of_an_unrecordable_forward_stay_and_the_rest_goes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mid, self.loop, self.head = conv(3, 8), conv(8, 12), Looping(), nn.Conv1d(12, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.loop(self.mid(self.stem(x))))

    net = lived_in(Net())
    graph = trace(net, images(1))
    assert {g.name: g.size for g in graph.groups} == {"stem.0": 8}
    row = next(row for row in graph.explain().rows if row.layer == "mid.0")
    assert row.reason == "its size is written into the code (view in 'loop')"
    assert row.remedy == "compute the size from the input's shape, or use -1"


def test_the_module_stays_itself() -> None:
    net = make("written view")
    net.register_buffer("unused", torch.ones(2))
    calls: list[str] = []
    net.register_forward_hook(lambda *_: calls.append("hook"))
    graph = trace(net, images(1))
    calls.clear()
    thin = apply(net, graph, uneven(graph))
    assert isinstance(thin, type(net))
    assert type(thin).__qualname__ == type(net).__qualname__
    assert thin.state_dict().keys() == net.state_dict().keys()
    assert [name for name, _ in thin.named_modules()] == [name for name, _ in net.named_modules()]
    assert type(thin).forward is not type(net).forward
    assert "forward" not in {**vars(thin), **vars(net)}
    run(thin, images(1))
    assert calls == ["hook"]


def test_several_sizes_of_one_module_change_independently() -> None:
    net, graph = written("split")
    plan = Plan((DropUnits(graph.groups[0].name, (0, 2)), DropUnits(graph.groups[1].name, (1, 3, 5))))
    thin = apply(net, graph, plan)
    seen: list[int] = []
    thin.inner.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    thin.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    run(thin, images(1))
    inner = {g.name: g.size for g in graph.groups}["inner.0"]
    assert seen == [3, inner + 4]
    assert verify(net, graph, plan, thin, images(2)).exact


def test_constants_that_the_code_makes_come_along() -> None:
    class Weighing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 12), Head(12)

        def forward(self, x: Tensor) -> Tensor:
            ramp = torch.linspace(0.0, 1.0, 8)
            return self.head((self.stem(x) * ramp).view(-1, 12, 8, 8))

    net = lived_in(Weighing())
    graph = trace(net, images(1))
    plan = uneven(graph)
    thin = apply(net, graph, plan)
    assert len(graph.rewrites) == 1
    assert verify(net, graph, plan, thin, images(2)).exact
    assert thin.state_dict().keys() == net.state_dict().keys()
    twin = copy.deepcopy(thin).double()
    assert relative_difference(run(thin, images(1)), run(twin, images(1).double())) < 1e-5


def test_one_module_used_in_two_places_is_not_rewritten_for_one_of_them() -> None:
    """The same written size would have to become two different numbers."""

    class Cutting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :5]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.cut, self.head = conv(3, 8), conv(3, 8), Cutting(), Head(10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.cut(self.one(x)), self.cut(self.two(x))], 1))

    net = lived_in(Net())
    graph = trace(net, images(1))
    assert not graph.rewrites
    plan = uneven(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact
