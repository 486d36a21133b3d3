"""Random states are put back by every block, inside another one and beside those of other threads too."""

from __future__ import annotations

import copy
import random
import threading
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, run, verify
from secateur.core.surgery.untouched import private, randomness, untouched
from secateur.core.trace import trace
from secateur.errors import ModelError

DRAWS: dict[str, Callable[[], float]] = {
    "torch": lambda: float(torch.rand(())),
    "numpy": lambda: float(np.random.rand()),
    "python": random.random,
}


class Noisy(nn.Module):
    """Adds random numbers to what it computes."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw, self.wide, self.head = draw, nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(x).relu()) + self.draw()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("around", [nullcontext, randomness, lambda: untouched(nn.Linear(1, 1))])
def test_a_network_that_draws_runs_alike_inside_another_block(
    around: Callable[[], nullcontext[None]], draw: Callable[[], float]
) -> None:
    torch.manual_seed(0)
    net, inputs = Noisy(draw).eval(), torch.ones(2, 3)
    graph = trace(net, inputs)
    plan = Plan((DropUnits("wide", (0, 1)),))
    with around():
        draw()
        assert torch.equal(run(net, inputs), run(net, inputs))
        assert verify(net, graph, plan, apply(net, graph, plan), inputs).exact


def _interrupted(draw: Callable[[], float]) -> None:
    draw()
    raise KeyboardInterrupt


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_blocks_of_one_thread_put_back_one_after_the_other(draw: Callable[[], float]) -> None:
    with randomness():
        expected = [draw(), draw(), draw()]
    with randomness():
        assert draw() == expected[0]
        with randomness():
            assert draw() == expected[1]
            with pytest.raises(KeyboardInterrupt), randomness():
                _interrupted(draw)
            assert draw() == expected[2]
        assert draw() == expected[1]
    assert draw() == expected[0]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_of_two_threads_the_last_puts_back_what_the_first_found(draw: Callable[[], float]) -> None:
    with randomness():
        expected = draw()
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with randomness():
            draw()
            entered.set()
            left.wait(60)

    thread = threading.Thread(target=other)
    with randomness():
        draw()
        thread.start()
        assert entered.wait(60)
        with randomness():
            draw()
    left.set()
    thread.join()
    assert draw() == expected


def test_what_is_kept_in_lists_and_dictionaries_is_put_back() -> None:
    class Keeping(nn.Module):
        """Adds up what it has seen, which has the size of the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.wide, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.seen: list[Tensor] = []
            self.last: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if self.last:
                x = x + self.last["x"] * len(self.seen)
            self.last["x"] = x.detach()
            self.seen.append(x.detach())
            return self.head(self.wide(x).relu())

    torch.manual_seed(0)
    net, inputs = Keeping().eval(), torch.ones(2, 3)
    net(inputs)
    seen, last = list(net.seen), dict(net.last)
    graph = trace(net, inputs)
    plan = Plan((DropUnits("wide", (0, 1)),))
    assert verify(net, graph, plan, apply(net, graph, plan), inputs).exact
    assert torch.equal(run(net, inputs), run(net, inputs))
    assert all(a is b for a, b in zip(net.seen, seen, strict=True))
    assert net.last["x"] is last["x"]


