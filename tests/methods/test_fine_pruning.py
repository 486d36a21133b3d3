"""Joint fine-tuning and pruning: what is chosen, what it costs, and that a kill changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kills import Killed
from secateur.checks.networks import networks
from secateur.core.graph import tensor_of
from secateur.core.plan import EMPTY, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.allocation import Allocation
from secateur.core.selection.search_results import Search
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.data import Data, from_arrays
from secateur.errors import DataError, ModelError, SettingError, TargetError
from secateur.events import Event
from secateur.methods.fine_pruning import FinePruning
from secateur.models import build
from secateur.run import prune
from secateur.search.bayesian.parameter_search import Effort, Goal
from secateur.training import Settings, fit

FAST = Settings(
    epochs=2, batch_size=32, lr=0.05, augment="none", precision="float32", memory_format="contiguous", compile="off"
)
QUICK = FinePruning(adaptations=2, trials=5, starts=5, images=64)


def stripes(count: int = 160) -> Data:
    """Return pictures of stripes, across or upright, which a small network learns in a moment."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (count,), generator=rng)
    images = torch.rand(count, 3, 8, 8, generator=rng) * 0.3
    for image, label in zip(images, labels.tolist(), strict=True):
        lines = image[:, label % 2 :: 2] if label < 2 else image[:, :, label % 2 :: 2]
        lines += 0.7
    return from_arrays((images, labels), (images[:40], labels[:40]), classes=4)


def net(name: str = "chain") -> nn.Module:
    torch.manual_seed(0)
    return networks()[name]


def problem(model: nn.Module, target: Target | None, **options: Any) -> Problem:
    data = stripes()
    return Problem(
        model, trace(model, data.example()), target, batches=data.batches("train", 32),
        validation=data.batches("val", 32), **options,
    )  # fmt: skip


@pytest.mark.parametrize("by", ["keep", "deviation"])
@pytest.mark.parametrize(("granularity", "of"), [("units", "macs"), ("units", "params"), ("weights", "nonzero")])
def test_the_whole_size_allowed_is_used(granularity: Any, of: Any, by: Any) -> None:
    model = net()
    asked = problem(model, Target(0.5, of))
    plan = dataclasses.replace(QUICK, granularity=granularity, by=by).plan(asked)
    left, whole = size(asked.graph, plan).of(of), size(asked.graph).of(of)
    assert 0.5 * whole * (0.97 if granularity == "weights" else 0.7) <= left <= 0.5 * whole


def test_the_smallest_go_from_each_layer() -> None:
    model = net()
    plan = dataclasses.replace(QUICK, granularity="weights").plan(problem(model, Target(0.4, "nonzero")))
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        weight, keep = tensor_of(model, edit.tensor).detach().abs(), edit.mask()
        assert weight[~keep].max() <= weight[keep].min()


def test_the_search_is_told_and_kept() -> None:
    found: list[Search] = []
    heard: list[Event] = []
    FinePruning(trials=4, starts=4, images=40).plan(problem(net(), Target(0.5), found=found.append, tell=heard.append))
    (search,) = found
    tuning = search.tuning
    assert tuning is not None
    assert len(tuning.points) == len(tuning.values) == len(tuning.sizes) == len(search.trials) == 4
    assert len(tuning.points[0]) == len(tuning.names)
    assert all(value == trial.error for value, trial in zip(tuning.values, search.trials, strict=True))
    assert min(v for v in tuning.values if v is not None) == tuning.values[search.best]
    assert all(0.3 < s <= 0.5 for s in tuning.sizes)
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
    assert [event.step for event in heard if event.stage == "search"] == [1, 2, 3, 4]


def test_without_a_target_size_is_traded_for_accuracy() -> None:
    model = net()
    asked = problem(model, None)
    whole = size(asked.graph).macs
    cheap = dataclasses.replace(QUICK, tradeoff=100.0, trials=20, starts=20).plan(asked)
    dear = dataclasses.replace(QUICK, tradeoff=0.0, trials=20, starts=20).plan(problem(model, None))
    assert size(asked.graph, cheap).macs < 0.5 * whole
    assert size(asked.graph, cheap).macs < size(asked.graph, dear).macs


