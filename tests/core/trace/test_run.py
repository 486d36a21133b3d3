"""What trace takes, what it promises, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from nets import SOME_FIRST, Head, conv, images, lived_in, make
from plans import half
from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import trace, traced
from secateur.errors import ModelError
from secateur.events import Event
from strategies import networks


def account(graph: Graph) -> Any:
    """Everything that a graph says, as plain values."""
    return (
        [(g.name, g.size, [(m.tensor, m.dim, m.role, m.unit.tolist()) for m in g.members]) for g in graph.groups],
        graph.pins,
        {
            name: (shape, [None if u is None else u.tolist() for u in dims])
            for name, (shape, dims) in graph.tensors.items()
        },
        [(c.layer, c.scale, [(a.fixed, a.units.tolist()) for a in c.axes]) for c in graph.costs],
        {name: units.tolist() for name, units in graph.convolutions.items()},
        [
            (r.module, r.call, r.function, [(w.path, w.sign, w.axis.fixed, w.axis.units.tolist()) for w in r.literals])
            for r in graph.rewrites
        ],
        [(s.module, s.call, s.dim, s.units.tolist()) for s in graph.statistics],
        dict(graph.roles),
    )


# -- inputs -------------------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """An image and a vector that gates its channels; a flag and an optional mask beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = conv(3, 8), nn.Linear(4, 8), Head(8)

    def forward(self, x: Tensor, v: Tensor, *, mask: Tensor | None = None, sharp: bool = False) -> Tensor:
        gate = torch.sigmoid(self.gate(v) * (2.0 if sharp else 1.0))
        x = self.stem(x) * gate[:, :, None, None]
        return self.head(x if mask is None else x * mask)


def two(batch: int) -> tuple[Tensor, Tensor]:
    return images(batch), torch.randn(batch, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "pack",
    [
        lambda x, v: (x, v),
        lambda x, v: [x, v],
        lambda x, v: {"x": x, "v": v},
        lambda x, v: {"v": v, "x": x, "sharp": True, "mask": None},
        lambda x, v: {"v": v, "x": x, "mask": torch.rand(len(x), 1, 8, 8)},
    ],
)
def test_inputs_may_be_a_tuple_or_named(pack: Callable[[Tensor, Tensor], Any]) -> None:
    net = lived_in(TwoInputs())
    graph = trace(net, pack(*two(1)))
    assert [(g.name, g.size, g.layers) for g in graph.groups] == [("gate", 8, ("gate", "stem.0"))]
    plan = half(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), pack(*two(3))).exact


def test_inputs_may_be_lists_inside() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = conv(3, 8), Head(8)

        def forward(self, batch: dict[str, list[Tensor]]) -> Tensor:
            return sum(self.head(self.stem(x)) for x in batch["images"])

    net = lived_in(Listed())
    graph = trace(net, ({"images": [images(1), images(1, 5)]},))
    plan = half(graph)
    assert [(g.name, g.size) for g in graph.groups] == [("stem.0", 8)]
    assert verify(net, graph, plan, apply(net, graph, plan), ({"images": [images(2, 7)] * 3},)).exact


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(1, 4, 8, 8), r"TwoInputs does not run .*shape \(1, 4, 8, 8\)"),
        ((torch.zeros(1, 3, 8, 8),), r"does not run on the example inputs \(shape \(1, 3, 8, 8\)\): .*missing"),
        ({"x": torch.zeros(1, 3, 8, 8), "w": torch.zeros(1)}, r"\(1, 3, 8, 8\), \(1,\)\).*unexpected keyword argument"),
        ({}, "no tensors"),
    ],
)
def test_a_model_that_does_not_run_is_a_sentence(inputs: Any, message: str) -> None:
    net = TwoInputs()
    with pytest.raises(ModelError, match=message) as caught:
        trace(net, inputs)
    assert "\n" not in str(caught.value)
    assert net.training


def test_a_failed_run_leaves_no_hooks_and_the_next_one_works() -> None:
    hooks = [getattr(nn.modules.module, f"_global_{kind}") for kind in ("forward_hooks", "forward_pre_hooks")]
    before = [len(h) for h in hooks]
    net = make("plain")
    with pytest.raises(ModelError):
        trace(net, torch.zeros(1, 4, 8, 8))
    assert [len(h) for h in hooks] == before
    assert account(trace(net, images(1))) == account(trace(make("plain"), images(1)))


# -- promises -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME_FIRST)
def test_tracing_twice_gives_the_same_graph(name: str) -> None:
    net = make(name)
    assert account(trace(net, images(1))) == account(trace(net, images(1)))


