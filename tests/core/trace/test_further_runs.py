"""The run in training: what it ties together, what it pins, and what it leaves alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans import third
from secateur.core.code.written_numbers import record
from secateur.core.surgery import apply, masked, relative_difference, verify
from secateur.core.surgery.training_mode_check import run_in_training
from secateur.core.trace import sites, trace
from secateur.core.trace.further_runs import training_beside
from secateur.core.trace.sites import recorded_in
from secateur.core.trace.state import State
from secateur.errors import TraceError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Net(nn.Module):
    """Three layers and a classifier; all of them run in evaluation, and training does something more with them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.last, self.head = conv(3, 12), conv(12, 24), conv(24, 16), nn.Linear(16, 5)

    def between(self, y: Tensor) -> Tensor:
        return y

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return result

    def forward(self, x: Tensor) -> Any:
        a = self.stem(x).relu()
        b = self.between(self.wide(a).relu())
        c = self.last(b).relu()
        result = self.head(c.mean((2, 3)))
        return self.more(result, a, b, c) if self.training else result


class Slice(Net):
    """The slices of two layers meet."""

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return result + (b[:, :12] * a).mean((1, 2, 3))[:, None]


class Shuffle(Net):
    """Would be silently wrong: any even width runs."""

    def between(self, y: Tensor) -> Tensor:
        return y.roll(1, 1) if self.training else y


class Supervised(Net):
    """A list of maps at all depths."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.ModuleList([nn.Conv2d(width, 2, 1) for width in (12, 24)])

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return [result, *(layer(y) for layer, y in zip(self.deep, (a, b), strict=True))]


class Gated(Net):
    """Sizes that code which training alone runs computes from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.spread, self.maps = nn.Linear(24, 6), nn.Linear(6, 24), nn.Conv2d(24, 4, 1)

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        count, width = b.shape[:2]
        gate = self.spread(self.squeeze(F.adaptive_avg_pool2d(b, 1).view(count, width)).relu()).sigmoid()
        return result, self.maps(b * gate.view(count, width, 1, 1))


class Written(Net):
    """A size that is written into code which training alone runs."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(12 * 64, 5)

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return result, self.aux(a.view(-1, 12 * 64))


class Both(Net):
    """One call, written once, for both modes."""

    def forward(self, x: Tensor) -> Any:
        a = self.stem(x).relu()
        c = self.last(self.wide(a).relu()).relu().view(-1, 16, 64)
        result = self.head(c.mean(2))
        return (result, 2 * result) if self.training else result


class Shifted(Net):
    """In training the same call is another one."""

    def forward(self, x: Tensor) -> Any:
        b = self.wide(self.stem(x).relu()).relu()
        extra = b.reshape(-1, 24, 64)[:, :10].mean((1, 2))[:, None] if self.training else 0
        return self.head(self.last(b).relu().view(-1, 16, 64).mean(2)) + extra


class Swapped(Net):
    """At the same place training speaks of other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Any:
        b = self.wide(self.stem(x).relu()).relu()
        if self.training:
            return self.aux(b.view(-1, 24, 64).mean(2))
        return self.head(self.last(b).relu().view(-1, 16, 64).mean(2))


class Elsewhere(Net):
    """The only size that is written for evaluation has another call in its place in training."""

    def forward(self, x: Tensor) -> Any:
        c = self.last(self.wide(self.stem(x).relu()).relu()).relu()
        if self.training:
            return self.head(c.flatten(2).mean(2)) + x.view(-1, 3, 64).mean((1, 2))[:, None]
        return self.head(c.view(-1, 16, 64).mean(2))


class Features(Net):
    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return {"result": result, "features": [b, c.mean((2, 3))]}


class Noise(Net):
    def between(self, y: Tensor) -> Tensor:
        return y + torch.randn(24, 1, 1) / 10 if self.training else y


class Normal(Net):
    """Statistics over channels that evaluation does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.aux = nn.LayerNorm(24), nn.Linear(24, 5)

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return result, self.aux(self.norm(b.mean((2, 3))))


class Skips(Net):
    """A block that training leaves out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.block = conv(24, 24)

    def between(self, y: Tensor) -> Tensor:
        return y + self.block(y) if not self.training or random.random() < 0.5 else y


class Depth(Net):
    """Drops whole samples, and says so in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.block = conv(24, 24)

    def between(self, y: Tensor) -> Tensor:
        added = self.block(y)
        return y + (added * added.new_empty(len(y), 1, 1, 1).bernoulli_(0.5) if self.training else added)


class Queue(Net):
    """Keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.randn(16, 20))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))
        self.count = 0

    def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        seen, place = c.mean((2, 3)), int(self.place)
        scores = seen @ self.queue.clone()
        self.queue[:, place : place + len(seen)] = seen.T
        self.place[0] = place + len(seen)
        self.count += 1
        return result, scores


class Statistics(nn.Module):
    """A batch norm by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.mean = 0.9 * self.mean + 0.1 * mean
            self.var.mul_(0.9).add_(0.1 * var)
        else:
            mean, var = self.mean, self.var
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * self.weight[:, None, None]


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Statistics(24)

    def between(self, y: Tensor) -> Tensor:
        return self.norm(y)


class Alone(Net):
    """Cannot train on a single image: there is one value for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("var", torch.ones(16))
        self.aux = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Any:
        b = self.wide(self.stem(x).relu()).relu()
        pooled = F.batch_norm(self.last(b).mean((2, 3)), self.mean, self.var, training=self.training)
        result = self.head(pooled)
        return (result, self.aux(b.mean((2, 3)))) if self.training else result


