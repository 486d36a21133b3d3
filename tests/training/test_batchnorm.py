from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from secateur.errors import ModelError, TrainingError
from secateur.training import recalibrate

BATCHES = [(torch.randn(8, 3, 8, 8) * 2 + 1, torch.zeros(8)) for _ in range(3)]


def test_statistics_are_the_average_over_batches(net: Callable[[int], nn.Module]) -> None:
    model = net(0)
    assert recalibrate(model, BATCHES) == 1
    with torch.no_grad():
        outputs = [model[0](images) for images, _ in BATCHES]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    var = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)


def test_inputs_may_be_of_any_structure(net: Callable[[int], nn.Module]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(0)

        def forward(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.net(image * scale)

    plain, positional, named = net(0), Scaled(), Scaled()
    scale = torch.full((8, 1, 1, 1), 0.5)
    recalibrate(plain, [(images * scale, None) for images, _ in BATCHES])
    recalibrate(positional, [((images, scale), None) for images, _ in BATCHES])
    recalibrate(named, [({"scale": scale, "image": images}, None) for images, _ in BATCHES])
    for model in (positional, named):
        torch.testing.assert_close(model.net[1].running_mean, plain[1].running_mean)
        torch.testing.assert_close(model.net[1].running_var, plain[1].running_var)


def test_nothing_else_changes(net: Callable[[int], nn.Module]) -> None:
    model = net(0).train()
    model[1].momentum = 0.37
    model[6].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    recalibrate(model, BATCHES)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("running" not in name and "tracked" not in name), name
    assert [module.training for module in model.modules()] == modes
    assert model[1].momentum == 0.37
    assert torch.equal(state, torch.random.get_rng_state())  # dropout did not draw
    assert all(parameter.grad is None for parameter in model.parameters())


class Aside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.bare = (nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
        self.bare = nn.BatchNorm2d(3, track_running_stats=False)
        self.unused.running_mean = torch.full((3,), 7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bare(self.used(x))


def test_norms_that_are_not_reached_keep_their_statistics() -> None:
    model = Aside()
    assert recalibrate(model, BATCHES) == 1
    assert torch.equal(model.unused.running_mean, torch.full((3,), 7.0))


def test_failure_leaves_the_statistics_alone(net: Callable[[int], nn.Module]) -> None:
    model = net(0).eval()
    recalibrate(model, BATCHES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingError, match="at least one batch"):
        recalibrate(model, [])
    with pytest.raises(ModelError, match=r"cannot run on inputs of shape \(8, 5, 8, 8\)"):
        recalibrate(model, [BATCHES[0], (torch.randn(8, 5, 8, 8), torch.zeros(8))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model[1].training


def test_a_network_without_batch_norm_needs_no_batches() -> None:
    assert recalibrate(nn.Linear(2, 2), []) == 0


def test_what_does_not_vary_keeps_its_variance() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate(norm, [(torch.full((8, 3, 4, 4), 5.0), None)])
    assert torch.equal(norm[0].running_mean, torch.full((3,), 5.0))
    assert torch.equal(norm[0].running_var, torch.ones(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_leave_the_statistics_alone(value: float) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert recalibrate(model, [(torch.randn(8, 3, 4, 4), None), (torch.full((8, 3, 4, 4), value), None)]) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
