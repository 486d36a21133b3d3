"""The patterns on which pruning libraries crash, go silently wrong, or silently do nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nets import NETS, PATTERNS, images, lived_in, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import trace

GROUPS: dict[str, dict[str, int]] = {
    "cat([x, x])": {"stem.0": 8, "mix.0": 6},
    # both halves of the chunk shrink alike, and the second is a residual stream
    "chunk and cat (YOLO C2f)": {"cv1.0": 8, "m.0.cv1.0": 8, "m.1.cv1.0": 8, "cv2.0": 6},
    "pixel shuffle": {"stem.0": 6, "mix.0": 4},  # 2x2 channels make one
    # the shuffle deals 8 positions of 2 groups to 2 groups: only every second position is a free choice
    "channel shuffle": {"stem.0": 8, "one.0": 4, "two.0": 8},
    "squeeze and excite": {"stem.0": 8, "squeeze": 4, "mix.0": 6},
    "flatten a map": {"stem.0": 6, "fc1": 10},
    "linear, written view, transposed conv": {"stem.0": 6, "fc": 8, "up": 6},
    "called twice": {"stem.0": 8},  # the shared layer makes what it reads
    "single output": {"stem.0": 8, "mix.0": 6},
    "parameter scale": {"stem.0": 8, "mix.0": 6},
    "buffer scale": {"stem.0": 8, "mix.0": 6},
    "written view": {"stem.0": 8, "mix.0": 24},
    "option A": {"stem.0": 8, "conv1": 16, "conv2": 8},  # conv2: the channels that only the padding feeds
    "group norm": {"stem.0": 8, "mid": 4, "mix.0": 6},  # one of either half
    "grouped conv": {"stem.0": 4, "grouped.0": 6},  # the same position from each of four groups
    "depth multiplier": {"stem.0": 8, "point.0": 6},
    "python branch": {"stem.0": 8, "one.0": 8},  # for other values it leaves out the last
    "dict of two heads": {"stem.0": 8},
    "frozen norm": {"stem": 8, "mix.0": 6},
    "uneven split": {"stem.0": 12, "stem.0#2": 20, "left.0": 6, "right.0": 6},
    "cat then add": {"stem.0": 8, "stem.0#2": 4, "mix.0": 6},
    "first channels": {"stem.0": 16, "stem.0#2": 8, "part.0": 6},
    "all frozen": {"0.0": 8, "2.0": 16},
    "channel statistics (CBAM)": {"stem.0": 6, "before.0": 8, "down": 4, "mix.0": 6},
}
"""Every group by name and size; a network that is silently left alone fails here."""

REWRITTEN = {  # sizes written into Python code that must follow
    "linear, written view, transposed conv": 1,
    "written view": 1,
    "option A": 1,
    "uneven split": 1,
    "first channels": 1,
}


@cache
def read(name: str) -> tuple[nn.Module, Graph]:
    net = make(name)
    return net, trace(net, images(1))


def every_second(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(g.name, tuple(range(0, g.size, 2))[: g.size // 2]) for g in graph.groups))


def first_half(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(g.name, tuple(range(g.size // 2))) for g in graph.groups))


def all_but_the_last(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(g.name, tuple(range(g.size - 1))) for g in graph.groups))


def test_all_24_are_here() -> None:
    assert len(PATTERNS) == 24
    assert GROUPS.keys() == PATTERNS.keys()


@pytest.mark.parametrize("name", PATTERNS)
def test_the_groups_are_these(name: str) -> None:
    _, graph = read(name)
    assert {g.name: g.size for g in graph.groups} == GROUPS[name]


@pytest.mark.parametrize("name", PATTERNS)
def test_nothing_but_the_outputs_is_pinned(name: str) -> None:
    _, graph = read(name)
    for row in graph.explain().rows:
        if row.prunable < row.width and row.width > 1:
            assert row.reason.startswith("an output of the network"), row


@pytest.mark.parametrize("choose", [every_second, first_half, all_but_the_last])
@pytest.mark.parametrize("name", NETS)
def test_removal_equals_silence_and_the_sizes_are_right(name: str, choose: object) -> None:
    net, graph = read(name)
    plan = choose(graph)  # type: ignore[operator]
    assert set(plan.dropped()) == {group.name for group in graph.groups}
    thin = apply(net, graph, plan)
    found = verify(net, graph, plan, thin, images(3, seed=1))
    assert found.exact, found
    paper = size(graph, plan)
    with FlopCounterMode(display=False) as counter:
        run(thin, images(1))
    assert paper.macs == counter.get_total_flops() // 2
    assert paper.params == sum(p.numel() for p in thin.parameters())
    assert paper.macs < size(graph).macs


@pytest.mark.parametrize("name", NETS)
def test_the_thin_network_runs_and_learns_in_training_mode(name: str) -> None:
    net, graph = read(name)
    thin = apply(net, graph, every_second(graph)).train().requires_grad_(True)
    output = thin(images(4))
    loss = sum(o.square().mean() for o in (output.values() if isinstance(output, dict) else [output]))
    loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in thin.parameters())


@pytest.mark.parametrize("name", REWRITTEN)
def test_sizes_in_the_code_are_rewritten(name: str) -> None:
    _, graph = read(name)
    assert len(graph.rewrites) == REWRITTEN[name]


@pytest.mark.parametrize("name", sorted(set(PATTERNS) - set(REWRITTEN)))
def test_code_without_written_sizes_is_left_alone(name: str) -> None:
    net, graph = read(name)
    assert not graph.rewrites
    thin = apply(net, graph, every_second(graph))
    assert not any("forward" in vars(module) for module in thin.modules())


# -- what must stay, and why ---------------------------------------------------------------------------------


class Fourier(nn.Module):
    """An operator without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.fft(self.mid(self.stem(x)), dim=1).real)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sort(self.mid(self.stem(x)), dim=1)[0])


class Picked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.stem(x))
        return self.head(x) + x[:, 5, None]


class Product(nn.Module):
    """A product of two activations: no weight reads the channels that are summed over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.stem(x)).flatten(2)
        return self.head((x.transpose(1, 2) @ x).mean(1))


class Doubtful(nn.Module):
    """A size in code that cannot be recorded: a loop whose length depends on the input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            x = x * 0.5
        x = self.mid(self.stem(x)).mean((2, 3))
        width = 6 if float(x.sum()) < 1e9 else 5
        return self.head(x.view(-1, width))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Fourier, "the order of channels or their neighbours matter"),
        (Sorted, "the order of channels or their neighbours matter"),
        (Picked, "picked by their number"),
        (Product, "multiplied with another activation"),
        (Doubtful, "its size is written into the code (view)"),
    ],
)
def test_what_cannot_be_understood_stays_and_the_rest_goes(network: type[nn.Module], reason: str) -> None:
    net = lived_in(network())
    graph = trace(net, images(1))
    assert {g.name: g.size for g in graph.groups} == {"stem": 8}
    row = next(row for row in graph.explain().rows if row.layer == "mid")
    assert (row.prunable, row.width, row.group) == (0, 6, "")
    assert reason in row.reason
    plan = every_second(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), images(2)).exact
