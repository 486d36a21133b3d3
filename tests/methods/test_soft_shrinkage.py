"""Soft shrinkage of the smallest weights, in classification and in super-resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import task_worlds as worlds
from kills import Killed
from secateur import build, load_data, prune
from secateur.core.plan import ZeroWeights
from secateur.core.sizes.size import Target, size
from secateur.errors import SettingError
from secateur.methods.soft_shrinkage import SoftShrinkage, number
from secateur.tasks import Segmentation
from shaped import net, problem, same, settings, shaped, values, zeros

TOTALS = {"3": 216, "6": 60, "8": 450}


def test_how_many_weights_shrink() -> None:
    assert number(0.95, 1000) == 950
    assert number(0.999, 1000) == 995
    assert number(0.951, 10) == 9
    assert number(0.101, 100) == 11
    assert number(0.5, 1) == 0
    assert number(0.0, 10) == 0


def test_a_factor_of_one_is_a_plain_training_until_the_end() -> None:
    seen: list[dict[str, Tensor]] = []
    plain: list[dict[str, Tensor]] = []
    shaped(SoftShrinkage(ratio=0.9, factor=1.0, shrink=1.0), watch=lambda step, model: seen.append(values(model)))
    shaped(SoftShrinkage(ratio=0.0), watch=lambda step, model: plain.append(values(model)))
    last = values(shaped(None))
    assert all(torch.equal(last[name], tensor) for name, tensor in seen[-1].items())
    assert all(torch.equal(last[name], tensor) for name, tensor in plain[-1].items())


def test_a_factor_of_zero_leaves_exactly_so_many_zeros_after_each_step() -> None:
    for ramp in (False, True):
        seen: list[dict[str, int]] = []
        method = SoftShrinkage(ratio=0.8, factor=0.0, shrink=0.5, ramp=ramp)
        shaped(method, watch=lambda step, model: seen.append(zeros(model)))  # noqa: B023
        full = {"0": 0, "12": 0, **{name: number(0.8, total) for name, total in TOTALS.items()}}
        assert seen[9:] == [full] * 9
        assert (seen[0] == full) is not ramp
        assert sum(seen[0].values()) <= sum(seen[4].values()) <= sum(full.values())


def test_weights_shrink_before_they_go_and_may_leave_the_set() -> None:
    """Until a third of the training none is zero; then the smallest of that moment are, and are held."""
    seen: list[dict[str, Tensor]] = []
    model = shaped(SoftShrinkage(ratio=0.8), watch=lambda step, model: seen.append(values(model)))
    plain = shaped(None, epochs=6)
    for step, found in enumerate(seen):  # of 18
        count = int((found["8.weight"] == 0).sum())
        assert count == (0 if step < 6 else 360), step
    assert torch.equal(seen[-1]["8.weight"] == 0, seen[6]["8.weight"] == 0)
    assert seen[5]["8.weight"].abs().mean() < plain.get_parameter("8.weight").abs().mean()
    assert zeros(model) == {"0": 0, "3": 173, "6": 48, "8": 360, "12": 0}


def test_the_plan_is_the_zeros_of_the_shaped_network() -> None:
    model = shaped(SoftShrinkage(), 0.4, epochs=3)
    asked = problem(model, 0.4)
    plan = SoftShrinkage().plan(asked)
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        assert torch.equal(~edit.mask(), model.get_parameter(edit.tensor) == 0)
    assert {"0.weight", "12.weight"}.isdisjoint(edit.tensor for edit in plan.edits if isinstance(edit, ZeroWeights))
    assert size(asked.graph, plan).nonzero <= 0.4 * size(asked.graph).nonzero


@pytest.mark.parametrize("options", [{"shrink": 0.6}, {"shrink": 0.7, "ramp": True}], ids=str)
def test_a_training_killed_in_any_stage_ends_alike(options: dict[str, Any], tmp_path: Path) -> None:
    method = SoftShrinkage(ratio=0.7, **options)
    whole = shaped(method)
    for epoch in (2, 4, 6):
        with pytest.raises(Killed):
            shaped(method, path=tmp_path / "checkpoint", die=epoch)
    assert same(shaped(method, path=tmp_path / "checkpoint"), whole)


@pytest.mark.parametrize("task", ["restoration at a scale", "segmentation"])
def test_other_tasks_work_as_well(task: str, tmp_path: Path) -> None:
    here = worlds.world(task, tmp_path)
    data = load_data(
        here.data, image_size=worlds.SIDE, workers=0, task=Segmentation(ignore=11) if task == "segmentation" else None
    )
    torch.manual_seed(0)
    result = prune(
        build(here.model), None, SoftShrinkage(), Target(0.5, "nonzero"), data,
        latency=False, repair=(), shape=settings(epochs=2, lr=0.01), train=settings(epochs=1, lr=0.01),
    )  # fmt: skip
    assert result.after.counts.nonzero <= 0.5 * result.before.counts.params
    assert result.after.quality is not None
    (plan,) = result.plans
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        assert not bool(result.model.get_parameter(edit.tensor)[~edit.mask()].any())


def test_weights_that_are_not_numbers_are_refused_before_the_training() -> None:
    model = net()
    nn.init.constant_(model[6].weight, float("nan"))
    with pytest.raises(SettingError, match="weights of '6' contain NaN"):
        shaped(SoftShrinkage(ratio=0.5), model=model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), not 1.0"),
        ({"factor": 1.1}, r"factor must be in \[0, 1\], not 1.1"),
        ({"factor": -0.1}, "factor must be"),
        ({"shrink": 0.0}, "shrink must be a share of the training above 0 and at most 1, not 0.0"),
        ({"shrink": 1.5}, "shrink must be"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        SoftShrinkage(**options)
