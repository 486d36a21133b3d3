"""The method of Abbasi-Asl and Yu: units that cost nothing go first, targets and limits are met, on any task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import task_worlds as worlds
from kills import Killed
from secateur import build, load_data, prune
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import DataError, ModelError, SettingError, TargetError
from secateur.measure import quality
from secateur.methods.accuracy_reduction import AccuracyReduction
from secateur.search.greedy_removal import Removal
from secateur.tasks import Segmentation

SHAPE = (3, 6, 6)


def net() -> nn.Sequential:
    """Filter 4 is dead; filter 1 is a copy of filter 2, and what it adds is the same for all classes."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        made[0].weight[4], made[0].bias[4] = 0.0, -1.0
        made[0].weight[1], made[0].bias[1] = made[0].weight[2], made[0].bias[2]
        made[4].weight.copy_(20 * torch.randn(3, 6))
        made[4].weight[:, 1] = 0.5
    return made


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def problem(model: nn.Module, target: Target | None = None, number: int = 60, **known: Any) -> Problem:
    """Return a problem whose labels are the network's own answers."""
    images = torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        batches = [(images, model(images).argmax(1))]
    known = {"validation": batches, "limits": Limits(multiple=1), **known}
    return Problem(model, trace(model, images[:1]), target, **known)


def reductions(given: Problem) -> list[float]:
    """Return by how much each unit of the first group lowers the accuracy."""
    found: list[float] = []
    for unit in range(given.graph.groups[0].size):
        with masked(given.model, given.graph, Plan((DropUnits(given.graph.groups[0].name, (unit,)),))) as silenced:
            found.append(1.0 - quality(silenced, given.validation or ()).value)
    return found


@pytest.mark.parametrize("order", ["layer", "joint"])
def test_a_dead_filter_and_a_copy_cost_nothing_and_go_first(order: Any) -> None:
    given = problem(net(), number=60 if order == "joint" else 120)
    costs = reductions(given)
    assert [unit for unit, cost in enumerate(costs) if cost == 0.0] == [1, 4]
    first = AccuracyReduction(order=order, keeps=(("0", 5 / 6),)).plan(given).dropped()["0"]
    assert set(first) < {1, 4}
    assert AccuracyReduction(order=order, keeps=(("0", 4 / 6),)).plan(given).dropped() == {"0": (1, 4)}
    third = AccuracyReduction(order=order).plan(dataclasses.replace(given, target=Target(0.5, "units"))).dropped()
    assert {1, 4} < set(third["0"])


def test_ten_images_name_the_unit_that_all_passes_name() -> None:
    given = problem(net(), number=10)
    assert AccuracyReduction(keeps=(("0", 4 / 6),)).plan(given).dropped() == {"0": (1, 4)}


@pytest.mark.parametrize(
    ("order", "multiple"), [("layer", 1), ("joint", 1), ("joint", 2), ("joint", "auto"), ("layer step", 2)]
)
def test_targets_are_met_in_the_widths_that_are_asked_for(order: Any, multiple: Any) -> None:
    limits = Limits(multiple=multiple, min_units=2)
    given = problem(deep(), Target(0.5, "params"), limits=limits)
    plan = AccuracyReduction(order=order, per_step=2).plan(given)
    assert size(given.graph, plan).params <= 0.5 * size(given.graph).params
    for group in given.graph.free:
        left = group.size - len(plan.dropped().get(group.name, ()))
        assert left >= 2
        assert left % (2 if multiple == 2 else 1) == 0
    assert "held-out images, whose accuracy went from 100.00 % to" in plan.notes[-1]
    with pytest.raises(TargetError) as refused:
        AccuracyReduction(order=order).plan(dataclasses.replace(given, target=Target(0.01, "params")))
    assert refused.value.reachable is not None


@pytest.mark.parametrize("order", ["joint", "layer step"])
def test_layers_with_rates_keep_them_while_the_others_compete(order: Any) -> None:
    given = problem(deep(), Target(0.6, "params"))
    plan = AccuracyReduction(order=order, keeps=(("2", 0.75),)).plan(given)
    assert len(plan.dropped()["2"]) == 2
    assert size(given.graph, plan).params <= 0.6 * size(given.graph).params
    alone = AccuracyReduction(order=order, keeps=(("2", 0.75),)).plan(dataclasses.replace(given, target=None))
    assert {name: len(units) for name, units in alone.dropped().items()} == {"2": 2}