@pytest.mark.parametrize("workers", [2, 3])
def test_helpers_do_not_change_the_result(workers: int) -> None:
    pytest.importorskip("optuna")
    method = FinePruning(trials=7, starts=4, batch=3, images=64, workers=1)
    alone = method.plan(problem(net(), Target(0.5)))
    assert dataclasses.replace(method, workers=workers).plan(problem(net(), Target(0.5))) == alone
    assert alone != EMPTY


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_search_killed_at_a_trial_goes_on_alike(tmp_path: Path, stop: int) -> None:
    pytest.importorskip("optuna")
    method = FinePruning(trials=7, starts=4, images=64)
    expected = method.plan(problem(net(), Target(0.5)))

    def dying(event: Event) -> None:
        if event.stage == "search" and event.step == stop:
            raise Killed

    with pytest.raises(Killed):
        method.plan(problem(net(), Target(0.5), work=tmp_path, tell=dying))
    (journal,) = tmp_path.glob("adaptation-*.jsonl")
    assert len(journal.read_text().splitlines()) == stop
    assert method.plan(problem(net(), Target(0.5), work=tmp_path)) == expected
    assert len(journal.read_text().splitlines()) == 7
    other = copy.deepcopy(net())
    nn.init.normal_(next(other.parameters()))
    method.plan(problem(other, Target(0.5), work=tmp_path))
    assert len(list(tmp_path.glob("adaptation-*.jsonl"))) == 2  # what is known of one network says nothing of another


@pytest.mark.parametrize(("granularity", "of"), [("units", "macs"), ("weights", "nonzero")])
def test_rounds_approach_the_target_and_meet_it(granularity: Any, of: Any) -> None:
    method = dataclasses.replace(QUICK, granularity=granularity, adaptations=3)
    result = prune(net(), None, method, Target(0.3, of), stripes(), train=FAST, latency=False)
    goals = [search.tuning.goal for search in result.searches if search.tuning]
    assert goals == [pytest.approx(goal, abs=1e-3) for goal in (0.5684, 0.4013, 0.3)][: len(goals)]
    assert len(goals) == 3
    measured = getattr(result.after.counts, of)
    assert measured <= 0.3 * getattr(result.before.counts, of)
    course = [mark for search in result.searches if search.tuning for mark in search.tuning.course]
    assert [step for step, *_ in course] == sorted(step for step, *_ in course)
    assert course[0][1] == 1.0
    assert course[-1][1] <= 0.3
    assert result.shaped[0].rows[-1].epoch == 2


def test_a_training_killed_in_any_epoch_ends_alike(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    method = FinePruning(granularity="weights", adaptations=2, trials=4, starts=3, images=64)
    target, settings = Target(0.2, "nonzero"), dataclasses.replace(FAST, epochs=3)
    whole = prune(net(), None, method, target, stripes(), train=settings, latency=False)
    for stop in ("epoch 1 of 3", "epoch 2 of 3", "search 2", "deciding"):

        def dying(event: Event, stop: str = stop) -> None:
            if event.text.startswith(stop) or f"{event.stage} {event.step}" == stop:
                raise Killed

        with pytest.raises(Killed):
            prune(
                net(), None, method, target, stripes(), train=settings, latency=False, work=tmp_path / stop, tell=dying
            )
        again = prune(net(), None, method, target, stripes(), train=settings, latency=False, work=tmp_path / stop)
        assert again.plans == whole.plans
        assert again.searches == whole.searches
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name]), (stop, name)


def test_what_was_pruned_may_return() -> None:
    """Train on, with one mask update a step, until a weight that was out is back in play."""
    model, data = net(), stripes()
    asked = problem(model, Target(0.3, "nonzero"))
    method = FinePruning(granularity="weights", adaptations=1, tune=0.0, trials=1, images=32)
    seen: list[dict[str, Tensor]] = []
    with method.shaping(asked) as shaper:
        assert shaper is not None
        original = shaper.after_step

        def watched(step: int) -> None:
            original(step)
            seen.append({n: (p != 0).clone() for n, p in model.named_parameters() if p.dim() == 4})

        shaper.after_step = watched  # type: ignore[method-assign]
        fit(model, data, dataclasses.replace(FAST, epochs=4, lr=0.3), shaper=shaper)
    came_back = sum(
        int((~early[name] & late[name]).sum()) for early, late in itertools.pairwise(seen) for name in early
    )
    assert came_back > 0
    assert size(asked.graph).nonzero * 0.3 >= sum(int((p != 0).sum()) for p in model.parameters())


def test_a_shaped_network_is_taken_as_it_is() -> None:
    model, data = net(), stripes()
    asked = problem(model, Target(0.4))
    with QUICK.shaping(asked) as shaper:
        fit(model, data, FAST, shaper=shaper)
    heard: list[Event] = []
    plan = QUICK.plan(dataclasses.replace(asked, tell=heard.append))
    assert plan.dropped()
    assert not [event for event in heard if event.stage == "search"]
    assert size(asked.graph, plan).macs <= 0.4 * size(asked.graph).macs


