"""Network slimming: the penalty on the scales, and one threshold over all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import check_method
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.errors import SettingError, TargetError
from secateur.methods.bn_scale import BnScale

IMAGE = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
FIRST, SECOND = [0.9, -0.1, 0.5, 0.0], [0.2, 0.8, -0.7, 0.3, 0.6]


def net() -> nn.Sequential:
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()
    )
    made.append(nn.Linear(80, 2))
    with torch.no_grad():
        made[1].weight.copy_(torch.tensor(FIRST))
        made[4].weight.copy_(torch.tensor(SECOND))
    return made


def asked(model: nn.Module, keep: float) -> Problem:
    return Problem(model, trace(model, IMAGE), Target(keep, "units"), limits=Limits(multiple=1))


def test_one_threshold_over_all_layers() -> None:
    dropped = BnScale().plan(asked(net(), 6 / 9)).dropped()  # 0.0, 0.1 and 0.2 are the smallest of nine
    assert dropped == {"0": (1, 3), "3": (0,)}
    dropped = BnScale(scope="uniform").plan(asked(net(), 5 / 9)).dropped()
    assert dropped == {"0": (1, 3), "3": (0, 3)}


def test_a_layer_never_loses_its_last_channel() -> None:
    model = net()
    nn.init.zeros_(model[1].weight)
    assert len(BnScale().plan(asked(model, 4 / 9)).dropped()["0"]) == 3


def test_the_penalty_and_its_gradient() -> None:
    model = net()
    with BnScale(strength=0.01).training(model) as shaper:
        assert shaper is not None
        penalty = shaper.penalty()
        assert penalty is not None
        penalty.backward()
    assert float(penalty.detach()) == pytest.approx(0.01 * (sum(map(abs, FIRST)) + sum(map(abs, SECOND))))
    assert model[1].weight.grad is not None
    assert model[1].weight.grad.tolist() == pytest.approx([0.01, -0.01, 0.01, 0.0])
    assert model[1].bias.grad is None


class Residual(nn.Module):
    """Two batch norms scale the same stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv, self.inner = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        return self.head((x + self.inner(self.conv(x))).mean((2, 3)))


def test_a_stream_has_the_largest_of_its_scales() -> None:
    model = Residual()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([0.1, 0.2, 0.9]))
        model.inner.weight.copy_(torch.tensor([-0.8, 0.3, 0.0]))
    problem = asked(model, 2 / 3)
    assert BnScale().score(problem.graph.groups[0], problem).tolist() == pytest.approx([0.8, 0.3, 0.9])
    assert BnScale().plan(problem).dropped() == {"stem": (1,)}


def test_channels_without_a_norm_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(TargetError) as caught:
        BnScale().plan(asked(model, 0.5))
    assert caught.value.reachable == 1.0
    with pytest.raises(SettingError, match="no batch norm whose scale is trained"), BnScale().training(model):
        pass


def test_impossible_strengths_are_refused() -> None:
    for strength, wanted in (
        (-1.0, "at least 0"),
        (float("nan"), "a finite number"),
        (float("inf"), "a finite number"),
    ):
        with pytest.raises(SettingError, match=f"strength'? must be {wanted}"):
            BnScale(strength=strength)


def test_training_with_the_penalty_makes_scales_small() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 3, 8, 8), torch.randint(2, (64,))
    left: list[float] = []
    for strength in (0.0, 0.02):
        model = net()
        rule = torch.optim.SGD(model.parameters(), lr=0.1)
        with BnScale(strength=strength).training(model) as shaper:
            assert shaper is not None
            for _ in range(40):
                rule.zero_grad()
                penalty = shaper.penalty()
                assert penalty is not None
                (nn.functional.cross_entropy(model(x), y) + penalty).backward()
                rule.step()
        left.append(float(model[1].weight.detach().abs().sum()))
    assert left[1] < 0.9 * left[0]


def test_it_keeps_its_promises_without_a_penalty() -> None:
    check_method(BnScale(strength=0.0, scope="uniform"))
