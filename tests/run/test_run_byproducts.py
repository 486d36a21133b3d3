"""The whole result of a run that was killed is that of one that was not, field by field."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from kills import Killed
from nets import Plain
from secateur.artifact import document
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search, Trial
from secateur.data import Data
from secateur.events import Event, ignore
from secateur.run import Result, prune, stopwatch, work_folder
from secateur.run.stopwatch import Clock, of_epochs
from secateur.training import History, Row, Settings

TIMES = {"seconds", "repair", "training"}


@dataclass(frozen=True)
class Thorough(ScoreMethod):
    """Looks at images, searches, and measures sensitivity."""

    paper: ClassVar[Paper] = Paper("On tests", "Ada Author", "Journal of Tests", 2020)

    def score(self, group: Group, problem: Problem) -> Tensor:
        return next(iter(group.rows(problem.model, "makes"))).norm(dim=1)

    def plan(self, problem: Problem) -> Plan:
        assert problem.image_count()
        problem.curves({group.name: self.score(group, problem) for group in problem.graph.free})
        problem.found(Search((Trial("key", 1, 20),), 0, 20))
        return super().plan(problem)


def kill(stage: str, number: int) -> Callable[[Event], None]:
    """Return a listener that kills at the ``number``-th event of a stage that has a text."""
    left = [number]

    def tell(event: Event) -> None:
        if event.stage == stage and event.text:
            left[0] -= 1
            if not left[0]:
                raise Killed

    return tell


def timeless(value: Any) -> Any:
    """Return a document without what a clock has put in; of the seconds of stages their names remain."""
    if isinstance(value, Mapping):
        return {
            key: sorted(each) if key == "seconds" and isinstance(each, Mapping) else timeless(each)
            for key, each in value.items()
            if key not in TIMES or isinstance(each, Mapping)
        }
    return [timeless(each) for each in value] if isinstance(value, list) else value


def said(result: Result) -> Any:
    return timeless(json.loads(json.dumps(document(result))))


@pytest.fixture(autouse=True)
def _every_decision_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_folder, "WORTH_KEEPING", 0.0)


@pytest.fixture(scope="module")
def go(data: Data, train: Settings) -> Callable[..., Result]:
    torch.manual_seed(0)
    net = Plain()

    def run(folder: Path | None = None, tell: Callable[[Event], None] = ignore, **more: Any) -> Result:
        asked: dict[str, Any] = {"method": Thorough(), "target": 0.4, "train": train, "rounds": 2, **more}
        return prune(net, data=data, latency=False, work=folder, tell=tell, **asked)

    return run


@pytest.fixture(scope="module")
def whole(go: Callable[..., Result]) -> Result:
    return go()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("apply", 1),
        ("repair", 1),
        ("train", 1),
        ("train", 2),
        ("apply", 2),
        ("measure", 5),
        ("train", 4),
        ("measure", 9),
    ],
)
def test_a_killed_run_says_all_that_one_says_that_was_not(
    stage: str, number: int, go: Callable[..., Result], whole: Result, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        go(tmp_path, kill(stage, number))
    again = go(tmp_path)
    assert said(again) == said(whole)
    assert again.calibration.startswith("80 unlabelled images")
    assert again.searches == whole.searches
    assert again.sensitivity == whole.sensitivity
    assert len(again.sensitivity) == 2


def test_the_seconds_of_an_earlier_run_are_counted(go: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(tmp_path, kill("measure", 6))
    for path in (*tmp_path.glob("beside-plan-1-*.json"), *tmp_path.glob("repaired-1-*.json")):
        kept = json.loads(path.read_text())
        kept.get("beside", kept)["seconds"] |= {"images": 1000.0}
        path.write_text(json.dumps(kept))
    assert 2000 < go(tmp_path).seconds["images"] < 2100


def test_epochs_of_an_earlier_run_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(
        stopwatch.time, "perf_counter", lambda: float(next(ticks))
    )  # a second later whenever it is read
    found, rows = Clock(), tuple(Row(epoch, 1.0, 0.5, 1.0, 0.5, 0.1, 50.0) for epoch in (1, 2))
    assert found.training("fine-tune", lambda: History(rows), of_epochs) == History(rows)
    assert found.seconds["fine-tune"] == 98.0  # four looks at the clock: one second in the stage, three in all


def test_time_of_a_stage_under_way_is_time() -> None:
    found = Clock()
    with found("plan"), found("images"):
        sum(range(1000))
        assert all(seconds > 0 for seconds in found.now().values())
        assert list(found.now()) == ["plan", "images"]
    assert found.now() == found.seconds
