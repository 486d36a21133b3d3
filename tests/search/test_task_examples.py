"""Candidates on any task: the best metric wins, equal plans are tried once, notes hold for what was judged alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import DataError, ModelError, SettingError
from secateur.measure import quality
from secateur.search import task_examples
from secateur.search.racing.evaluation import Judge, held_for, judge
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of
from secateur.search.task_examples import Examples, first, sound
from secateur.tasks import CLASSIFICATION, Metric, Regression, Segmentation, Task


def network(outputs: int = 4) -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs)]
    net = nn.Sequential(*layers).eval()
    return net, trace(net, torch.randn(1, 3, 8, 8))


def batches(net: nn.Module, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    images = [torch.randn(size, 3, 8, 8) for size in sizes]
    with torch.no_grad():
        return [(some, net(some)) for some in images]  # so that the dense network is right


PLANS = [Plan((DropUnits("0", tuple(range(6 - left, 6))),)) for left in (3, 5, 1, 5)]


def test_the_best_metric_wins_and_equal_plans_are_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net, graph = network()
    held = Examples.of(batches(net, 5, 0, 3), net, Regression())
    assert len(held) == 8
    tried = list[nn.Module]()
    original = Examples.loss_and_error
    monkeypatch.setattr(Examples, "loss_and_error", lambda self, model: tried.append(model) or original(self, model))
    found = task_examples.best_of(net, graph, PLANS, held, work=tmp_path)
    errors = []
    for plan in PLANS:
        with masked(net, graph, plan) as silenced:
            errors.append(-quality(silenced, held.batches, Regression()).value)
    assert [trial.error for trial in found.trials] == pytest.approx(errors)
    assert found.best == errors.index(min(errors))
    assert (found.metric, found.exact) == (Regression().metric, True)
    assert len(tried) == 3
    again = task_examples.best_of(net, graph, PLANS, held, work=tmp_path)
    assert again == found
    assert len(tried) == 3


class Rounded(Regression):
    """A task whose metric hardly ever tells networks apart, so that its loss does."""

    def meter(self, device: torch.device) -> Any:
        theirs = super().meter(device)

        class Coarse(type(theirs)):  # type: ignore[misc]
            def compute(self) -> tuple[float, ...]:
                return (0.0, *super().compute()[1:])

        return Coarse(self)


def test_ties_go_by_the_loss_where_places_are_asked_for(tmp_path: Path) -> None:
    net, graph = network()
    held = Examples.of(batches(net, 8), net, Rounded())
    plain = task_examples.best_of(net, graph, PLANS, held, work=tmp_path)
    assert (plain.best, plain.winners) == (0, ())
    losses = []
    for plan in PLANS:
        with masked(net, graph, plan) as silenced:
            losses.append(held.loss_and_error(silenced)[0])
    found = task_examples.best_of(net, graph, PLANS, held, places=2, work=tmp_path)
    assert list(found.winners) == sorted(range(3), key=losses.__getitem__)[:2]
    assert found.best == found.winners[0]


def test_notes_are_those_of_a_task_with_its_settings(tmp_path: Path) -> None:
    images, masks = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    whole, part = (Examples.of([(images, masks)], nn.Conv2d(3, 3, 1), Segmentation(ignore=it)) for it in (None, 2))
    assert whole.fingerprint() != part.fingerprint()
    assert whole.fingerprint() == Examples.of([(images, masks)], nn.Conv2d(3, 3, 1), whole.task).fingerprint()
    other = Examples.of([(images, masks.flip(0))], nn.Conv2d(3, 3, 1), whole.task)
    assert other.fingerprint() != whole.fingerprint()


def test_outputs_that_are_not_finite_are_refused_before_anything_is_tried() -> None:
    net, graph = network()
    held = Examples.of(batches(net, 4), net, Regression())
    assert sound(net, held) == pytest.approx((0.0, -1.0), abs=1e-6)
    with torch.no_grad():
        net[4].bias.fill_(torch.nan)
    for refused in (lambda: sound(net, held), lambda: judge(net, graph, held)):
        with pytest.raises(ModelError, match="NaN or infinite before anything is pruned"):
            refused()


class Undefined(Regression):
    """A task whose metric is no number, although the network and its loss are sound."""

    def meter(self, device: torch.device) -> Any:
        found = super().meter(device)
        found.compute = lambda: (math.nan, 0.0)
        return found


def test_nothing_is_chosen_by_a_metric_that_is_no_number() -> None:
    net, graph = network()
    held = Examples.of(batches(net, 4), net, Undefined())
    for refused in (lambda: sound(net, held), lambda: judge(net, graph, held)):
        with pytest.raises(DataError, match=r"R squared of the network before .* is NaN or infinite on 4 images, so"):
            refused()
    with pytest.raises(DataError, match="the R squared of every one of 4 candidates is NaN or infinite on 4 images"):
        task_examples.best_of(net, graph, PLANS, held)


@pytest.mark.parametrize(("most", "taken"), [(None, [2, 3, 4]), (5, [2, 3]), (6, [2, 3, 4]), (1, [2])])
def test_whole_batches_are_taken_until_there_are_enough(most: int | None, taken: list[int]) -> None:
    given = [(torch.zeros(size, 1), torch.zeros(size)) for size in (2, 0, 3, 4)]
    assert [len(x) for x, _ in first(given, Regression(), most)] == taken


def test_nothing_to_choose_from_or_by_is_refused() -> None:
    net, graph = network()
    with pytest.raises(DataError, match="labelled images, and there are none"):
        Examples.of([], net, Regression())
    with pytest.raises(SettingError, match="no candidate"):
        task_examples.best_of(net, graph, [], Examples.of(batches(net, 2), net, Regression()))


class Lower(Regression):
    """A task whose metric is better the lower it is."""

    metrics: Any = (Metric("distance", higher_is_better=False),)

    def meter(self, device: torch.device) -> Any:
        theirs = super().meter(device)

        class Second(type(theirs)):  # type: ignore[misc]
            def compute(self) -> tuple[float, ...]:
                return super().compute()[1:]

        return Second(self)


def test_a_metric_that_is_better_the_lower_it_is_wins_by_that() -> None:
    net, graph = network()
    held = Examples.of(batches(net, 8), net, Lower())
    found = task_examples.best_of(net, graph, [PLANS[2], EMPTY, PLANS[0]], held)
    assert found.best == 1
    assert found.trials[1].error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("task", [None, CLASSIFICATION])
def test_a_network_of_one_score_is_right_in_a_race_where_it_is_right_elsewhere(task: Task | None) -> None:
    net, graph = network(1)
    images = torch.randn(130, 3, 8, 8)
    with torch.no_grad():
        scores = net(images)
        net[4].bias -= scores.median()
        labels = (net(images) > 0).long().flatten()
    labels[:7] = 1 - labels[:7]
    held = held_for(task, [(images, labels)], net, 200)
    assert isinstance(held, HeldOut)
    expected = []
    for plan in PLANS:
        with masked(net, graph, plan) as silenced:
            expected.append(round(130 * (1 - quality(silenced, [(images, labels)]).value)))
    assert list(Judge(net, graph, held).errors([EMPTY, *PLANS])) == [7, *expected]
    found = best_of(net, graph, PLANS, held, complete=True)
    assert [trial.errors for trial in found.trials] == expected
