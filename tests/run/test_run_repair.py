"""What is repaired by default, and that nothing else than that is repaired."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import secateur
from kills import Killed
from nets import Plain, images
from secateur.artifact import document
from secateur.budget import Budget
from secateur.core.graph import tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import Block, Plan, Regroup, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import masked, run
from secateur.core.trace import trace
from secateur.core.zeros.blocks import BlockLayer
from secateur.data import Data, load_calibration
from secateur.errors import DataError, SettingError
from secateur.events import Event
from secateur.measure import quality
from secateur.methods.magnitude import Magnitude
from secateur.methods.random_masks import RandomMasks
from secateur.repair.error import squared_errors
from secateur.report import outcome
from secateur.run import Result, Step, budget_target, prune
from secateur.run import round as one_round
from secateur.tasks import Segmentation
from secateur.training import Settings, fit

KERNELS = RandomMasks(granularity="kernels", ratio=0.5, candidates=3)


def pruned(net: nn.Module, data: Data, **more: Any) -> Result:
    return prune(net, None, **{"method": "random_units", "target": 0.4, "data": data, "latency": False, **more})


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_where_there_are_images_the_cut_is_repaired_and_both_are_measured(trained: nn.Module, data: Data) -> None:
    default, bare = pruned(trained, data), pruned(trained, data, repair=())
    assert default.plans == bare.plans
    assert [each.step for each in default.repairs] == ["reconstruct"]
    assert bare.repairs == ()
    assert bare.cut is None
    assert list(bare.stages) == ["dense", "cut"]
    assert list(default.stages) == ["dense", "cut", "repaired"]
    assert default.cut is not None
    assert default.stages["cut"] == default.cut == replace(bare.after, latency=None)
    assert default.after.quality == quality(default.model, data.batches("test", 256))
    assert default.after.quality is not None
    assert default.cut.quality is not None
    assert default.after.quality.loss < default.cut.quality.loss
    assert same(pruned(trained, data, repair=("reconstruct",)).model, default.model)
    assert "repair" in default.seconds
    assert "% cut and " in outcome(document(default))
    assert "% repaired (" in outcome(document(default))


def test_without_images_units_are_folded_and_what_looks_at_images_is_refused(trained: nn.Module, data: Data) -> None:
    result = prune(trained, data.example(), target=0.5, latency=False)
    assert [each.step for each in result.repairs] == ["fold"]
    assert result.repairs[0].layers
    assert result.cut is None
    assert list(result.stages) == ["dense", "repaired"]
    bare = prune(trained, data.example(), target=0.5, latency=False, repair=())
    assert result.plans == bare.plans
    assert not same(result.model, bare.model)
    test = data.batches("test", 256)
    assert quality(result.model, test).loss < quality(bare.model, test).loss
    with pytest.raises(DataError, match="repairs need images, labels or not; give calibrate"):
        prune(trained, images(1), target=0.5, repair="reconstruct")


def test_without_images_shares_are_estimated_from_weights_and_a_note_says_so(trained: nn.Module, data: Data) -> None:
    result = prune(trained, data.example(), "reconstruction", target=0.5, latency=False)
    assert "there are no images, so what layers lose is estimated from weights alone" in result.plans[0].notes[0]
    assert [each.step for each in result.repairs] == ["fold"]
    with_images = prune(trained, None, "reconstruction", target=0.5, data=data, latency=False)
    assert not any("no images" in note for note in with_images.plans[0].notes)


def test_a_network_that_is_not_cut_is_not_repaired(trained: nn.Module, data: Data) -> None:
    result = pruned(trained, data, target=1.0)
    assert result.repairs == ()
    assert same(result.model, trained)


def test_the_proof_is_of_the_cut_and_comes_before_the_repair(
    trained: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    verify, repair = one_round.prove, one_round.repair
    monkeypatch.setattr(one_round, "prove", lambda *a, **k: (seen.append("verify"), verify(*a, **k))[1])
    monkeypatch.setattr(one_round, "repair", lambda *a, **k: (seen.append("repair"), repair(*a, **k))[1])
    result = pruned(trained, data, rounds=2)
    assert seen == ["verify", "repair", "verify", "repair"]
    assert result.verification < 1e-5
    one = pruned(trained, data)
    graph = trace(trained, data.example())
    with masked(trained, graph, one.plans[0]) as silenced:
        assert not torch.allclose(run(silenced, data.example()), run(one.model, data.example()), atol=1e-3)


def test_fine_tuning_begins_with_the_repaired_network(trained: nn.Module, data: Data, train: Settings) -> None:
    alone, tuned = pruned(trained, data), pruned(trained, data, train=train)
    assert list(tuned.stages) == ["dense", "cut", "repaired", "fine-tuned"]
    assert tuned.cut == alone.cut
    assert tuned.middle is not None
    assert tuned.middle.quality == alone.after.quality
    assert tuned.stages["fine-tuned"] == tuned.after
    fit(alone.model, data, train, seed=1)
    assert same(alone.model, tuned.model)


def test_a_result_says_in_one_line_what_each_step_did_to_the_accuracy(
    trained: nn.Module, data: Data, train: Settings
) -> None:
    result = pruned(trained, data, train=train)
    assert list(result.stages) == ["dense", "cut", "repaired", "fine-tuned"]
    known = [found.quality.value for found in result.stages.values() if found.quality is not None]
    numbers = "dense {:.2f} %, cut {:.2f} %, repaired {:.2f} %, fine-tuned {:.2f} %".format(*(100 * it for it in known))
    assert repr(result).endswith(f"; repaired by reconstruct; test accuracy {numbers}>")
    assert "\n" not in repr(result)
    bare = repr(pruned(trained, data, repair=()))
    assert "repaired" not in bare
    assert "; test accuracy dense " in bare
    unlabelled = repr(prune(trained, data.example(), "magnitude", 0.5, repair="fold", latency=False))
    assert "accuracy" not in unlabelled


def test_statistics_are_not_estimated_anew_after_a_fit(trained: nn.Module, data: Data, train: Settings) -> None:
    heard: list[Event] = []
    fresh = replace(train, epochs=0, recalibrate=True)
    result = pruned(trained, data, train=fresh, tell=heard.append)
    assert result.middle is not None
    assert result.after.quality == result.middle.quality
    assert [event.text for event in heard if event.stage == "warning"] == [
        "without recalibrate before fine-tuning: it would undo part of the repair"
    ]
    bare = pruned(trained, data, train=fresh, repair=())
    assert bare.middle is not None
    assert bare.after.quality != bare.middle.quality


def test_each_round_is_repaired_and_the_last_cut_is_reported(trained: nn.Module, data: Data, train: Settings) -> None:
    result = pruned(trained, data, rounds=2, train=train)
    assert [each.step for each in result.repairs] == ["reconstruct"] * 2
    assert result.cut is not None
    assert result.cut.counts == result.after.counts


def test_zeroed_weights_stay_zero(trained: nn.Module, data: Data) -> None:
    """Those of the round itself, and those of an earlier one in a layer that loses inputs."""
    then = [Step(Magnitude(), Target(0.5))]
    result = pruned(trained, data, method=KERNELS, target=None, then=then, limits=Limits(multiple=1))
    first, second = result.plans
    assert [each.step for each in result.repairs] == ["reconstruct"] * 2
    (mask,) = [edit.mask() for edit in first.edits if isinstance(edit, ZeroWeights)]
    rows, columns = (
        [unit for unit in range(width) if unit not in second.dropped()[group]]
        for group, width in (("2.0", 16), ("0.0", 8))
    )
    left = mask[rows][:, columns]
    assert bool((~left).any())
    assert len(columns) < 8
    assert torch.equal(tensor_of(result.model, "2.0.weight") == 0, ~left)


@dataclass(frozen=True)
class Blocks(Method):
    """Two blocks, and two filters that read nothing and send a constant."""

    paper: ClassVar[Paper] = Paper("On blocks", "Ada Author", "Journal of Tests", 2020)

    def plan(self, problem: Problem) -> Plan:
        first, second = tuple(range(7)), tuple(range(7, 14))
        return Plan((Regroup("2.0", (Block(first, (0, 1, 2, 3)), Block(second, (4, 5, 6, 7)), Block((14, 15), ()))),))


def test_blocks_stay_blocks_and_filters_that_read_nothing_go_all_the_same(
    trained: nn.Module, data: Data, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"method": Blocks(), "target": None, "limits": Limits(multiple=1)}
    default, bare = pruned(trained, data, **asked), pruned(trained, data, **asked, repair=())
    assert default.plans == bare.plans
    assert default.plans[0].dropped() == {"2.0": (14, 15)}
    assert default.after.counts == bare.after.counts
    assert isinstance(default.model.get_submodule("2.0"), BlockLayer)
    assert default.cut is not None
    assert default.cut.quality is not None
    assert default.after.quality is not None
    assert default.after.quality.loss <= default.cut.quality.loss
    loaded = secateur.load(default.save(tmp_path / "out"), dense=trained)
    x = images(4)
    torch.testing.assert_close(run(loaded.model, x), run(default.model, x), rtol=0, atol=0)
    folded = pruned(trained, data, **asked, repair=("compensate",))  # which sees to constants itself
    assert folded.plans[0].dropped() == {}


def test_a_drop_of_accuracy_is_that_of_the_repaired_network(trained: nn.Module, data: Data) -> None:
    result = pruned(trained, data, method="magnitude", target=None, budget=Budget(max_drop=0.15))
    dense, thin = (quality(network, data.batches("val")).value for network in (trained, result.model))
    assert result.budget["drop"]["found"] == pytest.approx(dense - thin)
    bare = pruned(trained, data, method="magnitude", target=None, budget=Budget(max_drop=0.15), repair=())
    assert result.after.counts.macs <= bare.after.counts.macs
    with pytest.raises(
        SettingError, match=r"accuracy is a share, which cannot lose more than 1; set 0\.05 for 5 points"
    ):
        pruned(trained, data, method="magnitude", target=None, budget=Budget(max_drop=5))


def test_a_repair_outlives_a_kill(
    trained: nn.Module, data: Data, train: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another device its sums would come out a little different, and the training would begin once more."""
    whole = pruned(trained, data, train=train)

    def dying(event: Event) -> None:
        if event.text.startswith("epoch 2 of 2"):
            raise Killed

    with pytest.raises(Killed):
        pruned(trained, data, train=train, work=tmp_path, tell=dying)

    def never(*args: object, **how: object) -> None:
        raise AssertionError("it was repaired once more")

    heard: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(one_round, "repair", never)
        again = pruned(trained, data, train=train, work=tmp_path, tell=lambda event: heard.append(event.text))
    assert same(again.model, whole.model)
    assert again.repairs == whole.repairs
    assert [text[:12] for text in heard if text.startswith("epoch")] == ["epoch 2 of 2"]
    [story] = tmp_path.glob("repaired-1-*.json")
    story.write_text("{")
    assert same(pruned(trained, data, train=train, work=tmp_path).model, whole.model)


