"""The report shows a search over pruning parameters."""

from __future__ import annotations

from typing import Any

from secateur.core.selection.search_results import Search, Trial, Tuning
from secateur.report import tuning
from secateur.report.page import _searches


def search(goal: float | None, values: tuple[float | None, ...], course: tuple[tuple[int, float, float], ...]) -> Any:
    trials = tuple(Trial(f"k{i}", 10 * i, 100) for i in range(len(values)))
    points = tuple((0.25 + i / 8, 0.5) for i in range(len(values)))
    found = Tuning(("conv1", "conv2"), points, values, (0.5,) * len(values), "macs", goal, course)
    return Search(trials, 1, 100, False, found).to_dict()


FIRST = search(0.5, (0.375, 0.125, None, 0.25), ((10, 1.0, 0.25), (10, 0.5, 0.375)))
SECOND = search(0.25, (0.75, 0.5), ((30, 0.5, 0.125), (30, 0.25, 0.5), (40, 0.25, 0.25)))


def test_objectives_parameters_and_course_are_drawn() -> None:
    first, second, chosen, course = tuning.charts([FIRST, SECOND])
    assert '"y":[0.375,0.125,null,0.25]' in first
    assert '"y":[0.375,0.125,0.125,0.125]' in first  # the best so far
    assert "at most 50.0% of the macs" in first
    assert "search 2" in second
    assert '"x":[1,2],"y":[0.375,0.375]' in chosen
    assert '"x":[1,2],"y":[0.5,0.5]' in chosen
    assert '"x":[10,10,30,30,40],"y":[100.0,50.0,50.0,25.0,25.0]' in course
    assert '"y":[75.0,62.5,87.5,50.0,75.0]' in course


def test_one_search_without_training() -> None:
    (alone,) = tuning.charts([search(None, (None, 0.5), ())])
    assert "objective without retraining" in alone
    assert '"y":[null,0.5]' in alone
    assert tuning.charts([]) == []


def test_both_kinds_of_search_stand_side_by_side() -> None:
    plain = {"best": 0, "images": 10, "exact": True, "trials": [{"key": "a", "errors": 1, "images": 10}]}
    drawn = _searches({"searches": [FIRST, plain]})
    assert len(drawn) == 3
    assert "chart-search-1" in drawn[0]
    assert "chart-tuning-1" in drawn[1]
    assert "chart-tuning-course" in drawn[2]


def test_searches_are_drawn_in_the_metric_of_their_task() -> None:
    psnr = {"name": "PSNR", "unit": "dB", "higher_is_better": True, "digits": 2}
    tuned = {**search(0.5, (-31.0, -30.0), ((10, 1.0, -31.5), (20, 0.5, -30.5))), "metric": psnr}
    trials = [{"key": key, "errors": 0, "images": 8, "guess": error} for key, error in (("a", -30.0), ("b", -31.0))]
    plain, objectives, course = _searches(
        {"searches": [{"best": 1, "images": 8, "exact": True, "trials": trials, "metric": psnr}, tuned]}
    )
    assert '"y":[30.0,31.0]' in plain
    assert "validation PSNR in dB" in plain
    assert "error by PSNR" in objectives
    assert '"y":[31.5,30.5]' in course
    assert "PSNR in dB" in course
    wrong = _searches({"searches": [{"best": 1, "images": 8, "exact": True, "trials": trials[:1]}]})[0]
    assert "validation error in %" in wrong
