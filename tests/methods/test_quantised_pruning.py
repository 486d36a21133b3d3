"""Pruning while a network trains with few bits a number, from the first step to the plan and the artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import task_worlds as worlds
from kills import Killed
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.sizes.size import Target, size
from secateur.core.zeros.number_grids import lies_on_grid
from secateur.data import load_data
from secateur.errors import SettingError, TargetError, TrainingError
from secateur.measure.bit_operations import bit_operations, grids_of
from secateur.methods.quantised_pruning import PAPER, QuantisedPruning
from secateur.models import build
from secateur.report import rows, write
from secateur.report.numbers import percent, short
from secateur.run import prune
from shaped import data, net, problem, same, settings, shaped, values, zeros

QUICK = QuantisedPruning(bits=4, ratio=0.75, rounds=5)
TOTAL = 108 + 216 + 60 + 450 + 15


def gone(plan: Plan) -> dict[str, Tensor]:
    return {edit.tensor: ~edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}


def latent(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights behind the rounding."""
    found = {
        name.replace("parametrizations.", "").replace(".original", ""): tensor.detach().clone()
        for name, tensor in model.named_parameters()
        if tensor.dim() > 1
    }
    assert len(found) == 5
    return found


def test_the_steps_of_the_paper() -> None:
    course = QuantisedPruning(shares=PAPER).course()
    left = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0334, 0.0112)
    assert [course.left(stage) for stage in range(1, 12)] == pytest.approx(left, abs=6e-4)
    assert [course.stage(step, 24) for step in range(24)] == [step // 2 for step in range(24)]
    even = QuantisedPruning(ratio=0.5, rounds=4).course()
    assert [even.progress(stage) for stage in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_the_smallest_of_all_layers_go_between_equal_parts_of_the_training() -> None:
    seen: list[dict[str, Tensor]] = []
    model = shaped(QUICK, watch=lambda step, model: seen.append(latent(model)))
    for step, found in enumerate(seen):  # of 18, in six parts
        assert sum(int((tensor == 0).sum()) for tensor in found.values()) == int(int(0.75 * TOTAL) * (step // 3) / 5)
    before, after = seen[2], seen[3]
    sizes = torch.cat([tensor.abs().flatten() for tensor in before.values()])
    out = torch.cat([(tensor == 0).flatten() for tensor in after.values()])
    assert sizes[out].max() <= sizes[~out].min()
    for name, tensor in seen[-1].items():
        weight = model.get_parameter(name).detach()
        assert not bool(weight[tensor == 0].any())
        assert lies_on_grid(weight, 8 if name in ("0.weight", "12.weight") else 4)
        assert not lies_on_grid(tensor, 8)
    assert not any(parametrize.is_parametrized(layer) for layer in model.modules())


def test_lottery_begins_again_from_the_first_weights() -> None:
    first, seen = latent(net()), list[dict[str, Tensor]]()
    statistics: list[Tensor] = []

    def watch(step: int, model: nn.Module) -> None:
        seen.append(latent(model))
        statistics.append(model.get_buffer("1.num_batches_tracked").clone())

    shaped(QuantisedPruning(bits=4, ratio=0.75, rounds=5, regime="lottery"), watch=watch, lr=1e-9, optimizer="adamw")
    for step in (5, 6, 8, 17):
        for name, tensor in seen[step].items():
            kept = tensor != 0
            torch.testing.assert_close(tensor[kept], first[name][kept], atol=1e-7, rtol=0)
    assert [int(number) for number in statistics] == [1, 2, 3] * 6
    assert sum(int((tensor == 0).sum()) for tensor in seen[-1].values()) == int(0.75 * TOTAL)


def test_32_bits_is_pruning_alone() -> None:
    model = shaped(QuantisedPruning(bits=32, ratio=0.5, rounds=2))
    assert grids_of(model, (16,)) == {}
    assert sum(zeros(model).values()) == int(0.5 * TOTAL)
    assert QuantisedPruning(bits=32).grids() == ()


@pytest.mark.parametrize("regime", ["tune", "lottery"])
def test_a_training_killed_in_any_part_ends_alike(regime: Any, tmp_path: Path) -> None:
    method = QuantisedPruning(bits=4, ratio=0.75, rounds=2, regime=regime)
    whole = shaped(method)
    for epoch in (2, 4, 6):
        with pytest.raises(Killed):
            shaped(method, path=tmp_path / "checkpoint", die=epoch)
    assert same(shaped(method, path=tmp_path / "checkpoint"), whole)


def test_a_whole_run_ends_in_weights_on_the_grid_and_says_so(tmp_path: Path) -> None:
    result = prune(
        net(), None, QuantisedPruning(bits=4, rounds=2), Target(0.4, "nonzero"), data(), latency=False,
        shape=settings(epochs=3),
    )  # fmt: skip
    (plan,) = result.plans
    assert result.after.counts.nonzero <= 0.4 * result.before.counts.params
    assert all(not bool(result.model.get_parameter(name)[mask].any()) for name, mask in gone(plan).items())
    assert "the weights have been trained on grids of 4 bits, 8 in the first and the last layer" in plan.notes
    document = json.loads((result.save(tmp_path / "out") / "measurement.json").read_text())
    assert document["bits"] == {"0": 8, "3": 4, "6": 4, "8": 4, "12": 8}
    example, bits = result.example_inputs, document["bit_operations"]
    assert bits["before"] == bit_operations(result.dense, example)
    assert bits["after"] == bit_operations(result.model, example, document["bits"], 4)
    (row,) = [row for row in rows(document) if row.label.startswith("Bit operations")]
    assert row.label == "Bit operations (weights of 4 to 8 bits, what layers read of 4)"
    assert row.kept == percent(bits["after"] / bits["before"])
    assert row.values == (short(bits["before"]), short(bits["after"]))
    assert "for one image; no runtime here does. At each place a layer of m" in write(tmp_path / "out").read_text()


def test_a_single_training_is_its_own_and_nothing_follows_that_moves_weights() -> None:
    def run(**more: Any) -> Any:
        method = QuantisedPruning(bits=4, rounds=1)
        return prune(net(), None, method, Target(0.5, "nonzero"), data(), latency=False, **more)

    result = run(train=settings(epochs=1))
    assert grids_of(result.model, (4, 8)) == {"0": 8, "3": 4, "6": 4, "8": 4, "12": 8}
    assert result.repairs == ()
    with pytest.raises(SettingError, match=r"quantised_pruning trains weights on a grid of 4 bits .* a fine-tuning"):
        run(train=settings(epochs=1), shape=settings(epochs=1))
    with pytest.raises(SettingError, match="minutes of training after the cut would move them off it"):
        run(train=settings(epochs=1), minutes=1)
    assert grids_of(run().model, (4, 8)) == {}  # nothing was trained


def test_the_plan_is_the_zeros_of_the_shaped_network_and_else_the_smallest() -> None:
    method = QuantisedPruning(bits=3)
    model = net()
    asked = problem(model, 0.3)
    plan = gone(method.plan(asked))
    sizes = torch.cat([model.get_parameter(name).detach().abs()[mask] for name, mask in plan.items()])
    rest = torch.cat([model.get_parameter(name).detach().abs()[~mask] for name, mask in plan.items()])
    assert sizes.max() <= rest.min()
    assert size(asked.graph, method.plan(asked)).nonzero <= 0.3 * size(asked.graph).nonzero
    assert method.plan(problem(model, 1.0)) == EMPTY
    before = values(model)
    method.plan(asked)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_task_works_as_well(tmp_path: Path) -> None:
    here = worlds.world("restoration at a scale", tmp_path)
    read = load_data(here.data, image_size=worlds.SIDE, workers=0)
    torch.manual_seed(0)
    result = prune(
        build(here.model), None, QuantisedPruning(rounds=1), Target(0.6, "nonzero"), read, latency=False, repair=(),
        shape=settings(epochs=2, lr=0.01),
    )  # fmt: skip
    assert result.after.counts.nonzero <= 0.6 * result.before.counts.params
    assert set(grids_of(result.model, (8,)).values()) == {8}


def test_no_goal_two_goals_and_a_short_training_are_refused() -> None:
    with pytest.raises(TargetError, match="say how much goes"):
        shaped(QuantisedPruning())
    with pytest.raises(TargetError, match="set the target in nonzero"):
        QuantisedPruning().check(Target(0.5, "macs"))
    with pytest.raises(SettingError, match="both a target and a ratio"):
        QUICK.plan(problem(net(), 0.5))
    with pytest.raises(TrainingError, match=r"changes the network 30 times, .* this training has 16"):
        shaped(QuantisedPruning(ratio=0.5, rounds=30))
    with pytest.raises(TargetError, match="with all but one zeroed in every prunable layer"):
        shaped(QuantisedPruning(), 0.01)
    model = net()
    nn.init.constant_(model[6].weight, float("nan"))
    with pytest.raises(SettingError, match="weights of '6' contain NaN"):
        shaped(QUICK, model=model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 1}, "bits must be 2 to 16, or 32 to round nothing, not 1"),
        ({"ends": 20}, "ends must be 2 to 16"),
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), not 1.0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"shares": (0.5, 1.0)}, "shares must be above 0 and below 1, not 1.0"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        QuantisedPruning(**options)
