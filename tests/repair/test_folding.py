"""What removed units sent is given to the kept ones by weights alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nets import NETS, SOME_FIRST, Head, images, lived_in, make
from secateur.core.graph import Graph, Group, tensor_of
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.surgery import apply, tensors_in
from secateur.core.trace import trace
from secateur.events import Event
from secateur.repair import Judge, fold, repair, taken
from secateur.training import recalibrate


def copied(net: nn.Module, group: Group, gone: int, kept: int) -> None:
    """Make a unit a copy of another, but for what reads it."""
    with torch.no_grad():
        for member in group.members:
            if member.role != "reads":
                tensor = tensor_of(net, member.tensor).movedim(member.dim, 0)
                tensor[member.unit == gone] = tensor[member.unit == kept].clone()


def folded(net: nn.Module, graph: Graph, plan: Plan) -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    """Return the cut network, the same folded, and the layers that have changed."""
    bare = apply(net, graph, plan)
    thin = copy.deepcopy(bare)
    return bare, thin, fold(net, thin, graph, plan, [images(1)])


ALONE = {"channel statistics (CBAM)": 1, "python branch": 1}
"""How many groups are left alone: those over which statistics run, and those that no weight reads here."""


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_copy_is_replaced_exactly_in_every_kind_of_group_or_the_group_is_left_alone(name: str) -> None:
    graph, alone = trace(make(name), images(1)), 0
    for group in graph.free:
        if group.size < 3:
            continue
        net = make(name)
        copied(net, group, 1, 2)
        bare, thin, changed = folded(net, graph, Plan((DropUnits(group.name, (1,)),)))
        x = images(3, seed=5)
        if changed:
            torch.testing.assert_close(thin(x), net(x), atol=1e-4, rtol=1e-4)
        else:
            assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), thin.parameters(), strict=True))
            alone += 1
    assert alone == ALONE.get(name, 0)


@pytest.mark.parametrize("name", SOME_FIRST)
def test_the_outputs_are_closer_to_the_dense_ones_or_next_to_nothing_changes(name: str) -> None:
    folds, cuts = 0.0, 0.0
    for seed in range(3):
        torch.manual_seed(seed)
        net = lived_in(NETS[name]())
        recalibrate(net, [(images(64, seed=9), None)])  # statistics that are none of the network's say nothing of units
        graph = trace(net, images(1))
        bare, thin, _ = folded(net, graph, Plan(tuple(DropUnits(it.name, (0,)) for it in graph.free if it.size >= 3)))
        cuts, folds = cuts + error(net, bare), folds + error(net, thin)
    assert folds <= 1.3 * cuts  # weights drawn at random have little in common


def error(net: nn.Module, other: nn.Module) -> float:
    x = images(64, seed=5)
    with torch.no_grad():
        pairs = zip(tensors_in(net(x)), tensors_in(other(x)), strict=True)
        return sum(float((wanted - found).square().sum()) for wanted, found in pairs)


def normed(*, affine: bool = True, between: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8, affine=affine),
        between or nn.ReLU(),
        nn.Conv2d(8, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        Head(5),
    )
    return lived_in(net)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("between", "times"), [(nn.ReLU(), 3.0), (nn.LeakyReLU(), 0.5), (nn.Identity(), -2.0)])
def test_a_multiple_is_replaced_exactly(between: nn.Module, times: float, affine: bool) -> None:
    net = normed(affine=affine, between=between)
    graph = trace(net, images(1))
    copied(net, graph.group("0"), 1, 4)
    with torch.no_grad():
        if affine:
            net[1].weight[1] *= times
            net[1].bias[1] *= times
        else:
            net[0].weight[1] *= times
            net[0].bias[1] *= times
            net[1].running_mean[1] *= times
    bare, thin, changed = folded(net, graph, Plan((DropUnits("0", (1,)),)))
    x = images(4, seed=3)
    assert changed == ("3",)
    assert float((bare(x) - net(x)).detach().abs().max()) > 1e-3
    torch.testing.assert_close(thin(x), net(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("limit", [nn.ReLU6(), nn.ReLU()])
def test_a_depthwise_convolution_may_lie_between(limit: nn.Module) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), limit]
    layers += [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), limit, nn.Conv2d(8, 4, 1), Head(4)]
    net = lived_in(nn.Sequential(*layers))
    graph = trace(net, images(1))
    group = graph.free[0]
    copied(net, group, 2, 6)
    with torch.no_grad():  # half before, and three times as much behind
        net[1].weight[2] *= 0.5
        net[1].bias[2] *= 0.5
        net[3].weight[2] *= 2
        net[4].weight[2] *= 3
        net[4].bias[2] *= 3
    _, thin, _ = folded(net, graph, Plan((DropUnits(group.name, (2,)),)))
    x = images(4, seed=3)
    torch.testing.assert_close(thin(x), net(x), atol=1e-4, rtol=1e-4)


def test_multiples_are_not_taken_for_copies_where_nothing_scales_with_them() -> None:
    net = normed(between=nn.Sigmoid())
    graph = trace(net, images(1))
    copied(net, graph.group("0"), 1, 4)
    with torch.no_grad():
        net[1].weight[1] *= 3
        net[1].bias[1] *= 3
    assert folded(net, graph, Plan((DropUnits("0", (1,)),)))[2] == ()


def test_what_a_plan_has_zeroed_is_left_alone_and_so_is_the_dense_network() -> None:
    net = make("plain").train()
    graph = trace(net, images(1))
    before = copy.deepcopy(net.state_dict())
    group, other = graph.free
    zero = ZeroWeights.of(f"{other.name}.weight", torch.rand(tensor_of(net, f"{other.name}.weight").shape) > 0.5)
    assert folded(net, graph, Plan((DropUnits(group.name, (0, 1)), zero)))[2] == ()
    assert folded(net, graph, Plan((DropUnits(group.name, (0, 1)),)))[2] == (other.name,)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_several_copies_fold_in_half_precision_too() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    copied(net, graph.free[0], 0, 3)
    copied(net, graph.free[0], 5, 3)
    plan = Plan((DropUnits(graph.free[0].name, (0, 5)),))
    half = copy.deepcopy(net).bfloat16()
    thin = apply(half, graph, plan)
    assert fold(half, thin, graph, plan, [images(1).bfloat16()])
    torch.testing.assert_close(thin.float()(images()), net(images()), atol=0.05, rtol=0.05)


def test_copies_fold_in_double_precision_too() -> None:
    net, x = make("plain").double(), images(1, dtype=torch.float64)
    graph = trace(net, x)
    group = graph.free[0]
    copied(net, group, 1, 2)
    plan = Plan((DropUnits(group.name, (1,)),))
    thin = apply(net, graph, plan)
    assert fold(net, thin, graph, plan, [x])
    x = images(3, seed=5, dtype=torch.float64)
    torch.testing.assert_close(thin(x), net(x), atol=1e-10, rtol=1e-10)


def test_means_are_not_folded_in_once_more() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    plan = Plan((DropUnits(graph.free[0].name, (0, 1)),))
    steps = ("recalibrate", "compensate", "fold")
    thin = apply(net, graph, plan)
    assert [name for name, _ in taken(steps, net, thin, graph, plan, [images(4)], 0)] == ["fold", "recalibrate"]
    heard: list[Event] = []
    repair(net, apply(net, graph, plan), graph, plan, [images(4)], steps, tell=heard.append)
    assert any("without compensate: it would undo part of what fold has won" in event.text for event in heard)


def idle(width: int = 16, dead: int = 4) -> nn.Sequential:
    """Return a network whose first channels are dead, so that those of the depthwise convolution do not vary."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    net = lived_in(nn.Sequential(*layers, nn.Conv2d(width, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Head(8)))
    with torch.no_grad():
        net[1].bias[:dead] = -8
        for norm, upto in ((net[4], 4), (net[7], 7)):
            found = net[:upto](images(64, seed=9))
            norm.running_mean.copy_(found.mean((0, 2, 3)))
            norm.running_var.copy_(found.var((0, 2, 3)))
    return net


