"""The criterion of Li et al. (2017) by hand: norms, and kernels that do or do not count once their input is gone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import SettingError
from secateur.methods.magnitude import Magnitude

IMAGE = torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]])


def conv(rows: list[list[float]]) -> nn.Conv2d:
    """Return a 1x1 convolution with these weights: a row for each filter, an entry for each input."""
    layer = nn.Conv2d(len(rows[0]), len(rows), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows)[:, :, None, None])
    return layer


def problem(net: nn.Module, keep: float = 0.5) -> Problem:
    return Problem(net, trace(net, IMAGE), Target(keep, "units"))


@pytest.mark.parametrize(("norm", "expected"), [("l1", [7.0, 6.0, 7.0]), ("l2", [5.0, 6.0, 49**0.5])])
def test_norms_by_hand(norm: str, expected: list[float]) -> None:
    net = nn.Sequential(
        conv([[1.0], [1.0]]), conv([[3.0, -4.0], [0.0, 6.0], [-7.0, 0.0]]), nn.ReLU(), conv([[1.0] * 3])
    )
    asked = problem(net)
    assert Magnitude(norm=norm).score(asked.graph.group("1"), asked).tolist() == pytest.approx(expected)  # type: ignore[arg-type]


def test_every_weight_of_a_kernel_counts() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]], [[[0.0, 5.0], [0.0, 0.0]]]]))
    asked = Problem(net, trace(net, IMAGE), Target(0.5, "units"))
    group = asked.graph.group("0")
    assert Magnitude().score(group, asked).tolist() == [10.0, 5.0]
    assert Magnitude(norm="l2").score(group, asked).tolist() == pytest.approx([30**0.5, 5.0])


def layers() -> nn.Sequential:
    """Of the first layer, filter 0 goes. Of the second, filter 0 is strong only in the map that has gone."""
    return nn.Sequential(
        conv([[1.0], [5.0], [3.0]]),
        nn.ReLU(),
        conv([[9.0, 1.0, 1.0], [0.0, 3.0, -2.0], [1.0, -4.0, 3.0]]),  # L1: 11, 5, 8; without map 0: 2, 5, 7
        nn.ReLU(),
        conv([[1.0, 1.0, 1.0]]),
    )


@pytest.mark.parametrize(("selection", "second"), [("independent", 1), ("greedy", 0)])
def test_independent_and_greedy_selection_differ_as_in_the_paper(selection: str, second: int) -> None:
    net = layers()
    asked = problem(net, keep=4 / 6)
    plan = Magnitude(selection=selection).plan(asked)  # type: ignore[arg-type]
    assert plan == Plan((DropUnits("0", (0,)), DropUnits("2", (second,))))
    assert verify(net, asked.graph, plan, apply(net, asked.graph, plan), IMAGE).exact


def test_greedy_removes_as_many_of_each_layer_as_independent() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    for scope in ("uniform", "global"):
        numbers = [
            {
                name: len(units)
                for name, units in Magnitude(scope=scope, selection=s).plan(problem(net)).dropped().items()
            }
            for s in ("independent", "greedy")
        ]
        assert numbers[0] == numbers[1]


class Residual(nn.Module):
    """Channels 0, 1 and 2 of a stream are made by the stem and by the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = conv([[3.0], [1.0], [-2.0]]), conv([[4.0, 0, 0], [0, 2.0, -2.0], [0, 0, 1.0]])
        self.head = conv([[1.0, 1.0, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.branch(x)))


def test_several_makers_are_summed() -> None:
    asked = problem(Residual())
    group = asked.graph.group("stem")
    assert group.layers == ("stem", "branch")
    assert Magnitude().score(group, asked).tolist() == [3 + 4, 1 + 4, 2 + 1]
    assert Magnitude(norm="l2").score(group, asked).tolist() == pytest.approx([5.0, 3.0, 5**0.5])
    assert Magnitude().plan(problem(Residual(), keep=2 / 3)).dropped() == {"stem": (2,)}


class Flattened(nn.Module):
    """A unit of the first linear layer is one row; channels of a map that is flattened are four inputs each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = conv([[1.0], [-3.0]]), nn.Linear(8, 2, bias=False), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(torch.relu(self.conv(x)).flatten(1))))


def test_greedy_leaves_out_all_inputs_that_a_flattened_map_fed() -> None:
    net = Flattened()
    with torch.no_grad():  # map 0, which goes, feeds the inputs 0 to 3
        net.one.weight.copy_(torch.tensor([[5.0] * 4 + [0.1] * 4, [1.0] * 8]))
    plans = [Magnitude(selection=s).plan(problem(net, keep=0.5)).dropped() for s in ("independent", "greedy")]
    assert plans == [{"conv": (0,), "one": (1,)}, {"conv": (0,), "one": (0,)}]


def test_global_scope_compares_between_layers() -> None:
    net = nn.Sequential(
        conv([[1.0], [2.0], [3.0]]), nn.ReLU(), conv([[9.0, 9, 9], [8, 8, 8]]), nn.ReLU(), conv([[1, 1.0]])
    )
    assert Magnitude(scope="global").plan(problem(net, keep=3 / 5)).dropped() == {"0": (0, 1)}
    assert Magnitude().plan(problem(net, keep=3 / 5)).dropped() == {"0": (0,), "2": (1,)}


@pytest.mark.parametrize("options", [{"norm": "l3"}, {"selection": "lazy"}, {"scope": "local"}])
def test_unknown_choices_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=rf"'{next(iter(options))}' must be one of"):
        Magnitude(**options)  # type: ignore[arg-type]
