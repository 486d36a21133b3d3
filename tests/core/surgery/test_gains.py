"""Weight norm through a cut: the weights that are left are those that were there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, masked, run, verify
from secateur.core.trace import trace

Wrap = Callable[[nn.Module], nn.Module]
X = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))


class Vocoder(nn.Module):
    """An upsampling stack: a transposed convolution, whose weight norm runs along what it reads, and a residual."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.pre, self.up = wrap(nn.Conv1d(4, 12, 3, padding=1)), wrap(nn.ConvTranspose1d(12, 8, 4, 2, 1))
        self.body, self.post = wrap(nn.Conv1d(8, 8, 3, padding=1)), wrap(nn.Conv1d(8, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.pre(x).relu()).relu()
        return self.post(x + self.body(x))


def hook(module: nn.Module, dim: int = 0) -> nn.Module:
    return weight_norm(module, dim=dim)


def parametrization(module: nn.Module, dim: int = 0) -> nn.Module:
    return parametrizations.weight_norm(module, dim=dim)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("wrap", [hook, parametrization])
def test_weights_that_are_left_keep_their_values(wrap: Callable[..., nn.Module], dim: int | None) -> None:
    torch.manual_seed(0)
    net = Vocoder(lambda module: wrap(module, dim=dim)).eval()
    for name, parameter in net.named_parameters():
        if name.endswith(("original0", "_g")):  # lengths and gains part in training
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    net(X)  # a hook computes the weight when the layer runs
    graph = trace(net, X)
    assert {group.name: group.size for group in graph.groups} == {"pre": 12, "up": 8}
    plan = Plan((DropUnits("pre", (0, 3, 7)), DropUnits("up", (1, 2))))
    before = run(net, X)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, X).exact
    with masked(net, graph, plan):
        assert not torch.equal(run(net, X), before)
    assert torch.equal(run(net, X), before)
    kept = [i for i in range(12) if i not in (0, 3, 7)]
    wide = net.up.weight[kept][:, [0, 3, 4, 5, 6, 7]]
    torch.testing.assert_close(thin.up.weight, wide)
    assert (thin.up.in_channels, thin.up.out_channels) == (9, 6)


def test_a_filter_of_which_nothing_is_left_is_zero() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 6, 1), parametrizations.weight_norm(nn.Conv1d(6, 8, 1)), nn.Conv1d(8, 2, 1)).eval()
    with torch.no_grad():
        net[1].parametrizations.weight.original1[0, 1:] = 0  # its length is that of one entry
    graph, plan = trace(net, X), Plan((DropUnits("0", (0,)),))
    thin = apply(net, graph, plan)
    assert bool(run(thin, X).isfinite().all())
    assert verify(net, graph, plan, thin, X).exact


def test_units_are_scored_by_the_weight_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 6, 1)), nn.Conv1d(6, 2, 1)).eval()
    with torch.no_grad():
        net[0].parametrizations.weight.original0.mul_(3)
    rows = next(trace(net, X).groups[0].rows(net, "makes"))
    torch.testing.assert_close(rows, net[0].weight.detach().flatten(1))