def test_a_killed_decision_goes_on_to_the_same_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    method = AccuracyReduction()
    expected = method.plan(problem(deep(), Target(0.6, "params")))
    original, calls = Removal._search, list[int]()

    def dying(self: Removal, plans: Any, places: int) -> Any:
        calls.append(len(plans))
        if len(calls) == 3:
            raise Killed
        return original(self, plans, places)

    monkeypatch.setattr(Removal, "_search", dying)
    with pytest.raises(Killed):
        method.plan(problem(deep(), Target(0.6, "params"), work=tmp_path))
    again = method.plan(problem(deep(), Target(0.6, "params"), work=tmp_path))
    assert (again, again.notes) == (expected, expected.notes)
    assert calls[2] == calls[3]
    assert len(calls) == len([unit for units in expected.dropped().values() for unit in units]) + 1


def test_each_class_says_what_it_loses_with_a_unit() -> None:
    given = problem(net())
    (images, labels), *_ = given.validation or ()
    found = AccuracyReduction().class_reductions(given, "0")
    assert (found.shape, found.dtype) == ((6, 3), torch.float64)
    assert found[[1, 4]].tolist() == [[0.0] * 3] * 2
    for label in range(3):
        own = dataclasses.replace(given, validation=[(images[labels == label], labels[labels == label])])
        assert found[:, label].tolist() == pytest.approx(reductions(own))
    share = torch.bincount(labels, minlength=3).double() / len(labels)
    assert (found @ share).tolist() == pytest.approx(reductions(given))
    absent = dataclasses.replace(given, validation=[(images[labels != 1], labels[labels != 1])])
    assert AccuracyReduction().class_reductions(absent, "0").isnan().all(0).tolist() == [False, True, False]


def test_images_are_a_sample_in_which_each_class_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(net(), number=40)
    seen = list[Tensor]()
    original = Removal.__init__

    def watched(self: Removal, model: Any, graph: Any, held: Any, **named: Any) -> None:
        seen.append(held.labels)
        original(self, model, graph, held, **named)

    monkeypatch.setattr(Removal, "__init__", watched)
    (images, _), *_ = given.validation or ()
    labels = torch.tensor([0] * 20 + [1] * 12 + [2] * 8)
    given = dataclasses.replace(given, validation=[(images, labels)])
    AccuracyReduction(images=10, keeps=(("0", 5 / 6),)).plan(given)
    assert torch.bincount(seen[0]).tolist() == [5, 3, 2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"per_step": 0}, "per_step must be at least 1"),
        ({"images": 0}, "images must be at least 1"),
        ({"share": 1.0}, "share must lie between 0 and 1"),
        ({"order": "joint", "allocate": "sensitivity"}, "order joint finds out by itself"),
        ({"order": "first"}, "order"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        AccuracyReduction(**settings)


def test_what_cannot_be_judged_is_refused() -> None:
    given = problem(net(), Target(0.5, "units"))
    with pytest.raises(DataError, match="tries every unit on labelled held-out examples, and there are none"):
        AccuracyReduction().plan(dataclasses.replace(given, validation=None))
    dense = dataclasses.replace(given, task=Segmentation())
    with pytest.raises((DataError, ModelError)):
        AccuracyReduction().plan(dense)
    with torch.no_grad():
        given.model[0].weight[0] = torch.nan
    with pytest.raises(SettingError, match="contain NaN"):
        AccuracyReduction().plan(given)


@pytest.mark.parametrize("name", ["segmentation", "detection", "regression"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tasks_go_by_their_own_metric(name: str, tmp_path: Path) -> None:
    here = worlds.world(name, tmp_path)
    task = Segmentation(ignore=11) if name == "segmentation" else None
    data = load_data(here.data, image_size=worlds.SIDE, workers=0, task=task)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"order": "layer step", "share": 0.5, "images": 4}
    result = prune(build(here.model), data=data, method=AccuracyReduction(**settings), target=0.7, latency=False)
    assert result.after.counts.macs <= 0.7 * result.before.counts.macs
    assert f"whose {data.task.metric.name} went from" in " ".join(result.plans[0].notes)
