"""Convolutions that are called as functions, deformable ones, and tables: weights in other places than usual."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import lived_in
from pictures import images
from secateur.core.code.written_numbers import record
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count


class Blur(nn.Module):
    """Anti-aliasing, with a kernel in a buffer and a number in an attribute."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3).repeat(channels, 1, 1, 1) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=self.channels)


class Modulated(nn.Module):
    """One kernel for each image, scaled by a style and to length one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3)), nn.Linear(inputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = self.weight * self.style(x.mean((2, 3))).view(n, 1, c, 1, 1)
        kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        y = F.conv2d(x.reshape(1, n * c, h, w), kernel.reshape(-1, c, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, h, w)


class Mixed(nn.Module):
    """One kernel for each image, mixed of four."""

    def __init__(self, inputs: int, outputs: int, product: bool) -> None:
        super().__init__()
        self.weight, self.shares = nn.Parameter(torch.randn(4, outputs, inputs, 3, 3) / 9), nn.Linear(inputs, 4)
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        shares = self.shares(x.mean((2, 3))).sigmoid()
        if self.product:
            kernel = torch.mm(shares, self.weight.view(4, -1))
        else:
            kernel = (shares.view(n, 4, 1, 1, 1, 1) * self.weight).sum(1)
        y = F.conv2d(x.reshape(1, n * c, h, w), kernel.view(-1, c, 3, 3), padding=1, groups=n)
        return y.reshape(n, -1, h, w)


class Around(nn.Module):
    """A layer between two convolutions."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.one, self.inner, self.two = nn.Conv2d(3, 8, 3, padding=1), inner, nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.inner(F.relu(self.one(x)))))


def cut(net: nn.Module, example: Tensor, expected: dict[str, int]) -> nn.Module:
    """Thin a network by every second unit of all groups; its sizes are those on paper."""
    graph = trace(net, example)
    assert {group.name: group.size for group in graph.groups} == expected
    plan = Plan(tuple(DropUnits(group.name, tuple(range(0, group.size - 1, 2))) for group in graph.groups))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(3)).difference < 1e-5
    assert size(graph, plan).macs == count(thin, example).macs
    return thin


@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize(
    ("inner", "width", "expected"),
    [
        (lambda: Blur(8), 8, {"one": 8}),
        (lambda: Modulated(8, 6), 6, {"one": 8, "inner": 6}),
        (lambda: Mixed(8, 6, False), 6, {"one": 8, "inner": 6, "inner.shares": 4}),
        (lambda: Mixed(8, 6, True), 6, {"one": 8, "inner": 6, "inner.shares": 4}),
    ],
)
def test_kernels_that_are_computed_go_with_their_channels(
    batch: int, inner: type[nn.Module], width: int, expected: dict[str, int]
) -> None:
    thin = cut(lived_in(Around(inner(), width)), images(batch), expected)
    assert getattr(thin.inner, "channels", 4) == 4


class Correlated(nn.Module):
    """Each map is convolved with a piece of itself."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = x[:, :, 2:5, 2:5].reshape(n * c, 1, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n * c).view(n, c, h, w)


class Dynamic(nn.Module):
    """A kernel for each channel of each image, made of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(8, 8 * 9)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = self.make(x.mean((2, 3))).view(n * c, 1, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n * c).view(n, c, h, w)


class Transposed(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.kernel, stride=2, groups=x.shape[1])


class Written(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, 1, 1, 1, 8)


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(1, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.repeat(8, 1, 1, 1), groups=8)


@pytest.mark.parametrize("make", [Correlated, Dynamic, lambda: Transposed(8), lambda: Written(8), Repeated])
def test_channels_with_kernels_of_their_own_go_with_them(make: Callable[[], nn.Module]) -> None:
    net = lived_in(Around(make(), 8))
    thin = cut(net, images(2), {"one": 8})
    assert "one" in trace(net, images(2)).group("one").layers  # what makes them still does
    silenced = copy.deepcopy(net)
    with torch.no_grad():
        for reader in [silenced.two, *silenced.inner.children()]:
            reader.weight[:, [0, 2, 4, 6]] = 0.0
        torch.testing.assert_close(thin(images(2)), silenced(images(2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("groups", "spread", "units"), [(1, 1, 8), (1, 2, 4), (2, 1, 4), (2, 2, 4)])
def test_deformable_convolutions_read_like_convolutions(groups: int, spread: int, units: int) -> None:
    from torchvision.ops import DeformConv2d

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.scale = nn.Conv2d(8, 18 * spread, 1), nn.Conv2d(8, 9 * spread, 1)
            self.own = DeformConv2d(8, 6, 3, padding=1, groups=groups)

        def forward(self, x: Tensor) -> Tensor:
            return self.own(x, self.shift(x), self.scale(x).sigmoid())

    thin = cut(lived_in(Around(Deformed(), 6)), images(2), {"one": units, "inner.own": 6 // groups})
    assert thin.inner.own.weight.shape[1] == 4 // groups


def test_a_deformable_convolution_needs_no_bias() -> None:
    from torchvision.ops import deform_conv2d

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.shift = nn.Parameter(torch.randn(6, 8, 3, 3)), nn.Conv2d(8, 18, 1)

        def forward(self, x: Tensor) -> Tensor:
            return deform_conv2d(x, self.shift(x), self.weight, padding=1)

    cut(lived_in(Around(Deformed(), 6)), images(2), {"one": 8, "inner": 6})


def test_embeddings_go_with_the_features_that_they_are_added_to() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.bag = nn.Embedding(64, 8), nn.EmbeddingBag(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(2).transpose(1, 2) + self.place(torch.arange(64)) + self.bag(torch.tensor([[1, 2]]))
            return y.transpose(1, 2).reshape(x.shape)

    thin = cut(lived_in(Around(Embedded(), 8)), images(1), {"one": 8})
    assert (thin.inner.place.embedding_dim, thin.inner.bag.embedding_dim) == (4, 4)


class Blurred(nn.Module):
    """Copies a kernel that is a buffer for so many channels; another buffer decides whether."""

    def __init__(self, decides: bool) -> None:
        super().__init__()
        self.one, self.two, self.decides = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), decides
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))
        self.register_buffer("on", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        if self.decides and not self.on:
            return self.two(x)
        return self.two(torch.conv2d(x, self.kernel.repeat(8, 1, 1, 1), groups=8))


def test_a_number_in_a_call_on_a_buffer_is_rewritten() -> None:
    net, images = lived_in(Blurred(False)), torch.randn(2, 3, 6, 6)
    graph = trace(net, images)
    assert {group.name: group.size for group in graph.groups} == {"one": 8}
    plan = Plan((DropUnits("one", (0, 5)),))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images).difference < 1e-5
    thin.kernel.zero_()  # it is still the buffer that is copied
    assert torch.allclose(thin(images), thin.two.bias[:, None, None].expand(4, 2, 2), atol=1e-6)


def test_a_buffer_that_decides_does_not_keep_code_from_being_recorded() -> None:
    assert record(Blurred(True)) is not None