def test_layers_of_equal_width_are_one_stage() -> None:
    graph = trace(build("resnet20", classes=10), torch.ones(1, 3, 32, 32))
    each = Allocation.of(graph, "weights", "layer", "keep", Limits())
    tied = Allocation.of(graph, "weights", "stage", "keep", Limits())
    assert {name: len(parts) for name, parts in tied.stages.items()} == {
        "conv1.weight": 7, "layer2.0.conv1.weight": 6, "layer3.0.conv1.weight": 6, "linear.weight": 1,
    }  # fmt: skip
    assert tied.parts == each.parts
    assert len(each.stages) == len(each.parts) == 20
    assert Allocation.of(graph, "weights", "auto", "keep", Limits()).stages == each.stages


def test_the_search_is_given_every_setting() -> None:
    method = FinePruning(of="params", tradeoff=0.3, milliseconds=7.0, trials=5, starts=3, batch=2, workers=4, images=9)
    asked = problem(net(), None)
    adviser = method._adviser(asked, method._allocation(asked))
    assert adviser.goal == Goal("params", None, 0.3, 7.0)
    assert adviser.effort == Effort(5, 3, 2, 4)
    assert (adviser.rounds, adviser.images) == (5, 9)
    asked = problem(net(), Target(0.4, "units"))
    assert method._adviser(asked, method._allocation(asked)).goal == Goal("units", 0.4, 0.3, 7.0)


def test_limits_are_respected() -> None:
    asked = problem(net(), Target(0.6), limits=Limits(min_units=2, multiple=4))
    plan = QUICK.plan(asked)
    for name, units in plan.dropped().items():
        assert (asked.graph.group(name).size - len(units)) % 4 == 0


@pytest.mark.slow
def test_latency_is_a_constraint() -> None:
    model = net()
    with pytest.raises(TargetError, match=r"no candidate takes at most 1e-06 ms, the fastest of 4 takes"):
        FinePruning(trials=4, starts=4, images=32, milliseconds=1e-6).plan(problem(model, Target(0.9)))
    assert FinePruning(trials=3, starts=3, images=32, milliseconds=1e4).plan(problem(model, Target(0.5))).edits


def test_constraints_that_cannot_be_met_are_refused_before_training() -> None:
    trained: list[Event] = []
    with pytest.raises(TargetError, match="remain; ask for at least that") as caught:
        prune(net(), None, QUICK, Target(1e-4), stripes(), train=FAST, latency=False, tell=trained.append)
    assert caught.value.reachable is not None
    assert not [event for event in trained if event.stage == "train"]
    with pytest.raises(TargetError, match="set the target in nonzero"):
        dataclasses.replace(QUICK, granularity="weights").plan(problem(net(), Target(0.5, "macs")))


def test_no_data_and_no_labels() -> None:
    model = net()
    graph = trace(model, torch.ones(1, 3, 8, 8))
    with pytest.raises(DataError, match="labelled images, and there are none"):
        QUICK.plan(Problem(model, graph, Target(0.5)))
    bare: Any = [torch.ones(4, 3, 8, 8)]
    with pytest.raises(DataError, match="needs labels"):
        QUICK.plan(Problem(model, graph, Target(0.5), batches=bare))


def test_networks_that_give_nan() -> None:
    model = net()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    asked = problem(net(), Target(0.5))
    with pytest.raises(ModelError, match="NaN or infinite before anything is pruned"):
        QUICK.plan(dataclasses.replace(asked, model=model))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"granularity": "maps"}, "'granularity' must be one of units, weights, not 'maps'"),
        ({"by": "share"}, "'by' must be one of .*, not 'share'"),
        ({"cooling": "fast"}, "'cooling' must be one of .*, not 'fast'"),
        ({"adaptations": 0}, "adaptations must be at least 1"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"tune": 1.0}, "tune must be in"),
        ({"band": -0.1}, "band must be in"),
        ({"gamma": float("nan")}, "'gamma' must be a finite number"),
        ({"power": -1.0}, "power must be at least 0"),
        ({"of": "bytes"}, "unknown size 'bytes'"),
        ({"granularity": "weights", "of": "macs"}, "leave the macs as they are"),
        ({"milliseconds": 0.0}, "milliseconds must be above 0"),
        ({"granularity": "weights", "milliseconds": 1.0}, "make no network faster"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        FinePruning(**options)
