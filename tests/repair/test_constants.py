"""Filters that read nothing vanish only where the layers behind can say exactly what they said."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from secateur import load, prune
from secateur.core.method import Method, Paper
from secateur.core.plan import Block, DropUnits, Plan, Regroup
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import apply, masked, run
from secateur.core.trace import trace
from secateur.repair import fold_constants


def network(*, padded: bool = False, bias: bool = True, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=bias),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1 if padded else 0, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (36 if padded else 16), 5),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.5, 1.0)  # above zero, so that a rectifier lets constants pass
            nn.init.uniform_(module.running_mean, -0.5, 0.1)
    if bias:
        nn.init.uniform_(net[0].bias, 0.2, 0.5)
    return net.eval()


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
EMPTY_ROWS = Regroup("0", (Block((0, 2, 3, 5), (0, 1, 2)), Block((1, 4), ())))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_filters_without_inputs_are_folded_into_the_next_layer(bias: bool, norm: bool) -> None:
    net = network(bias=bias, norm=norm)
    graph, plan = trace(net, IMAGES), Plan((EMPTY_ROWS,))
    with masked(net, graph, plan) as silenced:
        expected = run(silenced, IMAGES)
    found = fold_constants(net, graph, plan, IMAGES)
    assert found is not None
    wider, thin = found
    assert wider.dropped() == {"0": (1, 4)}
    assert thin.get_parameter("3.weight").shape == (8, 4, 3, 3)
    torch.testing.assert_close(run(thin, IMAGES), expected, rtol=1e-4, atol=1e-5)
    simply_dropped = run(apply(net, graph, wider), IMAGES)
    if bias or norm:  # else they sent zeros, and nothing has to be folded
        assert float((simply_dropped - expected).abs().max()) > 1e-2


def test_constants_that_training_alone_reads_too_stay() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.aux = network(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            y = self.net[:3](x)
            result = self.net[3:](y)
            return (result, self.aux(y.mean((2, 3)))) if self.training else result

    net = Auxiliary().eval()
    plan = Plan((Regroup("net.0", EMPTY_ROWS.blocks),))
    assert fold_constants(net, trace(net, IMAGES), plan, IMAGES) is None
    assert fold_constants(net.net, trace(net.net, IMAGES), Plan((EMPTY_ROWS,)), IMAGES) is not None


def test_behind_zero_padding_only_zeros_are_folded() -> None:
    net = network(padded=True)
    graph, plan = trace(net, IMAGES), Plan((EMPTY_ROWS,))
    assert fold_constants(net, graph, plan, IMAGES) is None
    with torch.no_grad():
        net[1].bias.fill_(-5.0)  # the rectifier stops what they send
    found = fold_constants(net, graph, plan, IMAGES)
    assert found is not None
    assert found[0].dropped() == {"0": (1, 4)}


def test_a_group_keeps_one_unit_and_what_other_edits_drop_is_not_read() -> None:
    net = network()
    graph = trace(net, IMAGES)
    every = Regroup("3", (Block(tuple(range(1, 8)), (1,)), Block((0,), (0,))))
    found = fold_constants(net, graph, Plan((every, DropUnits("0", (1,)))), IMAGES, Limits(multiple=1))
    assert found is not None
    assert found[0].dropped()["3"] == tuple(range(1, 8))
    silent = Plan((Regroup("3", (Block(tuple(range(8)), (1,)),)),))
    assert fold_constants(net, graph, silent, IMAGES, Limits(multiple=1)) is None


@pytest.mark.parametrize(("limits", "dropped"), [(Limits(min_units=5, multiple=1), (1,)), (Limits(multiple=5), (1,))])
def test_floors_and_multiples_hold(limits: Limits, dropped: tuple[int, ...]) -> None:
    net = network()
    found = fold_constants(net, trace(net, IMAGES), Plan((EMPTY_ROWS,)), IMAGES, limits)
    assert found is not None
    assert found[0].dropped() == {"0": dropped}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.body(x + y)


def test_networks_of_several_inputs_are_left_as_they_are() -> None:
    net = TwoInputs().eval()
    graph = trace(net, (IMAGES, IMAGES))
    plan = Plan((Regroup("body.0", EMPTY_ROWS.blocks),))
    assert fold_constants(net, graph, plan, (IMAGES, IMAGES)) is None


class Rows(Method):
    """Leaves two filters without inputs."""

    paper: ClassVar[Paper] = Paper("Two silent filters", "A. Nobody", "None", 2020, "")

    def plan(self, problem: Problem) -> Plan:
        return Plan((EMPTY_ROWS,))


def test_pruning_folds_them_without_being_asked(tmp_path: Path) -> None:
    net = network()
    graph, plan = trace(net, IMAGES), Plan((EMPTY_ROWS,))
    result = prune(net, IMAGES, Rows(), latency=False)
    assert result.plans[0].dropped() == {"0": (1, 4)}
    with masked(net, graph, plan) as silenced:
        torch.testing.assert_close(run(result.model, IMAGES), run(silenced, IMAGES), rtol=1e-4, atol=1e-5)
    loaded = load(result.save(tmp_path / "out"), dense=network())
    torch.testing.assert_close(run(loaded.model, IMAGES), run(result.model, IMAGES), rtol=0, atol=0)
