"""Gradual pruning on the cubic course, in trainings from the first step to the plan."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kills import Killed
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.sizes.size import Target, size
from secateur.errors import SettingError, TargetError, TrainingError
from secateur.methods.gradual import Gradual
from secateur.run import prune
from shaped import data, net, problem, same, settings, shaped, values, zeros

QUICK = Gradual(ratio=0.8, updates=6)
TOTALS = {"3": 216, "6": 60, "8": 450, "12": 15}


def gone(plan: Plan) -> dict[str, torch.Tensor]:
    return {edit.tensor: ~edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}


def test_each_layer_loses_what_the_course_says_and_never_regains() -> None:
    seen: list[dict[str, int]] = []
    shaped(QUICK, watch=lambda step, model: seen.append(zeros(model)))
    for step, found in enumerate(seen):  # 18 steps, of which 12.6 for 6 updates
        share = 0.8 * (1 - (1 - min(6, int(step / 2.1)) / 6) ** 3)
        assert found == {"0": 0, **{name: int(share * total + 1e-9) for name, total in TOTALS.items()}}, step


def test_masks_grow_and_what_is_out_stays_zero() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    shaped(QUICK, watch=lambda step, model: seen.append(values(model)))
    for before, after in itertools.pairwise(seen):
        for name in ("3.weight", "12.weight"):
            assert not bool((after[name][before[name] == 0]).any())
    assert not torch.equal(seen[-1]["3.weight"], seen[-2]["3.weight"])


def test_the_plan_is_the_zeros_of_the_shaped_network() -> None:
    model = shaped(Gradual(updates=6), 0.3)
    asked = problem(model, 0.3)
    before = values(model)
    plan = Gradual(updates=6).plan(asked)
    assert all(torch.equal(mask, before[name] == 0) for name, mask in gone(plan).items())
    assert size(asked.graph, plan).nonzero == sum(int((p != 0).sum()) for p in model.parameters())
    assert size(asked.graph, plan).nonzero <= 0.3 * size(asked.graph).nonzero


def test_without_a_training_the_smallest_go_at_once() -> None:
    model = net()
    plan = gone(QUICK.plan(problem(model)))
    for name, mask in plan.items():
        sizes = model.get_parameter(name).detach().abs()
        assert sizes[mask].max() < sizes[~mask].min()
    assert {name: int(mask.sum()) for name, mask in plan.items()} == {
        f"{name}.weight": int(0.8 * total) for name, total in TOTALS.items()
    }
    assert QUICK.plan(problem(net())).edits
    assert Gradual().plan(problem(model, 1.0)) == EMPTY


def test_nothing_to_remove_is_a_plain_training() -> None:
    for method in (Gradual(ratio=0.0, updates=6), Gradual(ratio=0.0, updates=6, returns=True)):
        assert same(shaped(method), shaped(None))


def test_one_update_is_a_plain_training_and_then_one_cut() -> None:
    """At 2/3 of 18 steps, of which the course has one: before it nothing has gone, after it all."""
    seen: list[dict[str, int]] = []
    model = shaped(Gradual(ratio=0.5, end=2 / 3, updates=1), watch=lambda step, model: seen.append(zeros(model)))
    assert [sum(found.values()) for found in seen] == [0] * 12 + [108 + 30 + 225 + 7] * 6
    assert seen[-1] == zeros(model)


def test_without_a_number_of_updates_a_short_training_has_one_before_each_step(tmp_path: Path) -> None:
    seen: list[dict[str, int]] = []
    method = Gradual(ratio=0.8)
    model = shaped(method, watch=lambda step, model: seen.append(zeros(model)))
    for step, found in enumerate(seen):  # 18 steps, of which 12.6 for 20 updates
        share = 0.8 * (1 - (1 - min(20, int(step * 20 / 12.6 + 1e-9)) / 20) ** 3)
        assert found == {"0": 0, **{name: int(share * total + 1e-9) for name, total in TOTALS.items()}}, step
    with pytest.raises(Killed):
        shaped(method, path=tmp_path / "checkpoint", die=2)
    assert same(shaped(method, path=tmp_path / "checkpoint"), model)


def test_a_weight_may_come_back_only_if_it_may_return() -> None:
    """It comes back with the value that it went with."""
    for returns in (False, True):
        seen: list[dict[str, torch.Tensor]] = []
        method = Gradual(ratio=0.6, initial=0.4, updates=8, end=0.9, returns=returns)
        shaped(method, watch=lambda step, model: seen.append(values(model)), lr=0.3)  # noqa: B023
        back = sum(
            int(((before[name] == 0) & (after[name] != 0)).sum())
            for before, after in itertools.pairwise(seen)
            for name in ("3.weight", "8.weight")
        )
        assert (back > 0) == returns
        assert zeros_of(seen[-1]) == {name: int(0.6 * total + 1e-9) for name, total in TOTALS.items()}


def zeros_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int((state[f"{name}.weight"] == 0).sum()) for name in TOTALS}


@pytest.mark.parametrize(
    "method", [QUICK, Gradual(ratio=0.6, initial=0.2, updates=9, returns=True)], ids=["", "returns"]
)
def test_a_training_killed_inside_the_span_ends_alike(method: Gradual, tmp_path: Path) -> None:
    whole = shaped(method)
    for epoch in (2, 4, 6):
        with pytest.raises(Killed):
            shaped(method, path=tmp_path / "checkpoint", die=epoch)
    assert same(shaped(method, path=tmp_path / "checkpoint"), whole)


def test_a_whole_run_holds_the_zeros_in_fine_tuning() -> None:
    result = prune(
        net(), None, Gradual(updates=3), Target(0.4, "nonzero"), data(), latency=False, repair=(),
        shape=settings(epochs=3), train=settings(epochs=1),
    )  # fmt: skip
    assert result.after.counts.nonzero <= 0.4 * result.before.counts.params
    for name, mask in gone(result.plans[0]).items():
        assert not bool(result.model.get_parameter(name)[mask].any())


def test_a_short_training_and_no_goal_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"changes the network 21 times, .* this training has 12; train for longer"):
        shaped(Gradual(ratio=0.5, updates=20))
    with pytest.raises(TargetError, match="say how much goes"):
        shaped(Gradual())
    with pytest.raises(TargetError, match="set the target in nonzero"):
        Gradual().check(problem(net(), 0.5, "macs").target)
    with pytest.raises(SettingError, match="both a target and a ratio"):
        QUICK.plan(problem(net(), 0.5))


def test_weights_that_are_not_numbers_are_refused_before_the_training() -> None:
    model = net()
    nn.init.constant_(model[6].weight, float("nan"))
    with pytest.raises(SettingError, match="weights of '6' contain NaN"):
        shaped(QUICK, model=model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), not 1.0"),
        ({"initial": 1.0}, r"initial must be in \[0, 1\)"),
        ({"ratio": 0.3, "initial": 0.5}, "initial must be at most the ratio, 0.3, not 0.5"),
        ({"begin": 0.7}, "0 <= begin < end <= 1, not 0.7 and 0.7"),
        ({"end": 1.5}, "0 <= begin < end <= 1"),
        ({"updates": 0}, "updates must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Gradual(**options)
