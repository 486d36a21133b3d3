"""The group lasso, by hand, and what is cut after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import check_method
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.errors import SettingError
from secateur.methods.structured_sparsity import Lasso, StructuredSparsity

IMAGE = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2))


def test_lengths_of_filters_and_channels() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 12.0]]).reshape(2, 2, 1, 1)
    filters, channels = 5.0 + 12.0, 3.0 + (16.0 + 144.0) ** 0.5
    assert float(Lasso([weight], 1.0, 0.0).penalty()) == pytest.approx(filters)
    assert float(Lasso([weight], 0.0, 1.0).penalty()) == pytest.approx(channels)
    assert float(Lasso([weight, weight], 0.5, 0.25).penalty()) == pytest.approx(filters + 0.5 * channels)


def test_the_gradient_is_the_direction_of_the_group_and_zero_at_zero() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1).requires_grad_()
    Lasso([weight], 1.0, 0.0).penalty().backward()
    assert weight.grad is not None
    assert weight.grad.flatten(1).tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]
    other = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: Lasso([w], 0.3, 0.7).penalty(), (other,))


def test_convolutions_are_penalised_and_linear_layers_on_request() -> None:
    model = net()
    model[2].weight.requires_grad_(False)
    for linear, expected in ((False, ["0"]), (True, ["0", "5"])):
        model.zero_grad()
        with StructuredSparsity(linear=linear).training(model) as shaper:
            assert shaper is not None
            penalty = shaper.penalty()
            assert penalty is not None
            penalty.backward()
        assert [name for name in ("0", "2", "5") if model.get_parameter(f"{name}.weight").grad is not None] == expected


def test_without_a_target_what_is_zero_goes() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1] = 1e-5
        model[2].weight[[0, 4]] = 0.0
    problem = Problem(model, trace(model, IMAGE), limits=Limits(multiple=1))
    assert StructuredSparsity().plan(problem).dropped() == {"0": (1,), "2": (0, 4)}
    assert not StructuredSparsity(zero=0.0).plan(problem).dropped().get("0")
    assert StructuredSparsity(keeps=(("2", 0.8),)).plan(problem).dropped() == {"2": (0,)}


def test_layers_of_different_widths_compete_by_their_mean_square() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(0.5)  # 27 weights of a unit
        model[2].weight.fill_(0.4)  # 36 weights of a unit: longer, yet each one smaller
    problem = Problem(model, trace(model, IMAGE), Target(8 / 9, "units"), limits=Limits(multiple=1))
    assert StructuredSparsity().score(problem.graph.group("2"), problem).tolist() == pytest.approx([0.4] * 5)
    assert StructuredSparsity().plan(problem).dropped() == {"2": (0,)}


def test_training_drives_whole_filters_to_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8, 8)
    y = (x[:, 0].mean((1, 2)) > 0).long()
    smallest: list[float] = []
    for strength in (0.0, 0.03):
        model = net()
        rule = torch.optim.SGD(model.parameters(), lr=0.1)
        with StructuredSparsity(filters=strength, channels=strength).training(model) as shaper:
            assert shaper is not None
            for _ in range(120):
                rule.zero_grad()
                penalty = shaper.penalty()
                assert penalty is not None
                (nn.functional.cross_entropy(model(x), y) + penalty).backward()
                rule.step()
        smallest.append(float(model[2].weight.detach().flatten(1).norm(dim=1).min()))
    assert smallest[1] < 0.1 * smallest[0]


@pytest.mark.parametrize("name", ["filters", "channels", "zero"])
def test_impossible_strengths_are_refused(name: str) -> None:
    for value, wanted in ((-1.0, "at least 0"), (float("nan"), "a finite number"), (float("inf"), "a finite number")):
        with pytest.raises(SettingError, match=f"{name}'? must be {wanted}"):
            StructuredSparsity(**{name: value})


def test_a_network_without_convolutions_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(SettingError, match="set linear, or take another"), StructuredSparsity().training(model):
        pass
    with StructuredSparsity(linear=True).training(model) as shaper:
        assert shaper is not None


def test_it_keeps_its_promises_on_linear_layers_too() -> None:
    check_method(StructuredSparsity(linear=True, scope="uniform"))
