from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from secateur.errors import ModelError, SettingError
from secateur.models import build, classes_of, head_of, replace_head

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A small classifier whose layers stand in an order that tells nothing, and whose widths all equal the classes."""

    def __init__(self, end: Callable[[Tensor], Tensor] = lambda z: z, classes: int = 6) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(6, classes), nn.Conv2d(3, 6, 3)
        self.b, self.unused = nn.Linear(6, 6), nn.Linear(6, classes)
        self.end, self.num_classes = end, classes

    def forward(self, x: Tensor) -> Tensor:
        h = self.c(x).relu().mean((2, 3))
        return self.end(self.a(self.b(h).relu() + h))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.body(x).relu()).relu().mean((2, 3))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.mean((2, 3))
        return (self.one(h) + self.other(h)) / 2


@pytest.mark.parametrize(
    "end",
    [
        lambda z: z,
        lambda z: -3 * z,
        lambda z: z.log_softmax(1),
        lambda z: z.softmax(1),
        lambda z: {"logits": z, "features": z * 2},
        lambda z: (z, z.softmax(1)),
    ],
)
def test_the_layer_that_puts_out_the_scores_one_by_one_is_the_head(end: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net = Net(end)
    before = copy.deepcopy(net.state_dict())
    assert head_of(net, IMAGE) == "a"
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net.a._forward_hooks


def test_a_convolution_under_a_pooling_is_a_head() -> None:
    torch.manual_seed(0)
    assert head_of(Pooled(), IMAGE) == "scores"


@pytest.mark.parametrize(
    ("name", "head"), [("resnet20", "linear"), ("resnet20_projection", "fc"), ("densenet40", None), ("vgg16_bn", None)]
)
def test_built_in_networks(name: str, head: str | None) -> None:
    net = build(name)
    found = replace_head(net, 7, IMAGE)
    assert head is None or found == head
    assert classes_of(net, IMAGE) == 7


def test_a_fresh_head_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    net = Net().double().eval()
    net.a.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    assert replace_head(net, 4, IMAGE.double()) == "a"
    assert isinstance(net.a, nn.Linear)
    assert (net.a.out_features, net.num_classes, net.training) == (4, 4, False)
    assert net.a.weight.shape == (4, 6)
    assert net.a.weight.dtype == torch.float64
    assert not net.a.weight.requires_grad
    assert net.a.bias.requires_grad
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items() if not n.startswith("a."))
    again = Net().double()
    torch.manual_seed(3)
    replace_head(again, 4, IMAGE.double(), head="a")
    assert torch.equal(again.a.weight, net.a.weight)  # drawn from the global generator


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ModelError, match=r"2 layers \(one, other\) put out the class scores of Two"):
        head_of(Two(), IMAGE)
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(3072, 6), nn.LayerNorm(6))
    with pytest.raises(ModelError, match="no convolution or linear layer puts out"):
        head_of(mixed, IMAGE)
    with pytest.raises(ModelError, match="two classes or more"):
        head_of(Net(classes=1), IMAGE)


def test_what_cannot_be_replaced_is_refused_and_left() -> None:
    with pytest.raises(SettingError, match="2 classes or more, not 1"):
        replace_head(Net(), 1, IMAGE)
    with pytest.raises(ModelError, match="has no layer 'x'"):
        replace_head(Net(), 3, IMAGE, head="x")
    with pytest.raises(ModelError, match="only a linear layer or a convolution"):
        replace_head(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), 3, IMAGE, head="0")
    normed = nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(3072, 4)))
    with pytest.raises(ModelError, match="its weight is computed"):
        replace_head(normed, 3, IMAGE)
    fixed = Net(lambda z: F.linear(z, torch.eye(6)))
    with pytest.raises(ModelError, match="'a' cannot be replaced by a classifier of 3 classes: the model cannot run"):
        replace_head(fixed, 3, IMAGE)
    assert fixed.a.out_features == fixed.num_classes == 6
    assert classes_of(fixed, IMAGE) == 6
