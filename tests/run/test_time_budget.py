"""Minutes after the cut: the repair, then training in the time that is left. The clock is a counter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import images
from secateur.artifact import document, load
from secateur.core.graph import tensor_of
from secateur.core.plan import ZeroWeights
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.data import Data
from secateur.errors import DataError, SettingError
from secateur.events import Event
from secateur.measure import quality
from secateur.methods.magnitude import Magnitude
from secateur.methods.random_masks import RandomMasks
from secateur.recipe import Recipe
from secateur.report import outcome, page
from secateur.report.minutes import used
from secateur.report.summary import verification
from secateur.run import Result, Step, prune
from secateur.run import time_budget as module
from secateur.training import Settings


class Ticks:
    """A clock that is a second later whenever it is read."""

    def __init__(self, kill: float = float("inf")) -> None:
        self.seconds, self.kill = 0.0, kill

    def __call__(self) -> float:
        self.seconds += 1.0
        if self.seconds > self.kill:
            raise KeyboardInterrupt
        return self.seconds


@pytest.fixture(autouse=True)
def _ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "clock", Ticks())


@pytest.fixture(scope="module")
def unlabelled() -> Tensor:
    return torch.randn(100, 3, 8, 8, generator=torch.Generator().manual_seed(4))


def pruned(net: nn.Module, **more: Any) -> Result:
    return prune(net, **{"method": "random_units", "target": 0.3, "latency": False, "minutes": 2, **more})


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_no_minutes_are_the_repair_alone(trained: nn.Module, data: Data, train: Settings) -> None:
    bare = prune(trained, None, "random_units", 0.3, data, latency=False)
    result = pruned(trained, data=data, train=train, minutes=0)
    assert same(result.model, bare.model)
    assert result.stages.keys() == bare.stages.keys()
    assert result.histories == ()
    assert result.minutes is not None
    assert (result.minutes.way, result.minutes.steps, result.minutes.gained) == ("none", 0, False)
    [text] = used(document(result))
    assert text.startswith("Of 0 minutes the repair took ")
    assert text.endswith("; nothing was trained, for no time was given for it.")
    assert bare.minutes is None
    assert used(document(bare)) == []


def test_with_labels_it_is_fine_tuned_in_time(trained: nn.Module, data: Data) -> None:
    result = pruned(trained, data=data, target=0.2)
    repaired = pruned(trained, data=data, target=0.2, minutes=0)
    found = result.minutes
    assert found is not None
    assert (found.way, found.held_out, found.ended) == ("fine-tuning", 20, "the time was up")
    assert 100 < found.repair + found.training <= 120
    before, after = (quality(net, data.batches("val")) for net in (repaired.model, result.model))
    assert found.gained
    assert (found.metric_before, found.metric_after) == (before.value, after.value)
    assert found.after == pytest.approx(after.loss, rel=1e-5)
    assert (after.value, -after.loss) > (before.value, -before.loss)
    assert list(result.stages) == ["dense", "cut", "repaired", "fine-tuned"]
    assert result.middle is not None
    assert result.middle.quality == repaired.after.quality
    written = document(result)
    assert json.loads(json.dumps(written["minutes"]))["steps"] == found.steps
    first, second = used(written)
    assert f"{found.steps:,} steps of fine-tuning with labels" in first
    assert second.startswith("On 20 validation images accuracy went from ")
    assert ", fine-tuned in " in outcome(written)
    assert verification(written).startswith("Before its repair and fine-tuning, the")


def test_the_time_of_fine_tuning_is_called_that(trained: nn.Module, data: Data, tmp_path: Path) -> None:
    pruned(trained, data=data).save(tmp_path / "out")
    text = page.write(tmp_path / "out").read_text("utf-8")
    assert "<td>fine-tuning</td>" in text
    assert "<td>distilling</td>" not in text


def test_without_labels_the_dense_network_teaches(trained: nn.Module, unlabelled: Tensor, tmp_path: Path) -> None:
    kept = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    result = pruned(trained, calibrate=unlabelled)
    repaired = pruned(trained, calibrate=unlabelled, minutes=0)
    found = result.minutes
    assert found is not None
    assert (found.way, found.held_out, found.gained) == ("distillation", 20, True)
    assert (found.metric_before, found.metric_after) == (None, None)
    assert found.before is not None
    assert found.after is not None
    assert found.after < found.before
    assert not same(result.model, repaired.model)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in trained.state_dict().items())
    assert list(result.stages) == ["dense", "repaired", "distilled"]
    assert "the squared error against the dense network went from " in used(document(result))[1]
    assert ", distilled in " in outcome(document(result))
    result.save(tmp_path / "out")
    assert load(tmp_path / "out", dense=trained).measurement["minutes"]["gained"] is True
    text = page.write(tmp_path / "out").read_text("utf-8")
    assert "steps of distillation from the dense network" in text
    assert "<td>distilling</td>" in text
    assert "<td>fine-tuning</td>" not in text
    assert repr(result).endswith("; repaired by reconstruct; distilled>")


def test_what_is_no_better_is_not_returned(trained: nn.Module, data: Data, unlabelled: Tensor, train: Settings) -> None:
    """A rate that destroys the network with labels; and nothing to win where little is gone."""
    dots = torch.zeros(64, 3, 8, 8)
    dots[:, 0, 0, 0] = torch.arange(64) * 1e-30  # of which nothing is left
    for more in ({"data": data, "train": replace(train, lr=50.0, epochs=9)}, {"calibrate": dots}):
        result, repaired = pruned(trained, **more), pruned(trained, **more, minutes=0)
        found = result.minutes
        assert found is not None
        assert not found.gained
        assert found.after == found.before
        assert same(result.model, repaired.model)
        assert list(result.stages) == list(repaired.stages)
        assert result.middle is None
        assert "the network is the one from before" in used(document(result))[1]
        assert "Before its repair, the" in verification(document(result))


def test_epochs_are_an_upper_bound(trained: nn.Module, data: Data, train: Settings) -> None:
    result = pruned(trained, data=data, train=replace(train, epochs=3))
    assert result.minutes is not None
    assert (result.minutes.passes, result.minutes.steps) == (3.0, 15)
    assert result.minutes.ended == "the epochs that were asked for were over"


def test_images_that_are_too_few_teach_nothing(trained: nn.Module, unlabelled: Tensor) -> None:
    result = pruned(trained, calibrate=unlabelled[:31])
    assert result.minutes is not None
    assert result.minutes.ended == "31 images are too few: 16 to learn from and 16 to judge by are the least"
    assert same(result.model, pruned(trained, calibrate=unlabelled[:31], minutes=0).model)
    grey = pruned(trained, calibrate=torch.rand(64, 3, 1, 1).expand(64, 3, 8, 8)).minutes
    assert grey is not None
    assert grey.ended.startswith("0 images are too few")  # those of a single colour are none
    enough = pruned(trained, calibrate=unlabelled[:32]).minutes
    assert enough is not None
    assert enough.held_out == 16


def test_a_network_that_is_not_cut_is_not_trained(trained: nn.Module, unlabelled: Tensor) -> None:
    result = pruned(trained, calibrate=unlabelled, target=1.0)
    assert result.minutes is not None
    assert result.minutes.ended == "nothing was cut"
    assert "there was no repair; nothing was trained, for nothing was cut." in used(document(result))[0]
    assert same(result.model, trained)


def test_the_last_round_is_trained_and_zeros_of_all_rounds_stay(trained: nn.Module, data: Data) -> None:
    kernels = RandomMasks(granularity="kernels", ratio=0.5, candidates=3)
    then = [Step(Magnitude(), Target(0.2))]
    result = pruned(trained, data=data, method=kernels, target=None, then=then, limits=Limits(multiple=1))
    assert result.histories == ()
    assert result.minutes is not None
    assert result.minutes.gained
    first, second = result.plans
    (mask,) = [edit.mask() for edit in first.edits if isinstance(edit, ZeroWeights)]
    rows, columns = (
        [unit for unit in range(width) if unit not in second.dropped()[group]]
        for group, width in (("2.0", 16), ("0.0", 8))
    )
    left = mask[rows][:, columns]
    assert bool((~left).any())
    assert torch.equal(tensor_of(result.model, "2.0.weight") == 0, ~left)


def test_a_killed_run_goes_on(
    trained: nn.Module, unlabelled: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "clock", Ticks(kill=70))
    with pytest.raises(KeyboardInterrupt):
        pruned(trained, calibrate=unlabelled, work=tmp_path)
    heard: list[Event] = []
    monkeypatch.setattr(module, "clock", again := Ticks())
    result = pruned(trained, calibrate=unlabelled, work=tmp_path, tell=heard.append)
    assert any("going on after step" in event.text for event in heard)
    assert again.seconds < 80
    found = result.minutes
    assert found is not None
    assert found.repair + found.training <= 120
    assert found.gained
    monkeypatch.setattr(module, "clock", third := Ticks())
    rerun = pruned(trained, calibrate=unlabelled, work=tmp_path)
    assert third.seconds < 5
    assert same(rerun.model, result.model)
    assert rerun.minutes is not None
    assert (rerun.minutes.steps, rerun.minutes.before, rerun.minutes.after) == (found.steps, found.before, found.after)


@pytest.mark.parametrize("minutes", [-1, float("nan"), float("inf"), "two", True])
def test_what_is_no_number_of_minutes_is_refused(trained: nn.Module, unlabelled: Tensor, minutes: Any) -> None:
    with pytest.raises(SettingError, match="minutes must be a number of minutes of at least 0, not "):
        pruned(trained, calibrate=unlabelled, minutes=minutes)
    with pytest.raises(SettingError, match="'minutes' must be a number of minutes of at least 0"):
        Recipe(model="resnet20", method="magnitude", minutes=minutes)


def test_minutes_need_images_and_one_process(
    trained: nn.Module, unlabelled: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"minutes need images, labels or not; give calibrate= or data="):
        prune(trained, images(1), target=0.5, minutes=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="minutes are for one process"):
        pruned(trained, calibrate=unlabelled)


def test_a_recipe_carries_them(trained: nn.Module) -> None:
    recipe = Recipe(model="resnet20", method="magnitude", calibrate="pictures", minutes=3)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert recipe.minutes == 3.0
    assert recipe.name() != replace(recipe, minutes=None).name()
