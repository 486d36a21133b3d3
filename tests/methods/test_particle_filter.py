"""The particle filter on networks: masks at the ratio, the best ever, on any task, and on from a kill."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kills import Killed
from nets import Head, conv, images, lived_in
from secateur import check_method
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import masked, run
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError
from secateur.methods.particle_filter import ParticleFilter
from secateur.methods.random_masks import RandomMasks
from secateur.search import competition, task_examples
from secateur.tasks import Regression

NET = lived_in(nn.Sequential(conv(3, 8), conv(8, 12), conv(12, 8), Head(8))).eval()
GRAPH = trace(NET, images(1))
X = images(80, 1)
with torch.no_grad():
    Y, OUT = NET(X).argmax(1), NET(X)


def problem(found: list[Search] | None = None, **known: Any) -> Problem:
    given = {"validation": [(X, Y)], "limits": Limits(multiple=1), "rng": torch.Generator().manual_seed(1)}
    heard = list[Search]() if found is None else found
    return Problem(NET, GRAPH, **{**given, "found": heard.append, **known})


def errors(plan: Plan) -> int:
    with masked(NET, GRAPH, plan):
        return int((run(NET, X).argmax(1) != Y).sum())


QUICK: dict[str, Any] = {"particles": 6, "generations": 3}


@pytest.mark.parametrize(
    "options",
    [{"ratio": 0.25}, {"granularity": "kernels", "ratio": 0.5}, {"granularity": "strided", "stride": 3}],
    ids=str,
)
def test_the_best_ever_is_chosen_and_every_layer_keeps_its_share(options: dict[str, Any]) -> None:
    found = list[Search]()
    plan = ParticleFilter(**QUICK, **options).plan(problem(found))
    (search,) = found
    assert len(search.trials) == 18
    assert all(trial.images == 80 for trial in search.trials)
    assert errors(plan) == search.trials[search.best].errors == min(trial.errors for trial in search.trials)
    if "granularity" not in options:
        assert {name: len(units) for name, units in plan.dropped().items()} == {"1.0": 3, "2.0": 2}
    else:
        stays = {e.tensor: float(e.mask().double().mean()) for e in plan.edits if isinstance(e, ZeroWeights)}
        expected = 0.5 if "ratio" in options else 1 / 3
        assert stays == pytest.approx({"1.0.weight": expected, "2.0.weight": expected})


def test_the_first_generation_is_that_of_random_masks() -> None:
    bred = ParticleFilter(ratio=0.3, particles=4).draw(problem())
    assert bred == RandomMasks(ratio=0.3, candidates=4).draw(problem())


@pytest.mark.parametrize("of", ["macs", "nonzero"])
def test_every_particle_meets_the_target(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, target = list[Plan](), Target(0.6, of)
    original = competition.best_of
    monkeypatch.setattr(
        competition, "best_of", lambda m, g, plans, *a, **k: tried.extend(plans) or original(m, g, plans, *a, **k)
    )
    ParticleFilter(**QUICK, granularity="maps" if of == "macs" else "kernels").plan(problem(target=target))
    assert len(tried) == 18
    assert all(size(GRAPH, plan).of(of) <= target.most(size(GRAPH).of(of)) for plan in tried)


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a task whose examples are tried one mask at a time, so that a kill can be put between two."""
    given = {"validation": [(X, OUT)], "task": Regression()}
    method = ParticleFilter(ratio=0.25, **QUICK)
    whole = method.plan(problem(**given))
    original, calls = task_examples.Examples.loss_and_error, list[int]()

    def counted(self: task_examples.Examples, model: nn.Module, most: int) -> tuple[float, float]:
        if len(calls) == most:
            raise Killed
        calls.append(1)
        return original(self, model)

    monkeypatch.setattr(task_examples.Examples, "loss_and_error", lambda self, model: counted(self, model, 11))
    with pytest.raises(Killed):  # in the second generation
        method.plan(problem(work=tmp_path, **given))
    calls.clear()
    monkeypatch.setattr(task_examples.Examples, "loss_and_error", lambda self, model: counted(self, model, 100))
    assert method.plan(problem(work=tmp_path, **given)) == whole
    assert 1 <= len(calls) <= 18 - 11
    calls.clear()
    assert method.plan(problem(work=tmp_path, **given)) == whole  # notes of all generations are found again
    assert not calls


def test_images_are_not_tried_twice_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ParticleFilter(ratio=0.25, **QUICK)
    plan = method.plan(problem(work=tmp_path))
    monkeypatch.setattr("secateur.search.racing.executors.Engine", None)
    assert method.plan(problem(work=tmp_path)) == plan


@pytest.mark.parametrize("options", [{"granularity": "kernels", "linear": True}, {"granularity": "strided"}], ids=str)
def test_promises(options: dict[str, Any]) -> None:
    check_method(ParticleFilter(particles=2, generations=2, **options), networks={"chain": (NET, images(4))})


def test_bad_input_is_refused_in_one_sentence() -> None:
    for options, sentence in (
        ({"particles": 1}, "particles must be at least 2, not 1"),
        ({"generations": 0}, "generations must be at least 1, not 0"),
        ({"swaps": 0.0}, r"swaps must be in \(0, 1\], not 0"),
        ({"crossover": 1.5}, r"crossover must be in \[0, 1\], not 1"),
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), not 1"),
        ({"granularity": "strided", "ratio": 0.5}, "says by itself how much goes; leave ratio out"),
    ):
        with pytest.raises(SettingError, match=sentence):
            ParticleFilter(**options)
    with pytest.raises(TargetError, match="say how much goes: a target"):
        ParticleFilter().plan(problem())
    with pytest.raises(TargetError, match="zeroed kernels leave the macs as they are"):
        ParticleFilter(granularity="kernels").plan(problem(target=Target(0.5)))
    with pytest.raises(TargetError, match=r"removes all 12 maps of '1\.0'"):
        ParticleFilter(ratio=0.99).plan(problem())
    with pytest.raises(DataError, match="particle_filter tries its masks on validation images, and there are none"):
        ParticleFilter(ratio=0.25).plan(dataclasses.replace(problem(), validation=None))
