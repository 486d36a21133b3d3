"""Networks run as training runs them, and the thin one with the dense one."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, check_training, compare_training
from secateur.core.surgery.training_mode_check import breaks_in_training, run_in_training, training_batches
from secateur.core.trace import trace
from secateur.errors import CutError, VerificationError


class Net(nn.Module):
    """A convolution, a norm, and whatever training does with what they give."""

    def __init__(self, trains: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        super().__init__()
        self.trains = trains
        self.conv, self.norm, self.drop, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Dropout(),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu().mean((2, 3))
        y = F.dropout(self.drop(y), 0.5, self.training)
        return self.head(self.trains(y) if self.training else y)


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PLAN = Plan((DropUnits("conv", (0, 3)),))


def test_a_training_run_draws_nothing_and_leaves_the_network_alone() -> None:
    net = Net(lambda y: 2 * y).eval()
    with torch.no_grad():
        expected = net.head(2 * net.norm(net.conv(IMAGES)).relu().mean((2, 3)))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn = torch.get_rng_state()
    torch.testing.assert_close(run_in_training(net, IMAGES), expected)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("by_name", [True, False])
def test_attention_drops_nothing(by_name: bool) -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rate = 0.9 if self.training else 0.0
            if by_name:
                return F.scaled_dot_product_attention(x, x, x, dropout_p=rate)
            return F.scaled_dot_product_attention(x, x, x, None, rate)

    x = torch.randn(2, 3, 4, 8)
    net = Attention().eval()
    torch.testing.assert_close(run_in_training(net, x), net(x))


def test_one_input_may_be_doubled() -> None:
    assert [batch.shape[0] for batch in training_batches(IMAGES[:1])] == [1, 2]
    assert [batch.shape[0] for batch in training_batches(IMAGES)] == [2]
    assert training_batches({"flag": True}) == [{"flag": True}]


def fixed(y: Tensor) -> Tensor:
    if y.shape[1] != 8:
        raise ValueError("there must be 8 channels")
    return y


def never(y: Tensor) -> Tensor:
    raise ValueError("targets are missing")


def for_several(y: Tensor) -> Tensor:
    if len(y) < 2:
        raise ValueError("more than one value per channel is needed")
    return fixed(y)


def thin_of(net: nn.Module) -> nn.Module:
    return apply(net, trace(Net().eval(), IMAGES), PLAN)


@pytest.mark.parametrize("trains", [fixed, for_several])
def test_a_thin_network_that_does_not_train_is_refused(trains: Callable[[Tensor], Tensor]) -> None:
    net = Net(trains).eval()
    with pytest.raises(VerificationError, match=r"does not run in training mode, as the dense one does: .* 8 channels"):
        check_training(net, thin_of(net), IMAGES[:1])


@pytest.mark.parametrize("trains", [never, lambda y: y])
def test_where_the_dense_one_does_not_train_either_nothing_is_said(trains: Callable[[Tensor], Tensor]) -> None:
    net = Net(trains).eval()
    check_training(net, thin_of(net), IMAGES)


def test_a_thin_network_that_computes_something_else_in_training_is_noticed() -> None:
    def first(y: Tensor) -> Tensor:
        return y * torch.linspace(0, 1, y.shape[1])

    net = Net(first).eval()
    graph = trace(Net().eval(), IMAGES)
    assert breaks_in_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES) == "head"
    net = Net(lambda y: 2 * y).eval()
    assert breaks_in_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES) is None


def noisy(y: Tensor) -> Tensor:
    return y + torch.randn(y.shape)


def by_width(y: Tensor) -> Tensor:
    return y / y.shape[1] + 0 * torch.rand(len(y), 1)


@pytest.mark.parametrize(
    ("trains", "place"),
    [
        (noisy, None),  # constants stand in the place of other draws
        (by_width, "head"),
        (lambda y: noisy(by_width(y)), "head"),
        (lambda y: y + int.from_bytes(os.urandom(4)) / y.shape[1], None),  # the dense one differs from itself
    ],
)
def test_what_is_drawn_does_not_hide_what_depends_on_the_width(
    trains: Callable[[Tensor], Tensor], place: str | None
) -> None:
    net, graph = Net(trains).eval(), trace(Net().eval(), IMAGES)
    assert breaks_in_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES) == place


def test_where_numbers_are_drawn_it_must_run() -> None:
    net, graph = Net(lambda y: fixed(noisy(y))).eval(), trace(Net().eval(), IMAGES)
    with pytest.raises(CutError, match="8 channels"):
        breaks_in_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES)


def test_where_the_silenced_one_does_not_train_the_thin_one_must_run_alone() -> None:
    def refuses_zeros(y: Tensor) -> Tensor:
        if not bool(net.head.weight.all()):
            raise ValueError("a weight is zero")
        return y

    net, graph = Net(refuses_zeros).eval(), trace(Net().eval(), IMAGES)
    assert breaks_in_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES) is None


@pytest.mark.parametrize(
    "looks", [lambda y: torch.is_grad_enabled(), lambda y: y.requires_grad, lambda y: y.grad_fn is not None]
)
def test_code_that_looks_at_gradients_is_read_and_compared_with_them(looks: Callable[[Tensor], bool]) -> None:
    class Gradients(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).relu().mean((2, 3))
            return self.head(y / y.shape[1] if looks(y) else y)

    assert [group.name for group in trace(Net().eval(), IMAGES).groups] == ["conv"]
    assert [group.name for group in trace(Gradients().eval(), IMAGES).groups] == []
    assert torch.is_grad_enabled.__module__ == "torch"


def test_the_plan_that_is_carried_out_is_compared_in_training_and_leads_to_another_reading() -> None:
    net = Net(lambda y: 2 * y if y.shape[1] < 4 else y).eval()  # which no plan shows that takes less
    graph, plan = trace(net, IMAGES), Plan((DropUnits("conv", (0, 1, 2, 3, 4)),))
    compare_training(net, graph, PLAN, apply(net, graph, PLAN), IMAGES)
    with pytest.raises(CutError, match=r"not in training mode, first at 'head'"):
        compare_training(net, graph, plan, apply(net, graph, plan), IMAGES)
    assert trace(net, IMAGES, tried=(plan,)).groups == ()


def test_where_training_is_no_other_run_it_is_not_compared() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), IMAGES)
    compare_training(nn.Identity(), graph, PLAN, nn.Identity(), IMAGES)