@pytest.mark.parametrize("gone", [(0, 1), (0, 5, 6), (8, 9, 10)])
def test_channels_that_do_not_vary_stand_in_for_nobody(gone: tuple[int, ...]) -> None:
    net = idle()
    graph = trace(net, images(1))
    bare, thin, _ = folded(net, graph, Plan((DropUnits(graph.free[0].name, gone),)))
    assert error(net, thin) <= 10 * error(net, bare) + 1e-6


def test_what_makes_the_example_clearly_worse_is_taken_back_with_a_warning() -> None:
    net = idle()
    graph = trace(net, images(1))
    plan = Plan((DropUnits(graph.free[0].name, (0, 5, 6, 8, 9, 10)),))
    heard: list[Event] = []
    thin = apply(net, graph, plan)
    bare = copy.deepcopy(thin.state_dict())
    strict = Judge("the example input", 0.0)
    assert repair(net, thin, graph, plan, [images(1)], ("fold",), judge=strict, tell=heard.append) == ()
    assert all(torch.equal(value, bare[name]) for name, value in thin.state_dict().items())
    assert any("without fold: it would bring the example input further" in event.text for event in heard)
    assert repair(net, thin, graph, plan, [images(1)], ("fold",))[0].layers


def test_a_repair_that_makes_another_needless_says_so() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    plan = Plan((DropUnits(graph.free[0].name, (0, 1)),))
    heard: list[Event] = []
    repair(net, apply(net, graph, plan), graph, plan, [images(16)], ("fold", "reconstruct"), tell=heard.append)
    assert any("without fold: it would undo part of what reconstruct has won" in event.text for event in heard)
