"""A network that is cut in place is the thin one for everybody who holds it, or a part of it."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import SOME_FIRST, Head, conv, images, lived_in, make
from secateur.core.plan import Block, DropUnits, Plan, Regroup
from secateur.core.surgery import apply, become, run, tensors_in
from secateur.core.trace import trace

PLAN = Plan((DropUnits("0.0", (1, 4, 5)), DropUnits("1.0", (0, 3))))


def network() -> nn.Module:
    return lived_in(nn.Sequential(conv(3, 8), conv(8, 6), Head(6)))


def cut(net: nn.Module, plan: Plan) -> nn.Module:
    """Cut a network in place; return what it has to be."""
    thin = apply(net, trace(net, images(dtype=next(net.parameters()).dtype)), plan)
    expected = copy.deepcopy(thin)
    become(net, thin)
    return expected


def first_units(net: nn.Module) -> Plan:
    return Plan(tuple(DropUnits(group.name, (0,)) for group in trace(net, images()).groups if group.size > 1))


@pytest.mark.parametrize("name", SOME_FIRST)
def test_every_network_becomes_its_thin_self_twice(name: str) -> None:
    net = lived_in(make(name))
    for _ in range(2):
        parts, weights = list(net.modules()), dict(net.named_parameters())
        expected = cut(net, first_units(net))
        gc.collect()
        for one, other in zip(tensors_in(run(net, images())), tensors_in(run(expected, images())), strict=True):
            assert torch.equal(one, other)
        assert all(a is b for a, b in zip(parts, net.modules(), strict=True))
        assert all(weights[key] is value for key, value in net.named_parameters())
        assert {k: v.shape for k, v in net.state_dict().items()} == {
            k: v.shape for k, v in expected.state_dict().items()
        }
        assert [type(m).__qualname__ for m in net.modules()] == [type(m).__qualname__ for m in expected.modules()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_backward_works_while_somebody_holds_a_graph_from_before(dtype: torch.dtype) -> None:
    net = network().to(dtype)
    heard: list[torch.Size] = []
    net[0][0].weight.register_post_accumulate_grad_hook(lambda tensor: heard.append(tensor.shape))
    loss = net(images(dtype=dtype)).square().mean()  # which holds the ends of the graph, where gradients arrive
    loss.backward()
    cut(net, PLAN)
    assert all(parameter.grad is None for parameter in net.parameters())
    net(images(dtype=dtype)).square().mean().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in net.parameters())
    assert heard == [torch.Size((8, 3, 3, 3)), torch.Size((5, 3, 3, 3))]


class Settings:
    """What somebody's code hands around: not to be copied, and the same for all."""

    def __init__(self) -> None:
        self.names = ["a", "b"]


class Sized(nn.Module):
    """Reads its widths from attributes, and keeps all sorts of things beside them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings, self.sizes, self.shared = settings, {"width": 4}, SimpleNamespace(width=4)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.chain = [self.a, self.b]
        self.first = self.a.weight
        self.call = self.stem
        self.part = functools.partial(torch.add, self.a.bias)
        self.register_buffer("count", torch.zeros(8))

    def stem(self, x: Tensor) -> Tensor:
        return self.chain[0](x)

    def forward(self, x: Tensor) -> Any:
        one, other = self.call(x).split((self.sizes["width"], self.shared.width), 1)
        return self.b(one * other)


def test_attributes_that_the_cut_does_not_change_stay_the_objects_that_they_were() -> None:
    settings = Settings()
    net = lived_in(Sized(settings))
    chain, call = net.chain, net.call
    graph = trace(net, images())
    plan = Plan((DropUnits(graph.groups[0].name, (0, 2)),))
    thin = apply(net, graph, plan)
    expected = run(thin, images())
    become(net, thin)
    assert net.settings is settings
    assert net.chain is chain
    assert net.call is call
    assert net.chain[0] is net.a
    assert net.first is net.a.weight
    assert net.part.args[0] is net.a.bias
    assert net.a.weight.shape[0] == 4
    assert (net.sizes["width"], net.shared.width) == (2, 2)
    assert torch.equal(run(net, images()), expected)


def test_hooks_and_their_handles_and_compiled_calls_stay() -> None:
    net = network()
    seen: list[int] = []
    handle = net[0].register_forward_hook(lambda module, given, output: seen.append(output.shape[1]))
    net[1].compile(backend="eager")
    compiled = net[1]._compiled_call_impl
    cut(net, PLAN)
    seen.clear()
    net(images())
    assert seen == [5]
    assert net[1]._compiled_call_impl is compiled
    handle.remove()
    net(images())
    assert seen == [5]


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_network_follows() -> None:
    net = network()
    compiled = torch.compile(net, backend="eager")
    before = compiled(images())
    expected = cut(net, PLAN)
    assert torch.allclose(compiled(images()), run(expected, images()), atol=1e-6)
    assert not torch.allclose(before, compiled(images()))


def test_ties_and_modes_and_frozen_weights_stay() -> None:
    net = network().train()
    net[0].requires_grad_(False)
    net[0].eval()
    cut(net, PLAN)
    assert [p.requires_grad for p in net[0].parameters()] == [False] * 3
    assert (net.training, net[0].training, net[1].training) == (True, False, True)


def test_regrouped_layers_get_other_parameters_in_the_same_place() -> None:
    net = network()
    layer = net[1][0]
    expected = cut(net, Plan((Regroup("1.0", (Block((0, 1, 2), (0, 1)), Block((3, 4, 5), (4, 6, 7)))),)))
    assert net[1][0] is layer
    assert type(layer).__name__ == "BlockConv2d"
    assert torch.equal(run(net, images()), run(expected, images()))
    assert net.state_dict().keys() == expected.state_dict().keys()


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, 8, 64).mean(2)


class Holding(nn.Module):
    """Holds a function with a width in its source."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.function, self.fc = conv(3, 8), flat, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.body(x)))


def test_functions_that_are_held_can_be_read_and_cut_again_when_the_thin_network_is_gone() -> None:
    net = lived_in(Holding())
    for width in (7, 6):
        cut(net, first_units(net))
        gc.collect()
        assert f"reshape(-1, {width}, 64)" in inspect.getsource(net.function)
        assert net(images()).shape == (2, 5)
