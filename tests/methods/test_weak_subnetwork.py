from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError
from secateur.methods.weak_subnetwork import WeakSubnetwork, shares
from secateur.models import build

ANY = Limits(multiple=1)
"""Widths of papers are any number."""


def chain() -> nn.Sequential:
    """Two convolutions, a flattened map of 4x4, and three linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(160, 14), nn.ReLU(), nn.Linear(14, 5),
    ).eval()  # fmt: skip


def as_published(forward: np.ndarray, backward: np.ndarray, percent: float) -> tuple[int, ...]:
    """Both below their own percentile: the rule as it stands in the card."""
    weak = (forward < np.percentile(forward, percent)) & (backward < np.percentile(backward, percent))
    return tuple(np.flatnonzero(weak).tolist())


def sums(weight: Tensor, dim: int) -> np.ndarray:
    return weight.detach().double().abs().movedim(dim, 0).flatten(1).sum(1).numpy()


@pytest.mark.parametrize("levels", [(50, 50, 50), (80, 20, 65), (0, 100, 33.3)])
def test_the_intersection_of_percentiles_inside_each_pair(levels: tuple[float, float, float]):
    net = chain()
    graph = trace(net, images(1))
    method = WeakSubnetwork(*levels)
    conv, fc, junction = levels
    first, second, hidden, last = net[0].weight, net[3].weight, net[6].weight, net[8].weight
    expected = {
        "0": as_published(sums(first, 0), sums(second, 1), conv),
        "3": as_published(sums(second, 0), sums(hidden.reshape(14, 10, 16), 1), junction),  # 16 inputs a channel
        "6": as_published(sums(hidden, 0), sums(last, 1), fc),
    }
    plan = method.plan(Problem(net, graph, limits=ANY))
    assert plan.dropped() == {name: units for name, units in expected.items() if units}
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact
    found = shares(graph, plan, method)
    assert found["junction"] == len(expected["3"]) / 10
    assert found["all"] == sum(map(len, expected.values())) / 36


def test_ties_are_as_strict_as_the_percentile():
    net = chain()
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5.0]).reshape(12, 1, 1, 1)
        net[3].weight.fill_(1.0).mul_(torch.arange(12).reshape(1, 12, 1, 1))
    graph = trace(net, images(1))
    for percent in range(0, 101, 5):
        plan = WeakSubnetwork(percent, 0, 0).plan(Problem(net, graph, limits=ANY))
        assert plan.dropped().get("0", ()) == as_published(sums(net[0].weight, 0), sums(net[3].weight, 1), percent)


def test_a_target_takes_the_strength_that_percentiles_would_need():
    """What a percentage drops, a target of just that size drops too, and nothing else."""
    net, graph = chain(), trace(chain(), images(1))
    for percent in (40, 60, 85):
        plan = WeakSubnetwork(percent, percent, percent).plan(Problem(net, graph, limits=ANY))
        keep = size(graph, plan).macs / size(graph).macs
        assert WeakSubnetwork().plan(Problem(net, graph, Target(keep), limits=ANY)) == plan


def test_levels_weigh_the_parts_of_a_target():
    net, graph = chain(), trace(chain(), images(1))
    plan = WeakSubnetwork(conv=0, fc=60, junction=30).plan(Problem(net, graph, Target(0.6, "params"), limits=ANY))
    assert plan.dropped().keys() == {"3", "6"}
    with pytest.raises(TargetError, match="cannot keep only") as caught:
        WeakSubnetwork(conv=0, fc=60, junction=0).plan(Problem(net, graph, Target(0.5, "macs"), limits=ANY))
    assert 0.5 < caught.value.reachable < 1


def test_floors_and_multiples():
    net, graph = chain(), trace(chain(), images(1))
    plan = WeakSubnetwork(100, 100, 100).plan(Problem(net, graph, limits=Limits(min_units=4, multiple=2)))
    left = {group.name: group.size - len(plan.dropped().get(group.name, ())) for group in graph.groups}
    assert all(n >= 4 and n % 2 == 0 for n in left.values())


def residual() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    net = build("resnet20").eval()
    return net, trace(net, torch.zeros(1, 3, 32, 32))


def test_safe_mode_leaves_streams_alone_and_tied_mode_takes_all_their_makers_and_readers():
    net, graph = residual()
    safe = WeakSubnetwork(70, 70, 70).plan(Problem(net, graph, limits=ANY))
    assert safe.dropped()
    assert all(len(graph.group(name).layers) == 1 for name in safe.dropped())
    tied = WeakSubnetwork(70, 70, 70, streams="tied").plan(Problem(net, graph, limits=ANY))
    assert safe.dropped().items() <= tied.dropped().items()
    (stream,) = [name for name in tied.dropped().keys() - safe.dropped().keys() if name == "conv1"]
    makers = graph.group(stream).layers
    assert len(makers) == 10  # the stem and the second convolutions of all three stages: the shortcut has no weights
    forward = sum(rows.double().abs().sum(1) for rows in graph.group(stream).rows(net, "makes")).numpy()
    backward = sum(rows.double().abs().sum(1) for rows in graph.group(stream).rows(net, "reads")).numpy()
    assert tied.dropped()[stream] == as_published(forward, backward, 70)


def test_activation_criterion_counts_what_is_active():
    """Dead units go first: never active forward, and for the gradient never heard."""
    net = chain()
    with torch.no_grad():
        net[0].bias[[1, 4, 7]] = -100.0  # never active
        net[3].weight[:, [1, 4, 9]] = 0.0  # never heard, so that no gradient comes back
        net[6].weight.mul_(0.5)
    graph = trace(net, images(1))
    batches = [(images(4, seed=i), torch.tensor([0, 1, 2, 3])) for i in range(3)]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.requires_grad_(False)
    method = WeakSubnetwork(30, 30, 30, criterion="activation", batches=2)
    plan = method.plan(Problem(net, graph, batches=batches, limits=ANY))
    assert {1, 4} <= set(plan.dropped()["0"])
    assert not {9, 7} & set(plan.dropped()["0"]) or len(plan.dropped()["0"]) > 2
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in net.parameters())
    assert method.plan(Problem(net, graph, batches=batches, limits=ANY)) == plan


def steps_net() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Four units whose order by activations and by gradients differs, and in training mode or on more batches again.

    Returns:
        The network and three batches. On the first, units 0 to 3 are active on 4, 3, 2 and 1 of the 4 pixels, so that 3
        and 2 are weak forward; gradients are as the difference of a unit's two readers, so 0 and 3 are weak backward.
        Batch statistics would turn the order of the activations round; so do the other two batches.
    """
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    rising = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(4, 1, 1, 1)
        net[1].bias[:] = rising
        net[1].running_mean[:] = rising - torch.tensor([4.0, 2.0, 0.0, -2.0])
        net[3].weight[:] = torch.tensor([[0.1, -0.6, 0.8, -0.3], [-0.1, 0.6, -0.8, 0.3]]).reshape(2, 4, 1, 1)
    first = torch.tensor([[1.0, 2.0], [-1.0, -3.0]]).reshape(1, 1, 2, 2)
    return net, [(first, torch.tensor([0])), *[(torch.full((1, 1, 2, 2), -9.0), torch.tensor([1]))] * 2]


