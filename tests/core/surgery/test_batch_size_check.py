"""Networks that run on other numbers of inputs than the example has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pictures import images
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, check_batches, other_batches, verify
from secateur.core.trace import trace
from secateur.errors import VerificationError


class Net(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.stem, self.wide, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 32, 3), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(self.stem(x).relu()).relu().mean((2, 3))
        if self.way == "one row":  # right for one image, and for a batch of channels that fill rows of 32
            y = y if y.numel() % 32 == 0 else y.reshape(1, -1)[:, :32]
        elif self.way == "for two":
            y = y.reshape(2, -1)
        elif self.way == "over the batch":
            y = y - y.mean(0, keepdim=True)
        return self.head(y)


def cut(net: nn.Module, count: int) -> tuple[object, Plan, nn.Module]:
    graph = trace(net, images(count))
    plan = Plan(tuple(DropUnits(group.name, (0, 1)) for group in graph.groups))
    return graph, plan, apply(net, graph, plan)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("way", ["plain", "over the batch"])
def test_sound_networks_pass(way: str, count: int) -> None:
    net = Net(way).eval()
    graph, plan, thin = cut(net, count)
    assert graph.units == 40
    check_batches(net, graph, plan, thin, images(count))


def test_a_thin_network_for_one_batch_size_is_refused() -> None:
    net = Net("one row").eval()
    graph, plan, _ = cut(Net("plain"), 1)  # one that was read off this network would leave the layer alone
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(1)).exact
    with pytest.raises(VerificationError, match="not on 2 of them, as the dense one does"):
        check_batches(net, graph, plan, thin, images(1))


def test_where_the_dense_network_runs_on_one_batch_size_only_nothing_is_asked() -> None:
    net = Net("for two").eval()
    graph, plan, thin = cut(net, 2)
    check_batches(net, graph, plan, thin, images(2))


@pytest.mark.parametrize("first", [0, 1])
def test_a_thin_network_that_is_wrong_on_another_batch_is_refused(first: int) -> None:
    net = Net("plain").eval()
    graph, plan, thin = cut(net, 1)

    def doubled(module: nn.Module, given: object, output: Tensor) -> Tensor:
        return torch.cat([output[:first], output[first:] * 2]) if len(output) > 1 else output

    thin.register_forward_hook(doubled)
    with pytest.raises(VerificationError, match="it differs by"):
        check_batches(net, graph, plan, thin, images(1))


def test_other_batches_change_what_is_as_long_as_the_first_tensor() -> None:
    given = {"x": images(3), "weights": torch.ones(3), "table": torch.ones(4, 3), "flag": True}
    alone, twice = other_batches(given)
    assert (alone["x"].shape[0], alone["weights"].shape[0], alone["table"].shape) == (1, 1, (4, 3))
    assert (twice["x"].shape[0], twice["weights"].shape[0], twice["flag"]) == (6, 6, True)
    assert [len(other) for other in other_batches(images(1))] == [2]
    assert other_batches({"flag": True}) == []
