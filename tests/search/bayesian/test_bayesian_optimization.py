"""A search that finds a minimum, and the same one after a kill at any trial or with any number of helpers."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kills import Killed
from secateur.errors import ArtifactError, ModelError, SettingError
from secateur.search.bayesian.bayesian_optimization import (
    Box,
    Evaluate,
    Outcome,
    Point,
    Propose,
    Tried,
    best,
    gaussian_process,
    minimise,
    random_points,
    read,
    uniform,
)
from secateur.search.trial_journal import Journal

BOX = [(0.0, 1.0), (0.0, 2.0)]


def bowl(points: Sequence[Point]) -> Iterator[Outcome]:
    for x, y in points:
        yield Outcome((x - 0.3) ** 2 + (y - 1.6) ** 2)


def test_the_gaussian_process_needs_fewer_trials_than_chance() -> None:
    pytest.importorskip("optuna")
    before = torch.get_rng_state()
    found = best(minimise(bowl, BOX, trials=14, starts=6, seed=1))
    chance = best(minimise(bowl, BOX, trials=14, starts=6, seed=1, propose=random_points))
    assert found is not None
    assert chance is not None
    assert found.outcome.value < 0.003 < chance.outcome.value
    assert torch.equal(before, torch.get_rng_state())  # a training may go on around it


def test_a_constraint_that_is_measured_is_learned() -> None:
    pytest.importorskip("optuna")

    def evaluate(points: Sequence[Point]) -> Iterator[Outcome]:
        for x, y in points:
            yield Outcome(-x - y, excess=x + 2 * y - 1.5)  # best at x = 1, y = 0.25

    tried = minimise(evaluate, BOX, trials=16, starts=8, seed=0)
    winner = best(tried)
    assert winner is not None
    assert winner.outcome.excess is not None
    assert winner.outcome.excess <= 0
    assert winner.outcome.value < -1.2
    assert any(not t.feasible for t in tried)


def by_all_that_is_known(tried: Sequence[Tried], box: Box, seeds: Sequence[int], count: int) -> list[Point]:
    """Propose other points for any other history, in no time."""
    known = sum((number + 1) * trial.outcome.value for number, trial in enumerate(tried))
    return [uniform(box, (*seeds, i, round(1e9 * known))) for i in range(count)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("propose", "trials", "stops"), [(by_all_that_is_known, 9, range(9)), (gaussian_process, 8, (2, 6))]
)
def test_killed_at_any_trial_it_finds_the_same(
    tmp_path: Path, batch: int, propose: Propose, trials: int, stops: Sequence[int]
) -> None:
    pytest.importorskip("optuna")

    def search(evaluate: Evaluate, journal: Journal | None = None) -> list[Tried]:
        first = [(0.5, 0.5)]
        asked: dict[str, Any] = {"trials": trials, "starts": 4, "batch": batch, "first": first, "seed": 3}
        return minimise(evaluate, BOX, **asked, propose=propose, journal=journal)

    whole = search(bowl)
    for stop in stops:
        path, left = tmp_path / f"{stop}.jsonl", [stop]

        def dying(points: Sequence[Point], left: list[int] = left) -> Iterator[Outcome]:
            for outcome in bowl(points):
                if not left[0]:
                    raise Killed
                left[0] -= 1
                yield outcome

        journal = Journal(path, read)
        with pytest.raises(Killed):
            search(dying, journal)
        with path.open("a") as file:
            file.write('{"number": 8, "poi')  # a line cut short
        seen: list[Point] = []

        def counting(points: Sequence[Point], seen: list[Point] = seen) -> Iterator[Outcome]:
            seen.extend(points)
            yield from bowl(points)

        assert search(counting, Journal(path, read)) == whole
        assert len(seen) == trials - stop


def test_random_starts_do_not_depend_on_their_number() -> None:
    few = minimise(bowl, BOX, trials=3, starts=3, seed=5)
    many = minimise(bowl, BOX, trials=6, starts=6, seed=5)
    assert few == many[:3]
    assert few != minimise(bowl, BOX, trials=3, starts=3, seed=6)
    assert all(low <= x <= high for t in many for x, (low, high) in zip(t.point, BOX, strict=True))


def test_what_no_search_has_noted_is_found_out_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"

    def found() -> list[Tried]:
        return minimise(lambda points: (Outcome(x, y) for x, y in points), BOX, trials=3, journal=Journal(path, read))

    whole = found()
    noted = path.read_text()
    for wrong in ('{"number": 1}', '{"number": 1, "point": [0, "x"], "outcome": {}}', '{"number": 1, "point": 1}'):
        path.write_text(f"{wrong}\n{noted.splitlines()[2]}\n")
        assert found() == whole
    path.write_text(noted.replace('"excess": 0', '"excess": "x'))
    assert found() == whole


def test_nan_never_wins_and_nan_everywhere_is_refused(tmp_path: Path) -> None:
    def patchy(points: Sequence[Point]) -> Iterator[Outcome]:
        for x, y in points:
            yield Outcome(math.nan if x < 0.5 else y)

    journal = Journal(tmp_path / "j.jsonl", read)
    tried = minimise(patchy, BOX, trials=8, starts=8, seed=0, journal=journal)
    winner = best(tried)
    assert winner is not None
    assert winner.point[0] >= 0.5
    again = minimise(patchy, BOX, trials=8, starts=8, seed=0, journal=Journal(tmp_path / "j.jsonl", read))
    assert [t.feasible for t in again] == [t.feasible for t in tried]
    assert not all(t.feasible for t in tried)
    with pytest.raises(ModelError, match="none of 4 candidates gave a finite objective"):
        minimise(lambda points: (Outcome(math.nan) for _ in points), BOX, trials=9, starts=4)


def test_nan_does_not_stop_the_gaussian_process() -> None:
    pytest.importorskip("optuna")

    def patchy(points: Sequence[Point]) -> Iterator[Outcome]:
        for x, y in points:
            yield Outcome(math.nan if x < 0.5 else y)

    assert len(minimise(patchy, BOX, trials=7, starts=6, seed=0)) == 7


def test_best_is_the_first_of_equal_ones() -> None:
    def tried(value: float, excess: float | None = None) -> Tried:
        return Tried((value, excess or 0.0), Outcome(value, excess))

    assert best([tried(1.0), tried(1.0, 0.0), tried(0.0, 0.1)]) == tried(1.0)
    assert best([tried(1.0, 0.1), tried(math.nan)]) is None


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingError, match=r'pip install "secateur\[bayes\]"'):
        minimise(bowl, BOX, trials=3, starts=2)
    assert len(minimise(bowl, BOX, trials=3, starts=3)) == 3


def test_optuna_keeps_its_voice() -> None:
    optuna = pytest.importorskip("optuna")
    level = optuna.logging.get_verbosity()
    minimise(bowl, BOX, trials=3, starts=2)
    assert optuna.logging.get_verbosity() == level
    assert logging.getLogger("optuna").level != logging.ERROR or level == logging.ERROR


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="choose another folder"):
        Journal(tmp_path / "file" / "j.jsonl", read)


def test_uniform_points_differ() -> None:
    assert uniform(BOX, (1, 2)) == uniform(BOX, (1, 2)) != uniform(BOX, (1, 3))