def test_other_repairs_do_not_go_on_from_it(trained: nn.Module, data: Data, train: Settings, tmp_path: Path) -> None:
    alone = pruned(trained, data, train=train, repair=("recalibrate",))
    pruned(trained, data, train=train, work=tmp_path)
    beside = pruned(trained, data, train=train, work=tmp_path, repair=("recalibrate",))
    assert [each.step for each in beside.repairs] == ["recalibrate"]
    assert same(beside.model, alone.model)


class Counting(nn.Module):
    """Counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.net(x)


def test_the_given_network_does_not_run_for_a_repair_that_looks_at_no_image() -> None:
    found: list[float] = []
    for steps in ("none", "fold"):
        net = Counting().eval()
        prune(net, images(1), target=0.5, latency=False, repair=steps)
        found.append(float(net.passes))
    assert found[0] == found[1]


def test_images_judge_a_repair_that_looks_at_none(trained: nn.Module, data: Data) -> None:
    inputs = torch.cat([x for x, _ in data.batches("train")])[:32]
    asked: dict[str, Any] = {"calibrate": inputs, "target": 0.5, "latency": False}
    for method in ("magnitude", "reconstruction"):
        bare = prune(trained, method=method, repair="none", **asked)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mended = prune(trained, method=method, repair="fold", **asked)
        before, after = squared_errors(trained, [bare.model, mended.model], [inputs])
        assert after <= before
        left = any("without fold: it would bring the images further" in str(it.message) for it in caught)
        assert left == (mended.repairs == ())
        assert ("repaired without images (fold)" in outcome(document(mended))) != left
        assert "repaired from" not in outcome(document(mended))


def test_a_repair_that_few_images_do_not_carry_is_left_out_by_the_budget_too(
    trained: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed: list[tuple[str, ...]] = []
    taken = budget_target.taken
    monkeypatch.setattr(
        budget_target, "taken", lambda steps, *rest: weighed.append(tuple(steps)) or taken(steps, *rest)
    )
    monkeypatch.setattr(one_round, "helps", lambda *_: False)
    heard: list[Event] = []
    asked = {"method": "magnitude", "target": None, "repair": "reconstruct", "calibrate": images(20)}
    result = pruned(trained, data, **asked, budget=Budget(max_drop=0.3), tell=heard.append)
    assert set(weighed) == {("fold",)}
    assert {each.step for each in result.repairs} <= {"fold"}
    assert [event.text for event in heard if "some that it had not seen" in event.text] == [
        "without reconstruct: of so few images, some that it had not seen got worse by it; fold alone, without looking "
        "at any, is tried instead"
    ]


def test_images_of_another_size_than_the_example_are_refused_with_both_sizes() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)).flatten(1))

    large = load_calibration(torch.randn(20, 3, 12, 12))
    with pytest.raises(DataError, match=r"are 12x12 and the example is 8x8.*load_calibration\(..., image_size=8\)"):
        prune(Sized(), images(1), target=0.5, latency=False, calibrate=large)
    assert prune(Plain(), images(1), target=0.5, latency=False, calibrate=large).repairs


@pytest.mark.parametrize("each", [1, 5], ids=["few", "many"])
@pytest.mark.filterwarnings("ignore:.*unlabelled images")
def test_images_of_several_sizes_are_fitted_on_as_they_come(each: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    draw = torch.Generator().manual_seed(0)
    sizes = [(each, 3, 12 + number % 3, 14 + number % 5) for number in range(12)]
    batches = [torch.rand(size, generator=draw) for size in sizes]
    pairs = [(batch, torch.zeros(len(batch), *batch.shape[2:], dtype=torch.int64)) for batch in batches]
    asked: dict[str, Any] = {"method": "magnitude", "target": 0.5, "latency": False}
    bare, fitted = (
        prune(net, data=[pairs, pairs, pairs], task=Segmentation(), **asked, repair=repair).model
        for repair in ((), ("reconstruct",))
    )
    before, after = squared_errors(net, (bare, fitted), batches)
    assert after < 0.7 * before
