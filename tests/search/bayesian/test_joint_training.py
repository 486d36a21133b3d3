"""When joint fine-tuning and pruning does what: which network is searched, when masks move, what is tried first."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.core.sizes.size import Target
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Moment
from secateur.errors import TrainingError
from secateur.methods.fine_pruning import FinePruning
from secateur.search.bayesian.cooled_search import Adviser
from secateur.search.bayesian.joint_training import Joint
from secateur.search.bayesian.parameter_search import Choice

STEPS = 16
ONE = FinePruning("weights", adaptations=2, trials=1, starts=1, images=8)
"""Two rounds; each takes the one point it tries, so the same share of both layers stays."""


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))


def problem(model: nn.Module, found: list[Search] | None = None) -> Problem:
    images, labels = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    target = Target(0.4, "nonzero")
    keep: Any = {} if found is None else {"found": found.append}
    return Problem(model, trace(model, images[:1]), target, batches=[(images, labels)], **keep)


@contextmanager
def shaped(model: nn.Module, method: FinePruning, found: list[Search] | None = None) -> Generator[Joint]:
    with method.shaping(problem(model, found)) as shaper:
        assert isinstance(shaper, Joint)
        yield shaper


def trained(
    model: nn.Sequential, shaper: Joint, move: Callable[[int], float] = lambda step: 0.0, steps: range = range(STEPS)
) -> list[list[Tensor]]:
    """Take steps that add a number to every weight, and return who is in play after each."""
    rng, seen = torch.Generator().manual_seed(1), list[list[Tensor]]()
    for step in steps:
        shaper.before_batch(Moment(step, STEPS, rng))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(move(step))
        shaper.after_step(step)
        seen.append([weight.detach() != 0 for weight in model.parameters()])
    return seen


def moved(seen: list[list[Tensor]]) -> list[int]:
    """Return at which steps masks differ from those of the step before."""
    whole = [torch.ones_like(mask) for mask in seen[0]]
    pairs = zip([whole, *seen[:-1]], seen, strict=True)
    return [step for step, (a, b) in enumerate(pairs) if not all(map(torch.equal, a, b))]


@pytest.mark.parametrize(("tune", "turns"), [(0.0, [0, 8]), (0.5, [4, 12]), (0.75, [6, 14])])
def test_parameters_are_chosen_when_the_fine_tuning_of_a_round_is_over(tune: float, turns: list[int]) -> None:
    model, found = chain(), list[Search]()
    method = FinePruning("weights", adaptations=2, trials=1, starts=1, images=8, tune=tune)
    with shaped(model, method, found) as shaper:
        seen = trained(model, shaper)
    assert [search.tuning.course[0][0] for search in found if search.tuning] == turns
    assert moved(seen) == turns  # weights that stand still are pruned once in each round, right away


def test_a_training_with_fewer_steps_than_rounds_is_refused() -> None:
    """Its last rounds would never come, and the target with them."""
    words = "changes the network 17 times, .* this training has 15; train for longer, or ask for less with adaptations="
    with (
        pytest.raises(TrainingError, match=words),
        shaped(chain(), dataclasses.replace(ONE, adaptations=STEPS + 1)) as shaper,
    ):
        shaper.before_batch(Moment(0, STEPS, torch.Generator()))


def test_the_search_sees_all_weights_with_what_they_learned_out_of_play(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[list[Tensor]] = []
    original = Adviser.choose

    def choose(self: Adviser, model: nn.Module, *given: Any) -> Choice:
        looked_at.append([weight.detach().clone() for weight in model.parameters()])
        return original(self, model, *given)

    monkeypatch.setattr(Adviser, "choose", choose)
    model = chain()
    start = [weight.detach().clone() for weight in model.parameters()]
    with shaped(model, ONE) as shaper:
        trained(model, shaper, lambda step: 0.001)
    for at, weights in zip((4, 12), looked_at, strict=True):
        for before, now in zip(start, weights, strict=True):
            assert torch.allclose(now, before + 0.001 * at, atol=1e-6)


def test_masks_rest_while_a_round_fine_tunes() -> None:
    """Weights jump at every step, so that at every step some would cross the thresholds."""
    model = chain()
    method = FinePruning("weights", adaptations=2, trials=1, starts=1, images=8, gamma=0.0)
    with shaped(model, method) as shaper:
        seen = trained(model, shaper, lambda step: 0.2 * (-1) ** step)
    # pruned from the middle of a round to its end: steps 4 to 7, and 12 to 15
    assert moved(seen) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_masks_come_to_rest_counted_from_the_choice() -> None:
    model = chain()
    method = FinePruning("weights", adaptations=2, trials=1, starts=1, images=8, gamma=1e9)
    with shaped(model, method) as shaper:
        seen = trained(model, shaper, lambda step: 0.2 * (-1) ** step)
    assert moved(seen) == [4, 12]  # the chance is 1 at the step of the choice, and next to nothing after it


def test_the_chance_of_an_update_falls_with_the_power_and_is_drawn_for_each_layer() -> None:
    changed: dict[float, list[list[bool]]] = {}
    for power in (0.0, 1.0, 40.0):
        model = chain()
        method = FinePruning("weights", adaptations=1, tune=0.0, trials=1, starts=1, images=8, gamma=1.0, power=power)
        with shaped(model, method) as shaper:
            seen = trained(model, shaper, lambda step: 0.4 * (-1) ** step)
        changed[power] = [
            [not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(seen)
        ]
    assert all(map(all, changed[0.0]))
    assert not any(map(any, changed[40.0]))
    assert 0 < sum(map(sum, changed[1.0])) < 2 * (STEPS - 1)
    assert any(one != two for one, two in changed[1.0])  # one layer is brought up to date, the other is not


@pytest.mark.parametrize(("judge", "right"), [("train", True), ("val", False)])
def test_points_are_judged_on_so_many_of_the_images_asked_for(judge: Any, right: bool) -> None:
    """The network is right about all images of the training, and about none of the validation."""
    model, found = chain(), list[Search]()
    asked = problem(model, found)
    ((images, _),) = asked.batches or ()
    with torch.no_grad():
        labels = model(images).argmax(1)
    asked = dataclasses.replace(asked, batches=[(images, labels)], validation=[(images, (labels + 1) % 3)], target=None)
    method = FinePruning("weights", trials=1, starts=1, images=5, judge=judge)  # tries to keep everything
    method.plan(asked)
    (trial,) = found[0].trials
    assert trial.images == 5
    assert trial.errors == (0 if right else 5)


@pytest.mark.parametrize(("cooling", "goals"), [("none", [0.4, 0.4]), ("linear", [0.7, 0.4])])
def test_the_limit_cools_down_as_asked(cooling: Any, goals: list[float]) -> None:
    model, found = chain(), list[Search]()
    with shaped(
        model, FinePruning("weights", adaptations=2, trials=1, starts=1, images=8, cooling=cooling), found
    ) as s:
        trained(model, s)
    assert [search.tuning.goal for search in found if search.tuning] == pytest.approx(goals)


@pytest.mark.parametrize(("band", "moves"), [(0.1, True), (0.999, False)])
def test_the_band_of_the_method_is_that_of_the_updates(band: float, moves: bool) -> None:
    model = chain()
    method = FinePruning("weights", adaptations=1, tune=0.0, trials=1, starts=1, images=8, band=band)
    with shaped(model, method) as shaper:
        seen = trained(model, shaper)
    assert (moved(seen) == [0]) is moves


def test_thresholds_of_fractions_follow_the_weights_and_those_of_deviations_do_not() -> None:
    """All that is in play but the largest shrinks to next to nothing: what is out is larger now."""
    for by, alone in (("keep", False), ("deviation", True)):
        model = chain()
        method: Any = FinePruning("weights", by=by, adaptations=1, tune=0.0, trials=1, starts=1, images=8)
        with shaped(model, method) as shaper:
            trained(model, shaper, steps=range(1))
            with torch.no_grad():
                for weight in model.parameters():
                    weight[weight.abs() < weight.abs().max()] *= 0.001
            shaper.before_batch(Moment(1, STEPS, torch.Generator().manual_seed(1)))
            shaper.after_step(1)
            left = [int((weight != 0).sum()) for weight in model.parameters()]
        assert (left == [1, 1]) is alone
        assert min(left) >= 1


def test_a_round_tries_the_parameters_of_the_last_one_first() -> None:
    model = chain()
    method, asked = FinePruning("weights", trials=2, starts=2, images=8), problem(model)
    adviser = method._adviser(asked, method._allocation(asked))
    for last, ratios in (((0.3, 0.6), [2.0, 1.0]), (None, [1.0])):
        tuning = adviser.choose(model, method.adaptations - 1, last).search.tuning
        assert tuning is not None
        # scaled to the size of the round; then all layers alike
        assert [two / one for one, two in tuning.points][: len(ratios)] == pytest.approx(ratios)


def test_rounds_hand_their_parameters_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given, chosen = [], []
    original = Adviser.choose

    def choose(self: Adviser, model: nn.Module, number: int, last: Any = None) -> Choice:
        choice = original(self, model, number, last)
        given.append(last)
        chosen.append(choice.point)
        return choice

    monkeypatch.setattr(Adviser, "choose", choose)
    model = chain()
    with shaped(model, FinePruning("weights", adaptations=3, trials=3, starts=3, images=8)) as shaper:
        trained(model, shaper, lambda step: 0.05)
    assert given == [None, *chosen[:2]]
