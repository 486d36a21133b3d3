"""Grow-and-prune over parts, cyclic and parallel: what is dense when, what it leaves, and what a kill changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kills import Killed
from secateur.core.plan import ZeroWeights
from secateur.core.sizes.size import Target, size
from secateur.errors import SettingError, TrainingError
from secateur.methods.grow_and_prune import GrowAndPrune
from secateur.run import prune
from shaped import data, net, problem, same, settings, shaped, values, zeros

COUNTS = {"3": 172, "6": 48, "8": 360}  # of 216, 60 and 450
VARIANTS: list[dict[str, Any]] = [{}, {"turns": "parallel"}]


def test_the_layers_are_cut_in_order_into_parts_of_about_equal_size() -> None:
    asked = problem(net())
    names = dict.fromkeys((f"{name}.weight" for name in COUNTS), 1)
    assert list(GrowAndPrune(parts=2).cut(asked.graph, names).values()) == [0, 0, 1]
    assert list(GrowAndPrune(parts=3).cut(asked.graph, names).values()) == [0, 1, 2]
    assert list(GrowAndPrune(parts=9).cut(asked.graph, names).values()) == [0, 1, 2]  # a part for each
    assert list(GrowAndPrune(parts=1).cut(asked.graph, names).values()) == [0, 0, 0]


@pytest.mark.parametrize("options", [*VARIANTS, {"start": "random"}], ids=str)
def test_all_layers_but_those_of_the_part_in_turn_have_exactly_so_many_zeros(options: dict[str, Any]) -> None:
    """Of 16 steps, 3 parts have 2 turns each of 2 steps, and the end has 4."""
    seen: list[dict[str, int]] = []
    method = GrowAndPrune(ratio=0.8, **options)
    model = shaped(method, watch=lambda step, model: seen.append(zeros(model)), epochs=8, batch_size=12)
    assert len(seen) == 16
    for step, found in enumerate(seen):
        dense = [("3", "6", "8")[(step // 2) % 3]] if step < 12 else []
        assert found["0"] == found["12"] == 0
        for name, count in COUNTS.items():
            if name in dense:  # but where no gradient comes to
                assert found[name] < count / 2, (step, name)
            else:
                assert found[name] == count, (step, name)
    assert zeros(model) == {"0": 0, "12": 0, **COUNTS}


def test_weights_grow_back_and_other_ones_are_chosen_than_at_the_start() -> None:
    first: list[dict[str, Tensor]] = []
    model = shaped(GrowAndPrune(ratio=0.8, start="random"), watch=lambda step, model: first.append(values(model)))
    assert not torch.equal(model.get_parameter("8.weight") == 0, first[0]["8.weight"] == 0)
    smallest = shaped(GrowAndPrune(ratio=0.8))
    assert not torch.equal(model.get_parameter("8.weight") == 0, smallest.get_parameter("8.weight") == 0)


def test_with_one_part_both_kinds_of_turns_are_the_same() -> None:
    one, other = (shaped(GrowAndPrune(ratio=0.6, parts=1, turns=turns)) for turns in ("cyclic", "parallel"))
    assert same(one, other)
    assert not same(one, shaped(GrowAndPrune(ratio=0.6, parts=1, rounds=3)))


def test_with_several_they_are_not() -> None:
    one, other = (shaped(GrowAndPrune(ratio=0.6, turns=turns)) for turns in ("cyclic", "parallel"))
    assert not same(one, other)
    assert zeros(one) == zeros(other)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_training_killed_inside_a_turn_ends_alike(options: dict[str, Any], tmp_path: Path) -> None:
    """Turns of 18 steps, of which an epoch has 3, are 2.25 long."""
    method = GrowAndPrune(ratio=0.7, start="random", **options)
    whole = shaped(method)
    for epoch in (2, 3, 4, 6):
        with pytest.raises(Killed):
            shaped(method, path=tmp_path / "checkpoint", die=epoch)
    assert same(shaped(method, path=tmp_path / "checkpoint"), whole)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_plan_is_the_zeros_of_the_shaped_network(options: dict[str, Any]) -> None:
    method = GrowAndPrune(rounds=1, **options)
    model = shaped(method, 0.4)
    asked = problem(model, 0.4)
    plan = method.plan(asked)
    assert plan.edits
    for edit in plan.edits:
        assert isinstance(edit, ZeroWeights)
        assert torch.equal(~edit.mask(), model.get_parameter(edit.tensor) == 0)
    assert size(asked.graph, plan).nonzero <= 0.4 * size(asked.graph).nonzero


def test_a_whole_run_with_the_best_epoch_has_all_its_zeros() -> None:
    """The best epoch may be one in which a part was dense."""
    result = prune(
        net(), None, GrowAndPrune(rounds=1), Target(0.4, "nonzero"), data(), latency=False, repair=(),
        shape=settings(epochs=3, select="best"), train=settings(epochs=1),
    )  # fmt: skip
    assert result.after.counts.nonzero <= 0.4 * result.before.counts.params


def test_a_training_shorter_than_the_turns_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"changes the network 7 times, .* at least, .* has 4; train for longer"):
        shaped(GrowAndPrune(ratio=0.5), epochs=2)
    shaped(GrowAndPrune(ratio=0.5), epochs=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": -0.5}, r"ratio must be in \[0, 1\), not -0.5"),
        ({"parts": 0}, "parts must be at least 1, not 0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"turns": "both"}, "'turns' must be one of cyclic, parallel, not 'both'"),
        ({"start": "dense"}, "'start' must be one of magnitude, random, not 'dense'"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        GrowAndPrune(**options)
