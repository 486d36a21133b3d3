"""Networks that take another path when they run again on the same inputs."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.trace import trace
from secateur.errors import TraceError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OF_THIS_FILE = torch.Generator()


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Depth(nn.Module):
    """Leaves a layer out where it is told to."""

    def __init__(self, skips: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.stem, self.more, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, 4)
        self.skips = skips
        self.count = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.own = np.random.default_rng(3)
        self.twister = random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head((y if self.skips(self) else self.more(y).relu()).mean((2, 3)))


def counts(net: nn.Module) -> bool:
    net.count += 1
    return net.count % 2 == 0


def counts_in_a_buffer(net: nn.Module) -> bool:
    net.seen += 1
    return int(net.seen) % 2 == 0


RARELY = {
    "torch": lambda net: torch.rand(()) < 0.01,
    "torch, often": lambda net: torch.rand(()) < 0.99,
    "torch's coin": lambda net: torch.bernoulli(torch.tensor(0.01)) == 1,
    "a generator of the file": lambda net: torch.rand((), generator=OF_THIS_FILE) < 0.01,
    "python": lambda net: random.random() < 0.01,
    "a generator of the module": lambda net: net.twister.random() < 0.01,
    "numpy": lambda net: np.random.rand() < 0.01,
    "numpy's new one": lambda net: net.own.random() < 0.3,
    "a count": counts,
    "a count in a buffer": counts_in_a_buffer,
}


def generators(net: Depth) -> list[object]:
    words = np.random.get_state()
    own = [OF_THIS_FILE.get_state().tolist(), net.own.bit_generator.state, net.twister.getstate()]
    return [*own, torch.get_rng_state().tolist(), random.getstate(), words[1].tolist(), words[2:]]


@pytest.mark.parametrize("skips", RARELY.values(), ids=RARELY)
def test_a_path_that_changes_is_refused_and_nothing_is_left_behind(skips: Callable[[nn.Module], object]) -> None:
    net = Depth(skips).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn = generators(net)
    with pytest.raises(TraceError, match=r"^Depth takes another path .* first at 'more'.* training mode only$"):
        trace(net, IMAGES)
    assert not [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert net.count == 0
    assert generators(net) == drawn


def test_experts_that_are_drawn_among_equals_are_told_apart() -> None:
    class Drawn(Depth):
        def __init__(self) -> None:
            super().__init__(lambda net: False)
            self.experts = nn.ModuleList([conv(8, 8), conv(8, 8)])

        def forward(self, x: Tensor) -> Tensor:
            return self.head(random.choice(self.experts)(self.stem(x)).relu().mean((2, 3)))

    with pytest.raises(TraceError, match="'experts"):
        trace(Drawn().eval(), IMAGES)


def never(net: nn.Module) -> bool:
    return random.random() < 0


def first_time(net: nn.Module) -> bool:
    """Fill a cache, as for positions of a size that was not met before."""
    if net.count == 0:
        net.count = 8
        net.grid = torch.linspace(0, 1, 8).sin()
    return False


@pytest.mark.parametrize(
    ("skips", "layers"),
    [
        (never, [["stem"], ["more"]]),
        (first_time, [["stem"], ["more"]]),
        (
            lambda net: torch.rand(2).sum() > 9,
            [["stem", "more"]],
        ),  # where the other answer is tried: both meet the head
    ],
)
def test_a_path_that_stays_is_read(skips: Callable[[nn.Module], object], layers: list[list[str]]) -> None:
    graph = trace(Depth(skips).eval(), IMAGES)
    assert [list(group.layers) for group in graph.groups] == layers


def test_generators_and_counts_are_afterwards_what_they_were() -> None:
    net = Depth(never).eval()
    random.seed(5)
    trace(net, IMAGES)
    found = random.random()
    random.seed(5)
    assert found == random.random()
    of_the_file = OF_THIS_FILE.get_state()
    net = Depth(lambda net: torch.rand((), generator=OF_THIS_FILE) > 2 or counts(net) > 2).eval()
    trace(net, IMAGES)
    assert torch.equal(OF_THIS_FILE.get_state(), of_the_file)
    assert net.count == 0