@pytest.mark.parametrize(
    ("batches", "gone"),
    [
        (1, (3,)),  # without gradients also 2, with batch statistics 0
        (3, (0,)),
    ],
)
def test_activations_and_gradients_of_so_many_batches_in_evaluation(batches: int, gone: tuple[int, ...]):
    net, given = steps_net()
    graph = trace(net, given[0][0])
    method = WeakSubnetwork(50, 50, 50, criterion="activation", batches=batches)
    assert method.plan(Problem(net, graph, batches=given, limits=ANY)).dropped() == {"0": gone}


def test_activation_criterion_needs_images():
    net, graph = chain(), trace(chain(), images(1))
    with pytest.raises(DataError, match="looks at images"):
        WeakSubnetwork(criterion="activation").plan(Problem(net, graph, limits=ANY))
    with pytest.raises(DataError, match="no calibration batch"):
        WeakSubnetwork(criterion="activation").plan(Problem(net, graph, batches=[]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv": -1}, "conv is a percentile and must be in 0 to 100, not -1"),
        ({"fc": 101}, "fc is a percentile"),
        ({"criterion": "taste"}, "'criterion' must be one of weights, activation, not 'taste'"),
        ({"streams": "wild"}, "'streams' must be one of .*, not 'wild'"),
        ({"batches": 0}, "batches must be at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str):
    with pytest.raises(SettingError, match=message):
        WeakSubnetwork(**settings)


def test_a_network_without_pairs_is_a_sentence():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TargetError, match="no two layers hold units of their own") as caught:
        WeakSubnetwork().plan(Problem(net, trace(net, images(1))))
    assert "\n" not in str(caught.value)


def test_not_a_number_is_a_sentence():
    net = chain()
    with torch.no_grad():
        net[3].weight[0, 0] = float("nan")
    with pytest.raises(SettingError, match="contain NaN"):
        WeakSubnetwork().plan(Problem(net, trace(net, images(1))))


def test_level_zero_drops_nothing():
    net, graph = chain(), trace(chain(), images(1))
    assert WeakSubnetwork(0, 0, 0).plan(Problem(net, graph, limits=ANY)) == Plan()


def test_patterns_of_layers_left_alone():
    net = make("plain")
    graph = trace(net, images(1)).without("2.0")
    assert WeakSubnetwork(100, 100, 100).plan(Problem(net, graph, limits=ANY)).dropped().keys() <= {"0.0"}
