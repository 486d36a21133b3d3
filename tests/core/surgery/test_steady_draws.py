"""Runs without chance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import prune, trace
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.surgery.steady_draws import Steady

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal like": lambda x: x + torch.randn_like(x),
    "uniform like": lambda x: x * torch.rand_like(x),
    "in place": lambda x: x + torch.empty_like(x).normal_(1.0, 2.0) + torch.empty_like(x).uniform_(-1, 1),
    "normal around": lambda x: torch.normal(x, 0.1),
    "normal of": lambda x: torch.normal(x, x.abs() + 0.1),
    "dropout": lambda x: F.dropout(x, 0.3, True),
    "feature dropout": lambda x: F.alpha_dropout(x, 0.3, True),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.5)),
    "poisson": lambda x: torch.poisson(x.abs()),
    "rrelu": lambda x: F.rrelu(x - 1, training=True),
    "exponential": lambda x: x + torch.empty_like(x).exponential_(2.0),
}


class Net(nn.Module):
    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.h(F.relu(self.b(self.draw(self.a(x)))).mean((2, 3)))


@pytest.mark.parametrize("kind", DRAWS)
def test_networks_that_draw_as_many_numbers_as_they_are_wide_are_compared(kind: str) -> None:
    torch.manual_seed(0)
    net = Net(DRAWS[kind]).eval()
    graph, plan = trace(net, X), Plan((DropUnits("a", (0, 2, 5)),))
    thin = apply(net, graph, plan)
    found = verify(net, graph, plan, thin, X)
    assert (found.exact, found.draws) == (True, True)
    with torch.no_grad():
        thin.h.bias[0] += 0.1
    assert not verify(net, graph, plan, thin, X).exact  # constants hide no error


def test_nothing_is_said_where_the_draws_are_the_same() -> None:
    torch.manual_seed(0)
    net = Net(lambda x: x + torch.randn(len(x), 1, *x.shape[2:])).eval()
    graph, plan = trace(net, X), Plan((DropUnits("a", (0, 2, 5)),))
    found = verify(net, graph, plan, apply(net, graph, plan), X)
    assert (found.exact, found.draws) == (True, False)


def test_each_draw_of_a_run_has_a_constant_of_its_own() -> None:
    with Steady() as steady:
        assert not steady.used
        one, two, whole = torch.rand(3), torch.rand(3), torch.randint(2, 9, (4,))
        assert torch.equal(torch.randperm(4), torch.arange(4))
        assert bool(((torch.bernoulli(torch.tensor([0.0, 0.5]))) == torch.tensor([0.0, 1.0])).all())
    assert steady.used
    assert len(one.unique()) == len(two.unique()) == len(whole.unique()) == 1
    assert not torch.equal(one, two)
    assert 2 <= int(whole[0]) < 9


def test_the_result_says_how_it_was_compared() -> None:
    torch.manual_seed(0)
    net = Net(DRAWS["dropout"])
    with pytest.warns(UserWarning, match="random numbers in evaluation"):
        result = prune(net, X, method="magnitude", target=0.6, latency=False)
    assert any("random numbers" in note for note in result.plans[0].notes)
