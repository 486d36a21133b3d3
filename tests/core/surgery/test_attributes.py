"""Sizes that come from attributes are changed there, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.surgery.attributes import INDIRECT, mentioned, numbers
from secateur.core.surgery.generated import origin_of
from secateur.core.surgery.rewriting import rewrite
from secateur.errors import ModelError
from written import changes

Forward = Callable[[Any, Tensor], Tensor]


class Holder(nn.Module):
    """Numbers in all kinds of places."""

    at_class, shared = 6, (6, 1)

    def __init__(self) -> None:
        super().__init__()
        self.c, self.half, self.flag = 6, 3, True
        self.pair, self.sizes = (6, 3), [1, 6]
        self.table: dict[str, Any] = {"wide": 6, "deep": {"er": [6]}}
        self.size, self.shape = 2, torch.Size([6])


def module(forward: Forward) -> nn.Module:
    return type("Module", (Holder,), {"forward": forward})()


# the forward, and the attribute that has to hold 4 afterwards
FOUND: dict[str, tuple[Forward, Callable[[Any], object], object]] = {
    "plain": (lambda self, x: x.view(-1, self.c), lambda m: m.c, 4),
    "twice": (lambda self, x: x.view(-1, self.half * 2), lambda m: m.half, 2),
    "a part": (lambda self, x: x.view(-1, (self.c + 6) // 2), lambda m: m.c, 2),
    "one more": (lambda self, x: x.view(-1, self.half + 3), lambda m: m.half, 1),
    "tuple": (lambda self, x: x.view(-1, self.pair[0]), lambda m: m.pair, (4, 3)),
    "list": (lambda self, x: x.view(-1, self.sizes[1]), lambda m: m.sizes, [1, 4]),
    "dict": (lambda self, x: x.view(-1, self.table["wide"]), lambda m: m.table["wide"], 4),
    "deep": (lambda self, x: x.view(-1, *self.table["deep"]["er"]), lambda m: m.table["deep"], {"er": [4]}),
    "class": (lambda self, x: x.view(-1, self.at_class), lambda m: m.at_class, 4),
    "class, tuple": (lambda self, x: x.view(-1, self.shared[0]), lambda m: m.shared, (4, 1)),
    "by name": (lambda self, x: x.view(-1, getattr(self, "c")), lambda m: m.c, 4),  # noqa: B009
    "either mode": (lambda self, x: (x * 2 if self.training else x).view(-1, self.c), lambda m: m.c, 4),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_number_is_set_and_the_code_stays(name: str) -> None:
    forward, read, expected = FOUND[name]
    net = module(forward)
    kind = type(net)
    rewrite(net, changes(net, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    assert type(net) is kind
    assert read(net) == expected
    assert net(torch.ones(8)).shape == net.eval()(torch.ones(8)).shape == (2, 4)
    untouched = Holder().eval()
    assert (untouched.at_class, untouched.shared) == (6, (6, 1))
    changed = [key for key, value in vars(untouched).items() if key[0] != "_" and vars(net)[key] != value]
    assert len(changed) <= 1


# forwards of which the second number, or the other call, must stay
KEPT: dict[str, Forward] = {
    "means two things": lambda self, x: x.view(-1, self.c) * x.new_ones(1).expand(self.c)[:1],
    "also counts": lambda self, x: x.view(-1, self.c) * self.c,
    "one of two": lambda self, x: x.view(-1, self.c + self.half - 3),
    "a number": lambda self, x: x.view(-1, 6),
}

# forwards whose size may be another one elsewhere
CHOSEN: dict[str, Forward] = {
    "in one mode only": lambda self, x: x.view(-1, 6 if self.training else self.c),
    "checked": lambda self, x: x.view(-1, {6: 6}[self.c]),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_number_with_another_meaning_stays(name: str) -> None:
    net = module(KEPT[name])
    twelve = net.eval()(torch.ones(12))
    before = {key: value for key, value in vars(net).items() if key[0] != "_"}
    rewrite(net, changes(net, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    assert {key: vars(net)[key] for key in before} == before
    assert origin_of(type(net))
    assert torch.equal(net(torch.ones(8)), torch.full((2, 4), float(twelve.flatten()[0])))
    assert net.train()(torch.ones(8)).shape == (2, 4)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_size_that_code_chooses_stays(name: str) -> None:
    net = module(CHOSEN[name])
    with pytest.raises(ModelError, match=r"Module\.forward cannot be adapted"):
        rewrite(net, changes(net, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    assert net.c == 6
    assert origin_of(type(net)) is None


def test_sizes_that_part_ways_cannot_be_one_number() -> None:
    net = module(lambda self, x: torch.cat([x[: self.c], x[-self.c :]]))
    ends = [(0, "__getitem__", ("args", 1, "stop"), 4), (1, "__getitem__", ("args", 1, "start"), -2)]
    rewrite(net, changes(net, torch.ones(12), ends))
    assert net.c == 6
    assert torch.equal(net(torch.arange(10)), torch.tensor([0, 1, 2, 3, 8, 9]))
    same = module(lambda self, x: torch.cat([x[: self.c], x[-self.c :]]))
    ends = [(0, "__getitem__", ("args", 1, "stop"), 4), (1, "__getitem__", ("args", 1, "start"), -4)]
    rewrite(same, changes(same, torch.ones(12), ends))
    assert same.c == 4


def test_nothing_to_change_changes_nothing() -> None:
    net = module(KEPT["a number"])
    kind = type(net)
    rewrite(net, changes(net, torch.ones(12), [(0, "view", ("args", 2), 6)]))
    assert type(net) is kind


def test_numbers_are_set_also_where_the_forward_takes_more_than_numbers() -> None:
    net = module(lambda self, x: x.view(-1, self.c).view(x.shape[0] // 6, self.c))
    sizes = [(0, "view", ("args", 2), 4), (1, "view", ("args", 1), 2), (1, "view", ("args", 2), 4)]
    rewrite(net, changes(net, torch.ones(12), sizes))
    assert net.c == 4
    assert net(torch.ones(8)).shape == (2, 4)


def test_two_numbers_are_set_together() -> None:
    net = module(lambda self, x: x.view(-1, self.c, self.half))
    rewrite(net, changes(net, torch.ones(18), [(0, "view", ("args", 2), 4), (0, "view", ("args", 3), 2)]))
    assert (net.c, net.half) == (4, 2)
    assert origin_of(type(net)) is None


def test_numbers_are_those_of_the_module_and_its_own_classes() -> None:
    found = {(number.name, number.path): number.value for number in numbers(Holder())}
    assert found["c", ()] == found["at_class", ()] == found["table", ("deep", "er", 0)] == 6
    assert ("flag", ()) not in found
    assert ("training", ()) not in found


def test_names_are_followed_through_the_methods_that_are_called() -> None:
    class Indirect(Holder):
        def forward(self, x: Tensor) -> Tensor:
            return self.step(x)

        def step(self, x: Tensor) -> Tensor:
            return next(x.view(-1, self.width) for _ in range(1))

        @property
        def width(self) -> int:
            return self.half * 2

    assert {"step", "width", "half"} <= mentioned(Indirect)
    assert "c" not in mentioned(Indirect)
    assert INDIRECT & mentioned(type(module(FOUND["by name"][0])))
    assert not INDIRECT & mentioned(Indirect)
