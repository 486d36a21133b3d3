"""Networks that were never trained are known for certain, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.models import build
from secateur.models.untrained import is_untrained


def simple(*, norm: bool = True, bias: bool = True) -> nn.Sequential:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        return [made, nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [made, nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5, bias=bias)]
    return nn.Sequential(*block(3, 16), *block(16, 24), *head)


def trained(net: nn.Module, steps: int = 30) -> nn.Module:
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 5
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net


FRESH: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: build("resnet20"),
    "lenet5": lambda: build("lenet5"),
    "torchvision:resnet18": lambda: build("torchvision:resnet18"),
    "torchvision:mobilenet_v2": lambda: build("torchvision:mobilenet_v2"),
    "with norms": simple,
    "without norms": lambda: simple(norm=False),
    "without biases": lambda: simple(norm=False, bias=False),
}


@pytest.mark.parametrize("make", FRESH.values(), ids=FRESH)
def test_fresh_networks_are_known(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    assert is_untrained(make())


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_trained_networks_are_not_taken_for_fresh(norm: bool, bias: bool) -> None:
    torch.manual_seed(1)
    assert not is_untrained(trained(simple(norm=norm, bias=bias)).eval())


def test_weights_that_were_loaded_are_enough() -> None:
    torch.manual_seed(1)
    state = trained(simple()).state_dict()
    for name in [name for name in state if "num_batches" in name]:
        state[name].zero_()  # as files of old versions do
    net = simple()
    net.load_state_dict(state)
    assert not is_untrained(net)


def test_folded_norms_are_no_sign() -> None:
    """Neither where the norm is gone, nor where it is left as the identity."""
    torch.manual_seed(1)
    net = trained(simple(bias=False)).eval()
    gone, left = simple(norm=False), simple()
    with torch.no_grad():
        for number, other in ((0, 0), (3, 2)):
            conv = nn.utils.fuse_conv_bn_eval(net[number], net[number + 1])
            gone[other], left[number] = conv, conv
        gone[6], left[8] = net[8], net[8]
    assert not is_untrained(gone)
    assert not is_untrained(left)


def test_one_fresh_norm_among_trained_layers_is_no_sign() -> None:
    torch.manual_seed(1)
    body = trained(simple(norm=False, bias=False))
    net = nn.Sequential(body, *[nn.Conv2d(1, 1, 1) for _ in range(4)], nn.BatchNorm2d(3))
    assert not is_untrained(net)


def small(scale: float = 1.0) -> nn.Sequential:
    net = nn.Sequential(*[nn.Conv2d(3, 3, 2) for _ in range(8)], nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net


def test_small_layers_say_something_together_only() -> None:
    torch.manual_seed(1)
    assert is_untrained(small())
    assert not is_untrained(small(0.7))  # within torch's bounds, as after training with weight decay
    assert not is_untrained(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 3)))
    blank = small(0.5)
    for layer in [blank[-1], *blank[:8]]:
        nn.init.zeros_(layer.bias)
    assert not is_untrained(blank)


def test_norms_without_statistics_are_no_sign() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, track_running_stats=False))
    assert not is_untrained(net)


def test_networks_without_layers_are_no_sign() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert not is_untrained(Empty())
