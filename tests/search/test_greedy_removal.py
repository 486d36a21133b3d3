"""Units that go one after the other are those that a person would name who tries them all, also after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kills import Killed
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.events import Event
from secateur.measure import quality
from secateur.search.greedy_removal import Removal, evaluations
from secateur.search.racing import held_out_images as held_outs
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.task_examples import Examples
from secateur.tasks import Regression, Task


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_outs, "BATCH", {"cpu": 16, "cuda": 16})


def network(outputs: int = 3) -> tuple[nn.Module, Graph]:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs)).eval()
    with torch.no_grad():
        net[6].weight.mul_(10.0)
    return net, trace(net, torch.randn(1, 3, 8, 8))


def labelled(net: nn.Module, number: int = 50) -> tuple[Tensor, Tensor]:
    """Return images with the network's own answers, some of them spoilt."""
    images = torch.randn(number, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = net(images).argmax(1)
    labels[::5] = (labels[::5] + 1) % 3
    return images, labels


def brute(net: nn.Module, graph: Graph, batch: Any, count: int, task: Task | None = None) -> list[tuple[str, int]]:
    """Return the order of removal from all groups by full passes over silenced networks."""
    gone: list[tuple[str, int]] = []
    while len(gone) < count:
        tried: list[tuple[float, float, int, tuple[str, int]]] = []
        units = [(group.name, unit) for group in graph.free for unit in range(group.size)]
        for place, unit in enumerate(units):
            if unit not in gone:
                dropped = {name: sorted(u for n, u in (*gone, unit) if n == name) for name, _ in (*gone, unit)}
                plan = Plan(tuple(DropUnits(name, tuple(each)) for name, each in dropped.items()))
                with masked(net, graph, plan) as silenced:
                    found = quality(silenced, [batch], task)
                tried.append((-found.metric.key(found.value), found.loss_or_error, place, unit))
        gone.append(min(tried)[3])
    return gone


def order(removal: Removal) -> list[tuple[str, int]]:
    return [(step.group, unit) for step in removal.steps for unit in step.units]


def test_the_number_of_networks_is_the_papers() -> None:
    assert evaluations(96, 48) == 3480
    assert evaluations(256, 128) == 24640
    assert evaluations(6, 4, per_step=2) == 6 + 4
    assert evaluations(5, 3, per_step=2) == 5 + 3


@pytest.mark.usefixtures("small_batches")
def test_every_step_takes_the_unit_that_brute_force_takes() -> None:
    net, graph = network()
    batch = labelled(net)
    removal = Removal(net, graph, HeldOut(*batch))
    removal.one_by_one({"0": range(1, 6)})
    removal.one_by_one({"2": range(1, 3)})
    expected = brute(net, graph.without("2"), batch, 5)
    assert order(removal)[:5] == expected
    assert removal.tried == evaluations(6, 5) + evaluations(4, 2)
    pool = Removal(net, graph, HeldOut(*batch))
    pool.one_by_one({"0": range(1, 6), "2": range(1, 4)}, enough=lambda keep: int(keep.sum()) <= 6)
    assert order(pool) == brute(net, graph, batch, 4)


def test_regression_goes_by_r_squared() -> None:
    net, graph = network()
    images, _ = labelled(net)
    with torch.no_grad():
        batch = images, net(images) + 0.1
    removal = Removal(net, graph, Examples.of([batch], net, Regression()))
    removal.one_by_one({"0": range(1, 5)})
    assert order(removal) == brute(net, graph.without("2"), batch, 4, Regression())


def test_several_units_go_in_a_step_the_best_first() -> None:
    net, graph = network()
    batch = labelled(net)
    first, both = (Removal(net, graph, HeldOut(*batch)) for _ in range(2))
    first.one_by_one({"0": range(1, 2)})
    both.one_by_one({"0": range(1, 6)}, per_step=3)
    assert order(both)[:1] == order(first)
    assert (len(order(both)), both.tried) == (5, 6 + 3)


def test_a_group_goes_on_until_it_rests() -> None:
    net, graph = network()
    removal = Removal(net, graph, HeldOut(*labelled(net)))
    removal.one_by_one({"0": [2, 4], "2": [2]}, enough=lambda keep: int(keep.sum()) <= 7)
    assert [len(step.units) for step in removal.steps] == [2, 2]
    removal.one_by_one({"0": [2, 4], "2": [2]}, per_step=4)
    assert {name: len(units) for name, units in removal.plan.dropped().items()} == {"0": 4, "2": 2}


def test_a_layer_step_takes_the_smallest_of_the_layer_that_is_missed_least() -> None:
    net, graph = network()
    batch = labelled(net)
    ranks = {"0": torch.tensor([5.0, 0.0, 4.0, 0.0, 2.0, 3.0]), "2": torch.tensor([1.0, 0.0, 3.0, 2.0])}
    removal = Removal(net, graph, HeldOut(*batch))
    removal.by_layers({"0": range(1, 6), "2": range(1, 4)}, ranks, 0.3, lambda keep: int(keep.sum()) < 10)
    errors = {}
    for name, units in {"0": (1, 3), "2": (1,)}.items():
        with masked(net, graph, Plan((DropUnits(name, units),))) as silenced:
            found = quality(silenced, [batch])
        errors[name, units] = (-found.value, found.loss_or_error)
    assert (removal.steps[0].group, removal.steps[0].units) == min(errors, key=errors.__getitem__)
    removal.by_layers({"0": range(1, 6), "2": range(1, 4)}, ranks, 0.3)
    assert int(removal.keep.sum()) == 2
    assert [unit for name, unit in order(removal) if name == "0"] == [1, 3, 4, 5, 2]


def test_a_killed_removal_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, graph = network()
    held = HeldOut(*labelled(net))

    def removed(work: Path | None, heard: list[Event]) -> Removal:
        removal = Removal(net, graph, held, work=work, tell=heard.append)
        try:
            removal.one_by_one({"0": range(1, 6)})
        finally:
            removal.close()
        return removal

    original, searched = Removal._search, list[int]()

    def dying(self: Removal, plans: Any, places: int) -> Any:
        searched.append(len(plans))
        if searched == [6, 5, 4]:
            raise Killed
        return original(self, plans, places)

    monkeypatch.setattr(Removal, "_search", dying)
    with pytest.raises(Killed):
        removed(tmp_path, [])
    again = removed(tmp_path, heard := [])
    assert searched == [6, 5, 4, 4, 3, 2]
    assert [event.step for event in heard] == [6, 11, 15, 18, 20]
    assert order(again) == order(removed(None, []))
    searched.clear()
    other = Removal(net, graph, held, work=tmp_path)  # the notes answer no other question
    other.one_by_one({"2": range(1, 3)})
    assert searched == [4, 3]
