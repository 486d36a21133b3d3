"""What the authors' released codes decide, as plain numbers: every case is small enough to be worked out on paper.

The rules were run beside ours on the same weights; these are their decisions where a reader can follow them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.regrouped import layouts
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Moment
from secateur.core.zeros.splicing import by_deviation, chance, splice
from secateur.methods.batch_bridgeout import BatchBridgeout
from secateur.methods.self_grouping import SelfGrouping
from secateur.methods.weak_subnetwork import WeakSubnetwork

ANY = Limits(multiple=1)
"""Widths of papers are any number."""


def filled(net: nn.Sequential, weights: dict[int, list[list[float]]]) -> nn.Sequential:
    """Return a network of 1x1 convolutions and linear layers with these weights, outputs by inputs."""
    with torch.no_grad():
        for number, rows in weights.items():
            weight = net[number].weight
            weight.copy_(torch.tensor(rows).reshape(weight.shape))
    return net.eval()


# -- weak sub-networks -------------------------------------------------------------------------------------------


def test_weak_subnetworks() -> None:
    """Strictly below the percentile on both sides, which is interpolated; a channel owns its run of a flattened map.

    First convolution, p = 50: F = 3 1 2 5 4 with percentile 3, B = 2 2 5 7 4 with percentile 4. Second, p = 70, read
    by two inputs of a linear layer for each channel: F = 5 6 9 with 7.2, B = 5 8 3 with 6.2. Linear, p = 80: F =
    5 4 3 4 with 4.4, B = 3 4 3 2 with 3.4.
    """
    net = nn.Sequential(
        nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2),
    )  # fmt: skip
    filled(
        net,
        {
            0: [[-3], [1], [2], [-5], [4]],
            2: [[1, -1, 0, 2, -1], [-1, 0, 1, 3, 1], [0, 1, 4, -2, 2]],
            5: [[1, 0, 2, -1, 0, 1], [0, 1, -1, 2, 0, 0], [-1, 0, 0, 1, 1, 0], [0, -2, 1, 0, 0, 1]],
            7: [[1, -3, 2, -1], [2, 1, -1, 1]],
        },
    )
    graph = trace(net, torch.ones(1, 1, 1, 2))
    plan = WeakSubnetwork(conv=50, junction=70, fc=80).plan(Problem(net, graph, limits=ANY))
    assert plan.dropped() == {"0": (1,), "2": (0,), "5": (2, 3)}


# -- self-grouping -----------------------------------------------------------------------------------------------

FILTERS = [[4, 2, 6, 2, 9], [4, 0, 1, 4, 6], [1, 1, 9, 2, 0], [6, 1, 1, 1, 0], [6, 4, 9, 4, 9], [6, 0, 3, 1, 6]]


@pytest.mark.parametrize(
    ("schedule", "inputs"),
    [
        ("steps", ["11111", "10101", "10100", "10100", "11111", "10101"]),
        ("once", ["10111", "10111", "10100", "10100", "10111", "10111"]),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_self_grouping(schedule: str, inputs: list[str], seed: int) -> None:
    """Six filters in two clusters at 30 %: in steps, each clusters what the last has left, and what is gone is zero.

    Filters of one cluster have lost other inputs by then: neither clusters nor thresholds are those of whole filters,
    nor is the percentage one of what is left.
    """
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    filled(net, {1: (torch.tensor(FILTERS) * signs).tolist()})
    graph = trace(net, torch.ones(1, 3, 2, 2))
    method = SelfGrouping(
        30, 0, groups=2, schedule=schedule, min_inputs=0, align=1, align_inputs=1, drop_unread=False,  # type: ignore[arg-type]
    )  # fmt: skip
    plan = method.plan(Problem(net, graph, limits=ANY, rng=torch.Generator().manual_seed(seed)))
    mask = layouts(graph, plan)["1"].mask().int().tolist()
    assert ["".join(map(str, row)) for row in mask] == inputs


# -- bridgeout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "gone"), [(0.1, (3,)), (0.3, (2, 3, 6)), (0.4, (0, 2, 3, 6))])
def test_bridgeout_cuts_the_shortest_filters(share: float, gone: tuple[int, ...]) -> None:
    """Lengths 4.2 5 4 2.8 6.1 7.1 3 8 7.8 9.1; sums of sizes would take filter 6 before 3, and 1 before 0."""
    net = nn.Sequential(nn.Conv2d(2, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 2))
    rows = [[3, -3], [0, 5], [4, 0], [2, -2], [-6, 1], [1, 7], [0, -3], [-8, 0], [5, 6], [9, 1]]
    filled(net, {0: rows})
    method = BatchBridgeout(keeps=(("*", 1 - share),))
    plan = method.plan(Problem(net, trace(net, torch.ones(1, 2, 2, 2)), limits=ANY))
    assert plan.dropped() == {"0": gone}


def test_bridgeout_perturbs_the_weakest_kernels() -> None:
    """q = 1.5, p = 0.2: w + |w|^0.75 times -1 or 1/4, also where w is negative, if below the int(5 * 0.75)-th kernel.

    Counted from 0 in each filter; of kernels as strong as that one none has noise.
    """
    net = nn.Sequential(nn.Conv2d(5, 3, 1, bias=False))
    filled(net, {0: [[16, -1, 81, -256, 0.0625], [1, -1, 1, 16, -16], [2, 2, 2, -2, 8]]})
    drawn: list[Tensor] = []
    rng = torch.Generator().manual_seed(0)
    with BatchBridgeout(q=1.5, p=0.2, fraction=0.75, layers="*").training(net.train()) as shaper:
        assert shaper is not None
        for step in range(60):
            shaper.before_batch(Moment(step, 60, rng))
            drawn.append(net[0].weight.detach().flatten().clone())
    seen = [[round(float(value), 4) for value in column.unique()] for column in torch.stack(drawn).T]
    assert seen == [
        [8, 18], [-2, -0.75], [81], [-256], [-0.0625, 0.0938],
        [0, 1.25], [-2, -0.75], [0, 1.25], [16], [-16],
        [2], [2], [2], [-2], [8],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "alike"),
    [
        ({"noise": "dropconnect", "layers": "1"}, True),
        ({"share": "example", "q": 2.0, "layers": "1"}, False),  # q = 2 drops a weight, too, if it is above zero
        ({"noise": "dropout", "layers": "*"}, False),
    ],
)
def test_the_other_noises_drop_or_scale_up(options: dict[str, Any], alike: bool) -> None:
    """Parts 1 2 16 64 of a sum at p = 0.2, the weaker half perturbed: 0 or 1.25, and 0 or 2.5, for each example."""
    parts = [1.0, 2.0, 16.0, 64.0]  # weights that read ones, or for dropout maps that ones read
    dropout = options.get("noise") == "dropout"
    net = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 1, 1, bias=False))
    filled(net, {0: torch.eye(4).tolist(), 1: [[1.0] * 4 if dropout else parts]})
    x = torch.tensor(parts if dropout else [1.0] * 4).reshape(1, 4, 1, 1).expand(3, 4, 1, 1)
    sums: list[list[float]] = []
    rng = torch.Generator().manual_seed(0)
    with BatchBridgeout(p=0.2, fraction=0.5, **options).training(net.train()) as shaper, torch.no_grad():
        assert shaper is not None
        for step in range(40):
            shaper.before_batch(Moment(step, 40, rng))
            sums.append([round(value, 4) for value in net(x).flatten().tolist()])
    assert {value for row in sums for value in row} == {80.0, 81.25, 82.5, 83.75}
    assert all(len(set(row)) == 1 for row in sums) is alike


# -- dynamic network surgery -------------------------------------------------------------------------------------


def test_splicing() -> None:
    """Sizes 1 1 3 3 in play have mean 2 and deviation 1; at c = 0.5 weights go at 2.25 and come back above 2.75."""
    weights = torch.tensor([0.0, 1.0, -1.0, 3.0, -3.0, 0.0])
    keep = weights != 0
    threshold = by_deviation(weights.abs(), keep, 0.5)
    assert threshold == 2.5
    learned = torch.tensor([-2.8, -2.25, 2.26, -2.5, 2.2, 2.75])
    assert splice(keep, learned.abs(), threshold).tolist() == [True, False, True, True, False, False]
    assert by_deviation(weights.abs(), keep, -3.0) == 0.0
    assert [round(chance(i, 1e-4, 1.0), 4) for i in (0, 1000, 14000)] == [1.0, 0.9091, 0.4167]
