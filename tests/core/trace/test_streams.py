"""Which groups are streams: units that several layers put out whose outputs are added up, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import INSIDE, Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace

Combine = Callable[["Two", Tensor], Tensor]


class Two(nn.Module):
    """Two layers that read one stem, put together in some way, and a head."""

    def __init__(self, combine: Combine) -> None:
        super().__init__()
        self.combine = combine
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)
        self.bias = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.combine(self, torch.relu(self.stem(x))) * self.bias)


SUMS: dict[str, Combine] = {
    "a + b": lambda net, x: net.a(x) + net.b(x),
    "in place": lambda net, x: net.a(x).add_(net.b(x), alpha=0.5),
    "a - b": lambda net, x: net.a(x) - net.b(x),
    "scaled": lambda net, x: 0.3 * net.a(x) + torch.relu(net.b(x)) / 2,
    "between": lambda net, x: torch.lerp(net.a(x), net.b(x), 0.5),
    "sum of a list": lambda net, x: sum([net.a(x), net.b(x)], torch.zeros(())),
    "stacked and averaged": lambda net, x: torch.stack([net.a(x), net.b(x)]).mean(0),
    "behind a bias": lambda net, x: (net.bias + net.a(x)) + net.b(x),
    "b with its own gate": lambda net, x: net.a(x) + net.b(x) * torch.sigmoid(net.b(x)),
}
NO_SUMS: dict[str, Combine] = {
    "a * b": lambda net, x: net.a(x) * torch.sigmoid(net.b(x)),
    "a / b": lambda net, x: net.a(x) / (1 + net.b(x).exp()),
    "gated, and added to itself": lambda net, x: (lambda a, g: g * a + a)(net.a(x), torch.sigmoid(net.b(x))),
    "the larger": lambda net, x: torch.maximum(net.a(x), net.b(x)),
    "a and a bias": lambda net, x: net.a(x) + net.bias,
    "a alone, twice": lambda net, x: net.a(x) + net.a(x),
    "numbers added": lambda net, x: net.a(x) * torch.relu(net.b(x) + 3) / 6,
}


@pytest.mark.parametrize("name", SUMS)
def test_what_several_layers_put_out_and_is_added_up_is_a_stream(name: str) -> None:
    graph = trace(Two(SUMS[name]).eval(), images(1))
    assert graph.streams == {"a"}
    assert set(graph.group("a").layers) == {"a", "b"}


@pytest.mark.parametrize("name", NO_SUMS)
def test_what_is_multiplied_or_of_one_layer_is_none(name: str) -> None:
    graph = trace(Two(NO_SUMS[name]).eval(), images(1))
    assert not graph.streams
    assert {g.name for g in graph.choose(INSIDE).free} == {g.name for g in graph.free}


@pytest.mark.parametrize(
    ("name", "streams"),
    [
        ("plain", set[str]()),
        ("squeeze and excite", set[str]()),
        ("channel shuffle", set[str]()),
        ("option A", {"stem.0", "conv2"}),  # half of what conv2 makes is added to zeros
        ("cat then add", {"stem.0"}),  # in two groups, each with one of the layers that it is added to
        ("chunk and cat (YOLO C2f)", {"cv1.0"}),
    ],
)
def test_streams_of_small_networks(name: str, streams: set[str]) -> None:
    assert {group.partition("#")[0] for group in trace(make(name), images(1)).streams} == streams


def inside(net: nn.Module) -> Graph:
    return trace(net, images(1)).choose(INSIDE)


def test_inside_blocks_streams_stay_and_the_rest_can_go() -> None:
    net = Two(SUMS["a + b"]).eval()
    graph = inside(net)
    assert {group.name for group in graph.free} == {"stem"}
    assert [group.name for group in graph.groups] == ["stem", "a"]  # numbers and plans stay valid
    plan = Plan((DropUnits("stem", (0, 2)),))
    assert verify(net, graph, plan, apply(net, graph, plan), images(1)).exact


def test_what_was_left_alone_is_said() -> None:
    graph = inside(Two(SUMS["a + b"]).eval())
    assert (
        graph.spared == "left alone: 1 group of 6 units that several layers put out and add up (groups = inside blocks)"
    )
    rows = {row.layer: row for row in graph.explain().rows}
    assert (rows["a"].prunable, rows["b"].prunable, rows["stem"].prunable) == (0, 0, 4)
    assert "added to the outputs of other layers" in rows["a"].reason
    assert rows["b"].remedy == "take groups = all"
    assert inside(make("plain")).spared == "nothing to leave alone: no group is added up (groups = inside blocks)"
    assert trace(make("plain"), images(1)).choose("all").spared == ""


def test_a_stream_that_was_named_is_left_alone_as_asked() -> None:
    graph = trace(Two(SUMS["a + b"]).eval(), images(1)).without("a").choose(INSIDE)
    rows = {row.layer: row for row in graph.explain().rows}
    assert rows["a"].reason == "left alone as asked"
    assert "added to" in rows["b"].reason
