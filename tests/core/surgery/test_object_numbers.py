"""A network that finds its own parts by their ``id`` would go other ways in every copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import Plan
from secateur.core.surgery import apply, run
from secateur.core.surgery.untouched import private
from secateur.core.trace import trace
from secateur.errors import ModelError
from secateur.run import prune

IMAGES = torch.zeros(1, 3, 8, 8)
TABLE: dict[Any, float] = {}


class Scaled(nn.Module):
    """Scales what its first layer makes by a number that it looks up."""

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.own: Any = kept(self) if kept is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu() * self.scale())

    def scale(self) -> float:
        return 2.0 if self.own == id(self.first) else 1.0


class Attributes(dict[str, Any]):
    """A table whose entries hide its methods, as those of many settings do."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(entries)
        self.__dict__ = self


@pytest.mark.parametrize(
    ("kept", "of"),
    [
        (lambda net: {id(net.first): 2.0}, "'first'"),
        (lambda net: {"scales": [(id(net.last), 2.0)]}, "'last'"),
        (lambda net: {2.0: {id(net.first.weight)}}, "'first.weight'"),
        (id, "the network itself"),
    ],
)
def test_a_network_that_keeps_numbers_of_its_parts_is_refused_in_one_sentence(kept: Any, of: str) -> None:
    net = Scaled(kept).eval()
    words = f"Scaled cannot be copied: 'own' holds the id of {of}, .*; name layers by strings"
    for call in (
        lambda: private(net),
        lambda: trace(net, IMAGES),
        lambda: prune(net, example_inputs=IMAGES, target=0.5, latency=False),
    ):
        with pytest.raises(ModelError, match=words):
            call()


def test_numbers_that_no_code_of_the_forward_asks_for_are_no_hindrance() -> None:
    class Grouped(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
            self.no_decay = set(map(id, (self[0].bias, self[2].bias)))

    assert trace(Grouped().eval(), IMAGES).groups


def test_a_table_whose_entries_hide_its_methods_is_looked_into() -> None:
    assert trace(Scaled(lambda net: Attributes(values=[1], keys=2)).eval(), IMAGES).groups
    with pytest.raises(ModelError, match="'own' holds the id of 'first'"):
        trace(Scaled(lambda net: Attributes(values=[id(net.first)])).eval(), IMAGES)


def test_tables_that_a_copy_has_of_its_own_are_no_hindrance() -> None:
    class Own(Scaled):
        def scale(self) -> float:
            return self.own[self.first]

    net = Own(lambda net: {net.first: 2.0, "classes": [0, 1, 2]}).eval()
    graph = trace(net, IMAGES)
    assert torch.equal(run(apply(net, graph, Plan()), IMAGES), run(net, IMAGES))


@pytest.mark.parametrize("key", [id, lambda layer: layer])
def test_a_table_beside_the_network_that_does_not_know_its_copy_is_named(key: Any) -> None:
    class Beside(Scaled):
        def scale(self) -> float:
            return TABLE[key(self.first)]

    net = Beside().eval()
    TABLE[key(net.first)] = 2.0
    with pytest.raises(
        ModelError, match=r"does not run .*\): its code looks for a part of itself in a table that knows"
    ):
        trace(net, IMAGES)
