"""Weights that go on a course, and weights that shrink, step by step and without a network around them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.core.zeros.masks import Masks
from secateur.core.zeros.scheduled_pruning import ScheduledPruning, SoftShrinking, rising
from secateur.core.zeros.schedules import Cubic, OneShot, Rounds
from secateur.core.zeros.shaper import Moment
from secateur.errors import TrainingError


def layer(*weights: float) -> nn.Linear:
    made = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([weights]))
    return made


def moment(step: int, steps: int) -> Moment:
    return Moment(step, steps, torch.Generator())


def ten() -> tuple[nn.Linear, Masks]:
    made = layer(*(float(value) for value in range(1, 11)))
    return made, Masks(made, ["weight"])


def test_so_many_go_as_the_course_says_rounded_down() -> None:
    made, masks = ten()
    pruning = ScheduledPruning(masks, Cubic(4, 0.0, 0.8), rising(masks, {"weight": 8}, 0.2))
    gone: list[int] = []
    for step in range(10):
        pruning.before_batch(moment(step, 10))
        pruning.after_step(step)
        gone.append(int((made.weight == 0).sum()))
    shares = [0.8 - 0.6 * (1 - j / 4) ** 3 for j in range(5)]
    assert [gone[0], gone[2], gone[4], gone[6], gone[8]] == [int(10 * share + 1e-9) for share in shares]
    assert gone == sorted(gone)
    assert made.weight.flatten().tolist() == [0.0] * 8 + [9.0, 10.0]


def test_what_is_out_stays_out_unless_it_may_return() -> None:
    for returns, expected in ((False, [0.0, 0.5, 3.0, 0.0]), (True, [1.0, 0.0, 3.0, 0.0])):
        made = layer(1.0, 2.0, 3.0, 4.0)
        masks = Masks(made, ["weight"], remember=returns)
        pruning = ScheduledPruning(masks, Rounds(2), rising(masks, {"weight": 2}, returns=returns))
        pruning.before_batch(moment(0, 4))
        assert made.weight.flatten().tolist() == [0.0, 2.0, 3.0, 4.0]
        with torch.no_grad():
            made.weight[0, 1], made.weight[0, 3] = 0.5, 0.25
        pruning.before_batch(moment(2, 4))
        assert made.weight.flatten().tolist() == expected


def test_the_optimizer_starts_anew_at_every_change_if_it_is_to() -> None:
    for restart in (False, True):
        _, masks = ten()
        calls: list[int] = []
        turns: list[int] = []
        choose = rising(masks, {"weight": 6})
        pruning = ScheduledPruning(masks, Rounds(3), choose, restart=restart, changed=lambda: turns.append(1))  # noqa: B023
        for step in range(6):
            pruning.before_batch(Moment(step, 6, torch.Generator(), lambda: calls.append(step)))  # noqa: B023
        assert calls == ([0, 2, 4] if restart else [])
        assert len(turns) == 3


def test_it_goes_on_from_its_state() -> None:
    made, masks = ten()
    pruning = ScheduledPruning(masks, Rounds(3), rising(masks, {"weight": 6}))
    pruning.before_batch(moment(0, 6))
    other, again = ten()
    other.load_state_dict(made.state_dict())
    resumed = ScheduledPruning(again, Rounds(3), rising(again, {"weight": 6}))
    resumed.load_state_dict(pruning.state_dict())
    assert torch.equal(again.keep("weight"), masks.keep("weight"))
    for each in (pruning, resumed):
        each.before_batch(moment(2, 6))
    assert torch.equal(made.weight, other.weight)
    assert int((made.weight == 0).sum()) == 4


def test_the_end_is_reached_also_where_the_training_stopped_before() -> None:
    made, masks = ten()
    pruning = ScheduledPruning(masks, Cubic(2, 0.5, 1.0), rising(masks, {"weight": 6}))
    pruning.before_batch(moment(0, 10))
    assert bool(made.weight.all())
    pruning.finish()
    assert int((made.weight == 0).sum()) == 6


def test_a_short_training_is_refused_at_its_first_step() -> None:
    _, masks = ten()
    with pytest.raises(TrainingError, match="train for longer"):
        ScheduledPruning(masks, Rounds(3), rising(masks, {"weight": 6})).before_batch(moment(0, 2))


@pytest.mark.parametrize(("steps", "share"), [(14, 0.488), (45, 0.099), (90, 0.010)])
def test_a_weight_without_gradient_decays_as_published(steps: int, share: float) -> None:
    made, masks = ten()
    shrinking = SoftShrinking(masks, {"weight": 4}, 0.95, OneShot(1.0))
    for step in range(steps):
        shrinking.before_batch(moment(step, 100))
        shrinking.after_step(step)
    assert float(made.weight.detach()[0, 3]) / 4.0 == pytest.approx(share, abs=6e-4)
    assert made.weight[0, 4:].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]


def test_the_smallest_are_found_anew_and_held_from_the_end_on() -> None:
    made = layer(1.0, 2.0, 3.0, 4.0)
    masks = Masks(made, ["weight"])
    shrinking = SoftShrinking(masks, {"weight": 1}, 0.5, OneShot(0.5))
    seen: list[float] = []
    for step in range(4):
        shrinking.before_batch(moment(step, 4))
        with torch.no_grad():
            made.weight[0, 0] += 2.0  # what the loss wants
        shrinking.after_step(step)
        seen.append(float(made.weight.detach()[0, 1]))
    assert seen == [1.0, 0.5, 0.0, 0.0]
    assert made.weight.flatten().tolist() == [9.0, 0.0, 3.0, 4.0]


def test_their_number_rises_on_a_ramp() -> None:
    made, masks = ten()
    shrinking = SoftShrinking(masks, {"weight": 8}, 0.0, OneShot(1.0), Cubic(10))
    gone: list[int] = []
    for step in range(10):
        shrinking.before_batch(moment(step, 10))
        shrinking.after_step(step)
        gone.append(int((made.weight == 0).sum()))
    assert gone == [int(8 * (1 - (1 - step / 10) ** 3) + 1e-9) for step in range(10)]