FREE = {"stem": 12, "wide": 24, "last": 16}
CASES: dict[type[Net], dict[str, int]] = {
    Slice: {"last": 16},
    Shuffle: {"stem": 12, "last": 16},
    Supervised: FREE,
    Gated: FREE,
    Written: FREE,
    Both: FREE,
    Shifted: {"stem": 12, "wide": 14, "last": 16},
    Swapped: FREE,
    Elsewhere: FREE,
    Features: {"stem": 12},
    Noise: {"stem": 12, "last": 16},
    Normal: {"stem": 12, "last": 16},
    Skips: FREE,
    Depth: FREE,
    Queue: FREE,
    ByHand: FREE,
    Alone: FREE,
}


@pytest.mark.parametrize("images", [IMAGES, IMAGES[:1]], ids=["two", "one"])
@pytest.mark.parametrize("make", CASES)
def test_the_thin_network_is_right_in_both_modes(make: type[Net], images: Tensor) -> None:
    torch.manual_seed(0)
    net = make().eval()
    graph = trace(net, images)
    assert {group.name: group.size for group in graph.groups} == CASES[make]
    assert not graph.unreached
    plan = third(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, IMAGES).exact
    with masked(net, graph, plan):
        expected = run_in_training(net, IMAGES)
    assert relative_difference(expected, run_in_training(thin, IMAGES)) < 1e-5
    thin.train()(torch.randn(4, 3, 8, 8))


@pytest.mark.parametrize("make", CASES)
def test_reading_leaves_the_network_and_the_generators_alone(make: type[Net]) -> None:
    net = make().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn, chance = torch.get_rng_state(), random.getstate()
    graph = trace(net, IMAGES)
    assert {group.name: group.size for group in graph.groups} == CASES[make]  # whatever mode it was in
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == chance
    assert all(module.training for module in net.modules())
    assert getattr(net, "count", 0) == 0


@pytest.mark.parametrize("make", [Supervised, Gated, Normal])
def test_the_work_of_training_is_not_counted(make: type[Net]) -> None:
    graph, plain = trace(make().eval(), IMAGES), trace(Net().eval(), IMAGES)
    assert [(cost.layer, cost.scale) for cost in graph.costs] == [(cost.layer, cost.scale) for cost in plain.costs]


def test_operators_without_a_formula_that_training_alone_runs_are_not_reported() -> None:
    class Spectrum(Net):
        def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
            return result, torch.linalg.svdvals(a).mean()

    graph = trace(Spectrum().eval(), IMAGES)
    assert not graph.uncounted
    assert {group.name for group in graph.groups} == {"wide", "last"}


class Insists(nn.Module):
    """Its code raises in training at any other width."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(24, 9)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[1] != 24:
            raise ValueError("another width")
        return self.layer(x)


def test_what_enters_a_module_that_breaks_in_training_stays() -> None:
    class Outer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Insists()

        def between(self, y: Tensor) -> Tensor:
            return y + self.inner(y).mean(1, keepdim=True)

    graph = trace(Outer().eval(), IMAGES)
    assert {group.name for group in graph.groups} == {"stem", "last", "inner.layer"}
    row = next(row for row in graph.explain().rows if row.layer == "wide")
    assert row.reason == "training uses it in 'inner' in a way that was not understood"


def test_a_network_that_breaks_in_training_where_nothing_can_be_pinned_is_refused() -> None:
    class Asks(Net):
        def between(self, y: Tensor) -> Tensor:
            if self.training and y.shape[1] != 24:
                raise ValueError("another width")
            return y

    graph = trace(Asks().eval(), IMAGES)
    assert {group.name for group in graph.groups} == {"stem", "last"}
    assert "training uses it in a way that was not understood" in {pin.reason for pin in graph.pins}

    class Counts(Net):
        def __init__(self) -> None:
            super().__init__()
            self.whole = sum(parameter.numel() for parameter in self.parameters())

        def between(self, y: Tensor) -> Tensor:
            if self.training and sum(parameter.numel() for parameter in self.parameters()) != self.whole:
                raise ValueError("other weights")
            return y

    with pytest.raises(TraceError, match="runs in evaluation mode but breaks in training mode; compute sizes"):
        trace(Counts().eval(), IMAGES)


def test_where_the_dense_network_does_not_train_evaluation_alone_counts() -> None:
    class Wants(Slice):
        def more(self, result: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
            raise ValueError("targets are missing")

    assert {group.name: group.size for group in trace(Wants().eval(), IMAGES).groups} == FREE


def test_statistics_over_channels_that_training_alone_takes_pin() -> None:
    row = next(row for row in trace(Normal().eval(), IMAGES).explain().rows if row.layer == "wide")
    assert row.reason == "used otherwise in training than in evaluation"


def test_code_is_recorded_in_the_mode_that_is_asked_for() -> None:
    net = Written().train()
    net.stem.eval()
    lengths = [len(recorded_in(net, "", training=mode).nodes) for mode in (False, True)]
    assert lengths[0] < lengths[1]
    assert net.training


def test_labels_of_buffers_are_those_of_the_first_run_again() -> None:
    net = Queue()
    state = State.of(net)
    layers = state.labels(net.queue)
    with training_beside(net, state, "a reason"):
        state.set(net.queue, [])
        state.labels(net.place)
    assert state.shadows[net.queue] is layers
    assert not state.pins


def test_sizes_of_evaluation_are_looked_for_in_the_code_of_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []

    def noted(module: nn.Module) -> Any:
        modes.append(module.training)
        return record(module)

    monkeypatch.setattr(sites, "record", noted)
    trace(Both().train(), IMAGES)
    assert modes
    assert not any(modes)
