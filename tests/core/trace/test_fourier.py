"""Channels that pass through frequencies: what goes, what is counted, and that the thin network computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import lived_in
from pictures import images
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count


class Filter(nn.Module):
    """One number for each channel and frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.weight), s=x.shape[2:])


class Parts(nn.Module):
    """Real and imaginary parts side by side as channels of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(16, 16, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.view_as_real(torch.fft.rfft2(x))
        n, c, h, w, _ = y.shape
        y = self.mix(y.permute(0, 1, 4, 2, 3).reshape(n, 2 * c, h, w)).relu()
        y = y.view(n, -1, 2, h, w).permute(0, 1, 3, 4, 2).contiguous()
        return torch.fft.irfft2(torch.view_as_complex(y), s=x.shape[2:])


class Halves(nn.Module):
    """Two halves of the channels, in a dimension of their own while they are transformed."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return torch.fft.fft2(x.view(n, 2, c // 2, h, w)).abs().view(n, c, h, w)


class Correlated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft2(x)
        return torch.fft.irfft2(y * y.conj(), s=x.shape[2:])


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.one, self.inner, self.two = nn.Conv2d(3, 8, 3, padding=1), inner, nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.inner(F.relu(self.one(x)))))


@pytest.mark.parametrize(
    ("make", "groups", "gone"),
    [
        (Filter, {"one": 8}, (0, 3, 4)),
        (Parts, {"one": 8, "inner.mix": 8}, (0, 3, 4)),
        (Halves, {"one": 4}, (0, 3, 4, 7)),
        (Correlated, {"one": 8}, (0, 3, 4)),
    ],
)
def test_channels_pass_through_frequencies(
    make: Callable[[], nn.Module], groups: dict[str, int], gone: tuple[int, ...]
) -> None:
    net = lived_in(Around(make()))
    graph = trace(net, images(1))
    assert {group.name: group.size for group in graph.groups} == groups
    units = tuple(unit for unit in gone if unit < groups["one"])
    plan = Plan((DropUnits("one", units),))
    thin = apply(net, graph, plan)
    assert thin.one.out_channels == 8 - len(gone)
    assert verify(net, graph, plan, thin, images(2)).exact
    assert size(graph, plan).macs == count(thin, images(1)).macs < size(graph).macs == count(net, images(1)).macs
    silenced = copy.deepcopy(net)  # a channel of zeros is one in all its frequencies
    with torch.no_grad():
        silenced.one.weight[list(gone)] = 0.0
        silenced.one.bias[list(gone)] = 0.0
        torch.testing.assert_close(thin(images(2)), silenced(images(2)), rtol=1e-4, atol=1e-5)


def test_all_that_pairs_are_made_of_goes_as_a_whole() -> None:
    class Paired(nn.Module):
        """Even and odd channels are the parts of complex numbers."""

        def forward(self, x: Tensor) -> Tensor:
            pairs = x.unflatten(1, (-1, 2)).movedim(2, -1).contiguous()
            return torch.view_as_real(torch.view_as_complex(pairs).sqrt()).movedim(-1, 2).flatten(1, 2)

    net = lived_in(Around(Paired()))
    graph = trace(net, images(1))
    assert [(group.name, group.size) for group in graph.groups] == [("one", 4)]
    plan = Plan((DropUnits("one", (1,)),))
    thin = apply(net, graph, plan)
    assert torch.equal(thin.one.weight, net.one.weight[[0, 1, 4, 5, 6, 7]])
    assert verify(net, graph, plan, thin, images(2)).exact
