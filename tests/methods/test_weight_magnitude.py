"""Thresholds by the deviation of a layer: how much goes at which quality, in rounds, and with a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kills import Killed
from secateur.core.plan import EMPTY, ZeroWeights
from secateur.core.sizes.size import size
from secateur.errors import SettingError, TargetError, TrainingError
from secateur.methods import make
from secateur.methods.weight_magnitude import WeightMagnitude, scores
from shaped import net, problem, same, shaped, values, zeros


@pytest.mark.parametrize(("quality", "share"), [(0.25, 0.197), (0.5, 0.383), (1.0, 0.683), (1.5, 0.866), (2.0, 0.954)])
def test_of_gaussian_weights_a_quality_removes_what_the_normal_distribution_says(quality: float, share: float) -> None:
    weights = torch.distributions.Normal(0.0, 0.3).icdf((torch.arange(100_000) + 0.5).double() / 100_000)
    assert float((scores(weights, quality) < 1).double().mean()) == pytest.approx(share, abs=1e-3)


def test_thresholds_by_hand() -> None:
    """Zeros are out of play, so that the deviation of 3 and -3 and 1 and -1 is that of these four, sqrt(5)."""
    weights = torch.tensor([3.0, 0.0, -3.0, 1.0, -1.0, 0.0])
    found = scores(weights, 0.5)
    assert found.tolist() == pytest.approx([abs(w) / (0.5 * 5**0.5) for w in weights.tolist()])
    assert scores(weights, 0.0).tolist() == [float("inf")] * 6
    same_size = scores(torch.tensor([2.0, 2.0, 0.0]), 3.0)
    assert (same_size < 1).tolist() == [False, False, True]
    assert bool(torch.isfinite(same_size).all())


def threshold(model: nn.Module, name: str, quality: float) -> Tensor:
    weight = model.get_parameter(name).detach()
    return weight.abs() < quality * weight.double().std(correction=0)


def test_each_layer_has_its_own_threshold_and_quality() -> None:
    model = net()
    method = WeightMagnitude(quality=0.5, qualities=(("8", 1.5), ("0", 0.0)))
    plan = method.plan(problem(model))
    gone = {edit.tensor: ~edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}
    assert set(gone) == {"3.weight", "6.weight", "8.weight", "12.weight"}
    for name, mask in gone.items():
        assert torch.equal(mask, threshold(model, name, 1.5 if name == "8.weight" else 0.5))
    assert make("weight_magnitude", {"qualities": {"8": 1.5, "0": 0.0}, "quality": 0.5}) == method


def test_a_target_is_one_factor_to_all_qualities() -> None:
    model = net()
    asked = problem(model, 0.3)
    plan = WeightMagnitude(quality=2.0, qualities=(("8", 0.5),)).plan(asked)
    whole = size(asked.graph).nonzero
    assert size(asked.graph, plan).nonzero == int(0.3 * whole)
    factors: dict[str, tuple[float, float]] = {}
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        ranks = scores(model.get_parameter(edit.tensor), 0.5 if edit.tensor == "8.weight" else 2.0)
        others = edit.mask() & (ranks < ranks.max())  # a layer keeps its largest weight
        factors[edit.tensor] = float(ranks[~edit.mask()].max()), min([*ranks[others].tolist(), float("inf")])
    assert max(low for low, _ in factors.values()) <= min(high for _, high in factors.values())
    assert plan == WeightMagnitude(quality=4.0, qualities=(("8", 1.0),)).plan(asked)
    assert WeightMagnitude().plan(problem(model, 1.0)) == EMPTY


def test_every_layer_keeps_its_largest_weight_and_what_cannot_be_met_is_refused() -> None:
    model = net()
    with pytest.raises(TargetError, match="with all but one zeroed in every prunable layer") as caught:
        WeightMagnitude().plan(problem(model, 0.01))
    assert caught.value.reachable is not None
    plan = WeightMagnitude().plan(problem(model, caught.value.reachable))
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        weight = model.get_parameter(edit.tensor).detach().abs()
        assert torch.equal(edit.mask(), weight == weight.max())
    with pytest.raises(TargetError) as spared:
        WeightMagnitude(qualities=(("8", 0.0),)).plan(problem(model, caught.value.reachable))
    assert spared.value.reachable is not None
    assert spared.value.reachable > caught.value.reachable + 0.3


def test_weights_go_in_rounds_and_dropout_follows() -> None:
    """Six epochs of three steps: a third of what the target asks for goes before steps 0, 6 and 12."""
    seen: list[int] = []
    rates: list[float] = []

    def watch(step: int, model: nn.Module) -> None:
        seen.append(sum(zeros(model).values()))
        rates.append(model.get_submodule("11").p)
        left = int((model.get_parameter("12.weight") != 0).sum())
        assert rates[-1] == pytest.approx(0.25 * (left / 15) ** 0.5)

    model = shaped(WeightMagnitude(), 0.25, watch=watch)
    whole = sum(p.numel() for p in model.parameters())
    goal = whole - int(0.25 * whole)
    assert seen == [goal * (step // 6 + 1) // 3 for step in range(18)]
    assert rates == sorted(rates, reverse=True)
    assert model.get_submodule("11").p < 0.25
    assert shaped(WeightMagnitude(dropout=False), 0.25).get_submodule("11").p == 0.25


def test_without_a_target_round_by_round_a_share_of_the_quality_counts() -> None:
    begun, seen = values(net()), list[dict[str, Tensor]]()
    model = shaped(WeightMagnitude(rounds=2), watch=lambda step, model: seen.append(values(model)))
    for name in ("3.weight", "8.weight"):
        assert torch.equal(seen[0][name] == 0, begun[name].abs() < 0.5 * begun[name].double().std(correction=0))
        before = seen[8][name]
        limit = before[before != 0].double().std(correction=0)
        assert torch.equal(seen[9][name] == 0, before.abs() < limit)
        assert int((seen[9][name] == 0).sum()) > int((before == 0).sum())
    plan = WeightMagnitude(rounds=2).plan(replace(problem(model), shaped=True))
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        assert torch.equal(~edit.mask(), model.get_parameter(edit.tensor) == 0)
    assert {edit.tensor for edit in plan.edits if isinstance(edit, ZeroWeights)} >= {"3.weight", "8.weight"}


def test_a_network_that_has_zeros_and_was_not_shaped_loses_its_small_weights() -> None:
    model = net()
    with torch.no_grad():
        for layer in (it for it in model.modules() if isinstance(it, (nn.Conv2d, nn.Linear))):
            layer.weight.view(-1)[0] = 0.0
    plan = WeightMagnitude().plan(problem(model))
    assert len(plan.edits) == 5
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        weight = model.get_parameter(edit.tensor).detach().double()
        assert torch.equal(edit.mask(), weight.abs() >= weight[weight != 0].std(correction=0))


def test_the_plan_with_a_target_is_the_zeros_of_the_shaped_network() -> None:
    model = shaped(WeightMagnitude(), 0.25)
    asked = problem(model, 0.25)
    plan = WeightMagnitude().plan(asked)
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        assert torch.equal(~edit.mask(), model.get_parameter(edit.tensor) == 0)
    assert size(asked.graph, plan).nonzero == int(0.25 * size(asked.graph).nonzero)


def test_a_quality_of_zero_is_a_plain_training_but_for_the_optimizer() -> None:
    """Which starts anew in each round, and so with one round at its first step, where it knows nothing yet."""
    assert same(shaped(WeightMagnitude(quality=0.0, rounds=1)), shaped(None))
    assert not same(shaped(WeightMagnitude(quality=0.0, rounds=2)), shaped(None))


@pytest.mark.parametrize("keep", [None, 0.3])
def test_a_training_killed_in_any_round_ends_alike(keep: float | None, tmp_path: Path) -> None:
    method = WeightMagnitude(rounds=4)
    whole = shaped(method, keep)
    for epoch in (2, 4, 6):
        with pytest.raises(Killed):
            shaped(method, keep, path=tmp_path / "checkpoint", die=epoch)
    again = shaped(method, keep, path=tmp_path / "checkpoint")
    assert same(again, whole)
    assert again.get_submodule("11").p == whole.get_submodule("11").p < 0.25


def test_what_the_qualities_cannot_mean_is_refused() -> None:
    with pytest.raises(SettingError, match=r"a quality of 9 removes all weights of '0', the largest of which is \d"):
        shaped(WeightMagnitude(quality=9.0))
    with pytest.raises(SettingError, match="quality of 9 removes all weights"):
        WeightMagnitude(qualities=(("12", 9.0),)).plan(problem(net()))
    with pytest.raises(SettingError, match=r"no layer whose weights may go matches 'fc' of 'qualities'"):
        WeightMagnitude(qualities=(("fc", 1.0),)).plan(problem(net()))
    with pytest.raises(TargetError, match="set the target in nonzero"):
        WeightMagnitude().check(problem(net(), 0.5, "params").target)
    with pytest.raises(TrainingError, match="changes the network 30 times"):
        shaped(WeightMagnitude(rounds=30))
    model = net()
    nn.init.constant_(model[6].weight, float("nan"))
    with pytest.raises(SettingError, match="weights of '6' contain NaN"):
        WeightMagnitude().plan(problem(model))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quality": -1.0}, "quality must be at least 0, not -1.0"),
        ({"qualities": (("0", -2.0),)}, "quality of '0' must be at least 0, not -2.0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        WeightMagnitude(**options)


def test_an_infinite_weight_does_not_take_all_others_with_it() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = float("inf")
    with pytest.raises(SettingError, match="the weights of '3' contain NaN or infinity"):
        WeightMagnitude().plan(problem(model))
