"""Whether the code of a network looks at whether it trains."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.module_calls import ModuleStack
from secateur.core.surgery.training_flag import asking, may_differ


class Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if self.training else y.relu()


class Drops(nn.Module):
    """Stochastic depth: whole samples."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(0.7) / 0.7


class Cuts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :6], torch.zeros_like(x[:, 6:])], 1) if self.training else x


class Shuffles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1) if self.training else x


class Weighs(nn.Module):
    """Scales all samples, by their width."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[1] if self.training else x


class WeighsByGradients(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[1] if torch.is_grad_enabled() else x


def asked_by(net: nn.Module) -> set[str]:
    stack = ModuleStack(net.eval())
    with asking(stack) as asked, stack:
        net(torch.randn(2, 3, 8, 8))
    return asked


def test_modules_that_look_are_named() -> None:
    assert asked_by(nn.Sequential(nn.Conv2d(3, 3, 1), Looks())) == {"1"}


def test_helpers_that_look_are_heard_too() -> None:
    class Helped(Looks):
        def forward(self, x: Tensor) -> Tensor:
            return helper(self, self.conv(x))

    def helper(net: nn.Module, y: Tensor) -> Tensor:
        return y if net.training else y.relu()

    assert asked_by(nn.Sequential(Helped())) == {"0"}


def test_those_that_look_at_gradients_are_named() -> None:
    class Wants(Looks):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y.relu() if y.requires_grad else y

    with torch.no_grad():
        assert asked_by(nn.Sequential(nn.Conv2d(3, 3, 1), Wants())) == {"1"}
        assert asked_by(nn.Sequential(nn.Conv2d(3, 3, 1), WeighsByGradients())) == {"1"}
        assert asked_by(nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2))) == set()


def test_norms_and_dropouts_may_look() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Dropout2d(), nn.Flatten(2), nn.GRU(64, 3)
    )
    assert asked_by(net) == set()


def test_the_attribute_works_while_it_is_listened_to_and_is_ordinary_again() -> None:
    net = Looks()
    with asking(ModuleStack(net)):
        net.train()
        assert net.training
        assert nn.Linear(2, 2).training
        assert not net.eval().training
        with pytest.raises(AttributeError, match="training"):
            _ = object.__new__(nn.Linear).training
    assert "training" not in vars(nn.Module)
    assert vars(net)["training"] is False


def test_other_threads_are_not_heard() -> None:
    net, other = Looks(), Looks()
    stack = ModuleStack(net.eval())

    class Meanwhile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=other, args=(x,))
            thread.start()
            thread.join()
            return x

    outer = nn.Sequential(Meanwhile())
    stack = ModuleStack(outer.eval())
    with asking(stack) as asked, stack:
        outer(torch.randn(2, 3, 8, 8))
    assert asked == set()


@pytest.mark.parametrize(
    ("module", "differs"),
    [
        (Drops(), False),
        (Cuts(), True),
        (Shuffles(), True),
        (Looks(), True),
        (Weighs(), True),
        (WeighsByGradients(), True),
    ],
)
def test_what_only_drops_samples_is_told_from_the_rest(module: nn.Module, differs: bool) -> None:
    net = nn.Sequential(module).eval()
    label = torch.arange(12).reshape(1, 12, 1, 1)
    before = torch.get_rng_state()
    assert may_differ(net, {"0"}, {"0": [label]}) is differs
    assert not net[0].training
    assert torch.equal(torch.get_rng_state(), before)


def test_nobody_asked_nothing_differs() -> None:
    assert not may_differ(nn.Sequential(Cuts()), set(), {})


def test_what_was_never_given_channels_is_not_believed() -> None:
    assert may_differ(nn.Sequential(Drops()), {"0"}, {})


def test_two_that_listen_at_once_hear_their_own() -> None:
    first, second = nn.Sequential(Looks()).eval(), nn.Sequential(nn.ReLU(), Looks()).eval()
    ready, heard = threading.Barrier(2), {}

    def listen(name: str, net: nn.Module) -> None:
        stack = ModuleStack(net)
        with asking(stack) as asked, stack:
            ready.wait()
            net(torch.randn(2, 3, 8, 8))
            ready.wait()
        heard[name] = asked

    threads = [threading.Thread(target=listen, args=each) for each in (("first", first), ("second", second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"first": {"0"}, "second": {"1"}}
    assert "training" not in vars(nn.Module)


def test_functions_that_drop_at_random_are_asked_about() -> None:
    class Functional(Looks):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.conv(x), 0.5, self.training)

    assert asked_by(Functional()) == {""}