class Codebook(nn.Module):
    """Moves a parameter towards what it sees when it trains, and keeps a table and a set between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.codes = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.known: dict[str, Tensor] = {}
        self.shapes: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.codes.lerp_(x.mean(0), 0.1)
        self.shapes.add(len(self.shapes))
        if str(x.device) not in self.known:
            self.known[str(x.device)] = x.mean(0)
        return self.head(self.wide(x + self.codes).reshape(-1, 8).relu())


def test_trials_and_recordings_leave_weights_tables_and_sets() -> None:
    net, inputs = Codebook().eval(), torch.ones(2, 3)
    graph = trace(net, inputs)
    assert not bool(net.codes.any())
    assert net.known == {}
    assert net.shapes == set()
    thin = apply(net, graph, Plan((DropUnits("wide", (0, 1)),)))
    assert thin.known == {}
    run(net, inputs, training=lambda module: True)
    assert not bool(net.codes.any())


class Slotted:
    __slots__ = ("seen", "unset")

    def __init__(self) -> None:
        self.seen = 0


class Listed(list[int]):
    def append(self, number: int) -> None:
        super().append(2 * number)


class Table(OrderedDict[str, int]):
    def __setitem__(self, name: str, number: int) -> None:
        super().__setitem__(name.upper(), number)


@pytest.mark.parametrize(
    ("box", "fill"),
    [
        (set(), lambda box: box.add(1)),
        (deque([1, 2], maxlen=2), lambda box: box.append(3)),
        (Counter(), lambda box: box.update(["a"])),
        (bytearray(b"a"), lambda box: box.append(1)),
        (array("d", [0.5]), lambda box: box.append(1.5)),
        (Slotted(), lambda box: setattr(box, "unset", setattr(box, "seen", 1))),
        (Listed([1]), lambda box: box.append(1)),
        (Table(b=1, a=2), lambda box: box.update(c=box.pop("B"))),
        (deque([[], set()]), lambda box: (box[0].append(1), box[1].add(1))),
    ],
    ids=lambda value: type(value).__name__ if not callable(value) else "",
)
def test_whatever_a_forward_fills_is_as_it_was(box: Any, fill: Callable[[Any], object]) -> None:
    class Filling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            fill(self.box)
            return x

    def state(box: Any) -> Any:
        if isinstance(box, Slotted):
            return {name: getattr(box, name) for name in box.__slots__ if hasattr(box, name)}
        return copy.deepcopy([*box.items()] if isinstance(box, dict) else [*box])

    net = Filling()
    net.box, before = box, state(box)
    with untouched(net):
        net(torch.ones(1))
        assert state(box) != before
    assert net.box is box
    assert state(box) == before


class Sloth(nn.Module):
    __slots__ = ("width",)

    def __init__(self) -> None:
        super().__init__()
        self.width = 3

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.width]


@pytest.mark.parametrize("place", ["", "1"])
def test_a_copy_that_lacks_something_is_refused(place: str) -> None:
    net = nn.Sequential(nn.Identity(), Sloth())
    where = "'1'" if place else "the network itself"
    with pytest.raises(ModelError, match=f"copy.deepcopy leaves out 'width' of {where}, which is in __slots__"):
        private(net if place else net[1])


def test_a_copy_that_would_run_the_original_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    conv, ordinary_forward = net[0], net[0].forward
    net[1].forward = lambda x: conv(x).relu()
    with pytest.raises(ModelError, match="the forward that was put into '1' holds on to modules of the network"):
        private(net)
    net[1].forward = lambda x: ordinary_forward(x).relu()
    with pytest.raises(ModelError, match="holds on to modules"):
        private(net)
    net[1].forward = lambda x: x.relu()
    assert torch.equal(private(net)[1](-torch.ones(2)), torch.zeros(2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("work", [trace, run])
def test_inputs_without_a_shape_are_refused_in_one_sentence(work: Callable[..., object]) -> None:
    nested = torch.nested.nested_tensor([torch.randn(3, 8, 8), torch.randn(3, 8, 8)])
    with pytest.raises(ModelError, match="nested tensor, which has no shape: give a padded one"):
        work(nn.Conv2d(3, 8, 3), nested)


def test_a_copy_has_tables_of_its_own_and_shares_those_that_were_shared() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    shared: dict[str, int] = {}
    for module in net:
        module.shared = shared  # type: ignore[assignment]
    twin = private(net)
    twin[0].register_forward_hook(lambda module, given, output: output + 1)
    twin[0].shared["calls"] = 1  # type: ignore[index]
    assert twin[1].shared == {"calls": 1}
    assert shared == {}
    assert all(
        vars(module)[name] is not table
        for module, other in zip(net.modules(), twin.modules(), strict=True)
        for name, table in vars(other).items()
        if isinstance(table, dict)
    )
    x = torch.ones(1, 2)
    assert not torch.equal(net(x), twin(x))
