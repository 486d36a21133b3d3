"""What the run that proves a cut also shows, so that nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, prove, prove_elsewhere
from secateur.core.trace import trace
from secateur.errors import CutError


class Net(nn.Module):
    """Two convolutions, and whatever stands between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(self.between(self, self.first(x)))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PLAN = Plan((DropUnits("first", (0, 3)),))


def plain(net: nn.Module, y: Tensor) -> Tensor:
    return y.relu()


def sized(net: nn.Module, y: Tensor) -> Tensor:
    return y.relu() / y.shape[2]


def trained(net: nn.Module, y: Tensor) -> Tensor:
    return 2 * y if net.training else y


def graded(net: nn.Module, y: Tensor) -> Tensor:
    return 2 * y if torch.is_grad_enabled() else y


@pytest.mark.parametrize(
    ("between", "sizes", "modes"),
    [(plain, False, False), (sized, True, False), (trained, False, True), (graded, False, True)],
)
def test_the_proof_hears_what_the_code_looks_at(
    between: Callable[[nn.Module, Tensor], Tensor], sizes: bool, modes: bool
) -> None:
    net = Net(between).eval()
    graph = trace(net, IMAGES)
    thin = apply(net, graph, PLAN)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    proof = prove(net, graph, PLAN, thin, IMAGES)
    assert (proof.check.exact, proof.sizes, proof.modes) == (True, sizes, modes)
    assert prove_elsewhere(net, graph, PLAN, thin, IMAGES, proof)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.calls == 0
    assert thin.calls == 0
    assert "training" not in vars(nn.Module)


def test_scripted_parts_may_look_at_their_mode_unheard() -> None:
    scripted: Any = torch.jit.script(nn.ReLU())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), scripted, nn.Conv2d(8, 5, 3)).eval()
    graph = trace(net, IMAGES)
    plan = Plan((DropUnits(graph.free[0].name, (0, 3)),))
    thin = apply(net, graph, plan)
    proof = prove(net, graph, plan, thin, IMAGES)
    assert proof.modes
    assert not prove_elsewhere(net, graph, plan, thin, IMAGES, proof)


def test_the_code_of_the_dense_network_is_not_asked() -> None:
    net, other = Net(plain).eval(), Net(lambda net, y: 2 * y if net.training else y.relu()).eval()
    other.load_state_dict(net.state_dict())
    graph = trace(net, IMAGES)
    assert not prove(other, graph, PLAN, apply(net, graph, PLAN), IMAGES).modes


def test_a_thin_network_that_breaks_in_training_alone_is_refused_still() -> None:
    net = Net(trained).eval()
    graph = trace(net, IMAGES)
    thin = apply(net, graph, PLAN)
    thin.between = lambda net, y: y + torch.zeros(len(y), 8, 1, 1) if net.training else y
    proof = prove(net, graph, PLAN, thin, IMAGES)
    with pytest.raises(CutError, match="in training mode"):
        prove_elsewhere(net, graph, PLAN, thin, IMAGES, proof)
