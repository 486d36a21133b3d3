"""When what happens, against values worked out by hand and by the papers' own formulas."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.zeros.schedules import (
    Course,
    Cubic,
    Cycle,
    OneShot,
    Rounds,
    Schedule,
    between,
    check_span,
    contiguous,
)
from secateur.errors import SettingError, TrainingError


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0.0, 0.8, (0.0, 0.2168, 0.4625, 0.7, 0.7875, 0.8)),
        (0.0, 0.875, (0.0, 0.2371, 0.5059, 0.7656, 0.8613, 0.875)),
        (0.5, 0.9, (0.5, 0.6084, 0.73125, 0.85, 0.89375, 0.9)),
    ],
)
def test_the_cubic_course_has_the_published_values(first: float, last: float, expected: tuple[float, ...]) -> None:
    course = Cubic(20, 0.0, 1.0)
    for step, share in zip((0, 100, 250, 500, 750, 1000), expected, strict=True):
        gone = between(first, last, course.progress(course.stage(step, 1000)), 1_000_000)
        assert gone / 1e6 == pytest.approx(share, abs=5e-5)


def test_the_cubic_course_is_that_of_distiller() -> None:
    """From epoch 0 to 30 every second epoch: a span of 28, so that the last update reaches the end."""
    course = Cubic(14, 0.0, 28 / 30)
    shares = [0.8 * course.progress(course.stage(epoch, 30)) for epoch in (0, 2, 3, 14, 28, 29)]
    assert shares == pytest.approx([0.0, 0.1595, 0.1595, 0.7, 0.8, 0.8], abs=5e-5)


def test_the_cubic_course_begins_late_and_ends_early() -> None:
    course = Cubic(4, 0.2, 0.6)
    assert [course.stage(step, 10) for step in range(10)] == [0, 0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert [course.progress(stage) for stage in range(6)] == pytest.approx([0, 0, 37 / 64, 7 / 8, 63 / 64, 1])


def test_one_update_is_one_shot() -> None:
    one, shot = Cubic(1, 0.0, 0.7), OneShot(0.7)
    for step in range(30):
        assert one.progress(one.stage(step, 30)) == shot.progress(shot.stage(step, 30)) == float(step >= 21)
    assert OneShot(1.0).stage(29, 30) == 0
    assert OneShot(0.0).stage(0, 30) == 1


def test_rounds_begin_at_equal_distances() -> None:
    course = Rounds(3)
    assert [course.stage(step, 9) for step in range(9)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [course.progress(stage) for stage in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [Rounds(2, 0.5).stage(step, 8) for step in range(8)] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert Rounds(1).progress(Rounds(1).stage(0, 5)) == OneShot(0.0).progress(1) == 1.0


def test_a_cycle_visits_part_after_part() -> None:
    cycle = Cycle(3, 2)
    assert cycle.stages == 7
    stages = [cycle.stage(step, 16) for step in range(16)]
    assert [cycle.dense(stage) for stage in stages] == [part for part in (0, 1, 2, 0, 1, 2, None, None) for _ in (0, 1)]
    assert cycle.dense(0) is None
    assert [Cycle(1, 2).dense(stage) for stage in range(4)] == [None, 0, 0, None]


@pytest.mark.parametrize(("parts", "density", "expected"), [(4, 0.2, 0.4), (4, 0.1, 0.325), (3, 0.1, 0.4)])
def test_the_mean_density_of_a_cycle(parts: int, density: float, expected: float) -> None:
    cycle, steps = Cycle(parts, 3), 3 * parts + 2
    stages = [cycle.stage(step, steps) for step in range(cycle.turns)]
    shares = [[1.0 if cycle.dense(stage) == part else density for part in range(parts)] for stage in stages]
    assert sum(map(sum, shares)) / (cycle.turns * parts) == pytest.approx(expected)


COURSES: list[Schedule] = [OneShot(0.0), Rounds(4), Cubic(7, 0.1, 0.9), Cycle(3, 2), Cycle(2, 1, 1)]


@pytest.mark.parametrize("schedule", COURSES, ids=str)
@given(steps=st.integers(1, 300))
def test_every_change_happens_once_in_a_training_that_is_long_enough(schedule: Schedule, steps: int) -> None:
    stages = [schedule.stage(step, steps) for step in range(steps)]
    assert stages == sorted(stages)
    assert 0 <= stages[0] <= stages[-1] <= schedule.stages
    try:
        schedule.check(steps)
    except TrainingError:
        return
    assert set(stages) >= set(range(1, schedule.stages + 1))
    if isinstance(schedule, Course):
        shares = [schedule.progress(stage) for stage in range(schedule.stages + 1)]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)


@given(steps=st.integers(1, 60))
def test_a_short_training_follows_the_course_as_closely_as_it_can(steps: int) -> None:
    """It lags behind by no more than an update, of which the first, the largest, is 0.143 of the way."""
    short = Cubic(20, 0.1, 0.7, all_apart=False)
    if steps < 2:
        with pytest.raises(
            TrainingError, match="no step of 1 would follow a change of this method's schedule; train for longer"
        ):
            short.check(steps)
        return
    short.check(steps)
    for step, stage in enumerate(short.stage(step, steps) for step in range(steps)):
        way = min(1.0, max(0.0, (step / steps - 0.1) / 0.6))
        assert -1e-9 <= 1 - (1 - way) ** 3 - short.progress(stage) <= 0.143


@pytest.mark.parametrize(
    ("schedule", "enough", "words"),
    [
        (
            Cubic(20, 0.0, 0.7),
            29,
            r"changes the network 21 times, which takes 20 optimizer .* training has 19; .*less with updates",
        ),
        (Rounds(5), 5, "5 times"),
        (Cycle(3, 2), 8, r"7 times, which takes 6 optimizer steps at least, .* has 5; .*less with rounds= or parts="),
    ],
)
def test_a_training_that_is_too_short_is_refused(schedule: Schedule, enough: int, words: str) -> None:
    schedule.check(enough)
    with pytest.raises(TrainingError, match=words):
        schedule.check(enough - 1)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (-0.1, 0.5), (0.0, 1.1), (0.9, 0.1)])
def test_a_span_lies_within_the_training(begin: float, end: float) -> None:
    with pytest.raises(SettingError, match="0 <= begin < end <= 1"):
        check_span(begin, end)


def test_parts_are_runs_of_about_equal_size() -> None:
    assert contiguous([3, 1, 1, 1, 3], 3) == (0, 1, 1, 1, 2)
    assert contiguous([9, 1, 1], 3) == (0, 1, 2)
    assert contiguous([1, 1, 1, 9], 2) == (0, 0, 0, 1)
    assert contiguous([5, 5], 1) == (0, 0)
    assert contiguous([], 0) == ()


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6), parts=st.integers(1, 6))
def test_no_other_cut_has_a_smaller_largest_part(sizes: list[int], parts: int) -> None:
    parts = min(parts, len(sizes))
    found = contiguous(sizes, parts)
    assert sorted(set(found)) == list(range(parts))
    assert list(found) == sorted(found)
    largest = max(sum(s for s, p in zip(sizes, found, strict=True) if p == part) for part in range(parts))
    for cut in itertools.combinations(range(1, len(sizes)), parts - 1):
        runs = itertools.pairwise((0, *cut, len(sizes)))
        assert largest <= max(sum(sizes[begin:end]) for begin, end in runs)