@settings(max_examples=20)
@given(net=networks())
def test_the_graph_does_not_depend_on_values_or_mode(net: nn.Module) -> None:
    expected = account(trace(net, images(1)))
    assert account(trace(net.train(), images(1, seed=9))) == expected
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert account(trace(net, images(1))) == expected


@pytest.mark.parametrize("name", ["plain", "option A", "channel statistics (CBAM)", "channel shuffle"])
def test_groups_do_not_depend_on_the_batch(name: str) -> None:
    net = make(name)
    one, three = trace(net, images(1)), trace(net, images(3))
    assert account(one)[0] == account(three)[0]
    assert account(one)[2] == account(three)[2]
    for plan in (Plan(), half(one)):
        assert 3 * size(one, plan).macs == size(three, plan).macs


def test_a_network_in_half_precision_without_gradients() -> None:
    net = make("plain").to(torch.bfloat16).requires_grad_(False)
    assert account(trace(net, images(1, dtype=torch.bfloat16))) == account(trace(make("plain"), images(1)))


def test_tracing_works_where_gradients_are_on_and_leaves_none() -> None:
    net = make("plain")
    x = images(1).requires_grad_(True)
    trace(net, x)
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())


# -- nothing to prune ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "an output of the network"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()), "an output of the network"),
    ],
)
def test_a_network_that_is_all_output_has_no_groups(net: nn.Module, reason: str) -> None:
    graph = trace(net, images(1))
    assert graph.groups == ()
    assert graph.units == 0
    (row,) = graph.explain().rows
    assert (row.prunable, row.width, row.reason) == (0, 8, reason)
    assert graph.explain().reachable == 1.0
    assert torch.equal(run(apply(net, graph, Plan()), images(2)), run(net, images(2)))


def test_a_network_without_parameters() -> None:
    graph = trace(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), images(1))
    assert (graph.groups, graph.costs, graph.explain().rows) == ((), (), ())


def test_channels_that_leave_torch_stay() -> None:
    class Leaving(nn.Module):
        def __init__(self, leave: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.stem, self.mid, self.head, self.leave = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), Head(6), leave

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mid(self.leave(self.stem(x))))

    for leave in (lambda x: torch.from_numpy(x.numpy() * 2), lambda x: torch.tensor(x.tolist())):
        net = Leaving(leave)
        graph = trace(net, images(1))
        assert [(g.name, g.size) for g in graph.groups] == [("mid", 6)]
        assert "leaves torch" in next(row.reason for row in graph.explain().rows if row.layer == "stem")
        plan = half(graph)
        assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact


# -- channels where a convolution does not expect them --------------------------------------------------------


class Blur(nn.Module):
    """Channels become a batch, so that one kernel serves all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel, self.head = conv(3, 8), nn.Parameter(torch.rand(1, 1, 3, 3)), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        return self.head(F.conv2d(x.reshape(n * c, 1, h, w), self.kernel, padding=1).reshape(n, c, h, w))


class Tokens(nn.Module):
    """A convolution over positions: channels are the dimension that it slides along."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.fc = conv(3, 8), nn.Conv1d(64, 16, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class ChannelsToMap(nn.Sequential):
    """Four channels become one map of twice the size."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), nn.Conv2d(8, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 3, 1), Head(3))


@pytest.mark.parametrize("network", [Blur, Tokens, ChannelsToMap])
def test_what_a_convolution_slides_over_is_never_half_pruned(network: type[nn.Module]) -> None:
    net = lived_in(network())
    graph = trace(net, images(1))
    plan = half(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact


def test_the_first_news_is_what_goes_on_and_not_the_name_of_a_module() -> None:
    heard: list[Event] = []
    trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 8, 8), tell=heard.append)
    assert heard[0] == Event("trace", "reading the network")
    assert "1" in {event.text for event in heard[1:]}


@pytest.mark.parametrize("name", SOME_FIRST)
def test_trials_that_can_wait_change_nothing_where_nothing_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make(name), images(1)
    expected = account(trace(model, inputs))
    tried: list[Plan] = []

    def heard(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
        tried.append(plan)
        return apply(model, graph, plan)

    monkeypatch.setattr("secateur.core.trace.breaks.apply", heard)
    graph = traced(model, inputs, trials="where needed")
    assert account(graph) == expected
    if name in ("plain", "channel shuffle"):  # without sizes in its code, and with
        assert bool(tried) is (name == "channel shuffle")
