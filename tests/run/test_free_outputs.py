"""Whole runs on networks that return features beside their scores, whose widths may change."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nets import Head, conv, images, lived_in
from secateur import artifact
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Block, Plan, Regroup
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.surgery import apply, relative_difference, run, tensors_in
from secateur.core.trace import trace
from secateur.data import Data, load_calibration
from secateur.errors import ArtifactError, SettingError, TargetError
from secateur.export import export_pt2
from secateur.recipe import Recipe
from secateur.repair import fold_constants, helps
from secateur.run import Result, prune, run_recipe, work_folder
from secateur.training import Settings

FREE, ANY = ("feats",), Limits(multiple=1)


class Features(nn.Module):
    """Class scores, and beside them the maps of two depths and what a neck makes of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.neck, self.head = conv(3, 12), conv(12, 16), conv(16, 8, 1), Head(16)

    def forward(self, x: Tensor) -> dict[str, Any]:
        stem = self.stem(x)
        last = self.last(stem)
        return {"logits": self.head(last), "feats": [stem, {"last": last, "neck": self.neck(last)}]}


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    return lived_in(Features()).eval()


def widths(model: nn.Module) -> list[int]:
    return [tensor.shape[1] for tensor in tensors_in(run(model, images(1)))]


def pruned(model: nn.Module, example: Any = None, **more: Any) -> Result:
    asked = {"method": "magnitude", "target": 0.5, "free_outputs": FREE, "limits": ANY, "latency": False, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left out, and no repair is found to be worse
        return prune(model, example, **asked)


def test_scores_keep_their_width_and_features_need_not(dense: nn.Module) -> None:
    with pytest.raises(TargetError, match=r"free_outputs frees those it names"):
        pruned(dense, images(1), free_outputs=())
    with pytest.raises(SettingError, match="no output of the network matches 'features'"):
        pruned(dense, images(1), free_outputs="features")
    result = pruned(dense, images(1))
    scores, *features = widths(result.model)
    assert scores == 5
    assert all(now < before for now, before in zip(features, (12, 16, 8), strict=True))
    assert result.plans[0].free_outputs == FREE
    assert result.verification <= 1e-4


def test_rounds_repairs_and_fine_tuning(dense: nn.Module, data: Data, train: Settings) -> None:
    result = pruned(
        dense, data=data, method="reconstruction", target=0.3, rounds=2, train=replace(train, distill=0.5), repair=None
    )
    assert [plan.free_outputs for plan in result.plans] == [FREE, FREE]
    assert {each.step for each in result.repairs} == {"reconstruct"}
    assert widths(result.model)[0] == 5
    assert sum(widths(result.model)) < 41
    assert result.after.quality is not None


def test_distillation_compares_what_all_rounds_have_left_of_the_features(dense: nn.Module) -> None:
    result = pruned(dense, images(1), calibrate=images(64), rounds=2, target=0.4, minutes=0.02, repair=("fold",))
    assert len(result.plans) == 2
    assert result.minutes is not None
    assert result.minutes.way == "distillation"
    assert result.minutes.before is not None
    assert 0 < result.minutes.before < 2  # relative to the size of the outputs


def test_repairs_are_judged_by_what_is_left_of_the_features(dense: nn.Module) -> None:
    folded = pruned(dense, images(1), calibrate=images(64), repair=("fold",))
    assert [each.step for each in folded.repairs] == ["fold"]
    graph = trace(dense, images(1), free_outputs=FREE)
    few = load_calibration(images(24))
    thin = apply(dense, graph, folded.plans[0])
    assert helps(("reconstruct",), dense, thin, graph, folded.plans[0], few.batches, 0)


def test_constants_fold_into_what_is_left(dense: nn.Module) -> None:
    torch.manual_seed(0)
    net = lived_in(Features()).eval()
    with torch.no_grad():
        net.stem[1].bias += 1  # above zero, so that a rectifier lets constants pass
        net.last[0].padding = (0, 0)
    graph = trace(net, images(2), free_outputs=FREE)
    whole = tuple(range(3))
    plan = Plan((Regroup("stem.0", (Block(tuple(range(10)), whole), Block((10, 11), ()))),))
    found = fold_constants(net, graph, plan, images(2), ANY)
    assert found is not None
    assert found[0].dropped() == {"stem.0": (10, 11)}


def test_the_result_is_saved_loaded_and_exported(dense: nn.Module, tmp_path: Path) -> None:
    result = pruned(dense, images(1), rounds=2)
    artifact.save(result, tmp_path / "result")
    loaded = artifact.load(tmp_path / "result", dense=Features())
    assert [plan.free_outputs for plan in loaded.plans] == [FREE, FREE]
    assert relative_difference(run(result.model, images(2)), run(loaded.model, images(2))) == 0
    assert loaded.measurement["example"]["output"] == [1, 5]
    assert export_pt2(result.model, images(1), tmp_path / "model.pt2").dynamic_batch


def test_another_network_than_the_one_with_these_outputs_is_refused(dense: nn.Module, tmp_path: Path) -> None:
    class Alone(Features):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)["logits"]

    artifact.save(pruned(dense, images(1)), tmp_path / "result")
    with pytest.raises(ArtifactError, match="is not the one that was pruned: the network returns a single tensor"):
        artifact.load(tmp_path / "result", dense=Alone())


def test_classes_are_told_by_an_output_that_keeps_its_width(tmp_path: Path) -> None:
    class First(Features):
        def forward(self, x: Tensor) -> Any:
            found = super().forward(x)
            return found["feats"][0], found["logits"], found["feats"][1]

    torch.manual_seed(0)
    artifact.save(pruned(lived_in(First()), images(1), free_outputs=("0", "2")), tmp_path / "result")
    assert artifact.load(tmp_path / "result", dense=First()).measurement["example"]["output"] == [1, 5]


@dataclass(frozen=True)
class Counting(ScoreMethod):
    """Counts how often it is asked."""

    paper: ClassVar[Paper] = Paper("On tests", "Ada Author", "Journal of Tests", 2020)
    calls: ClassVar[list[tuple[str, ...]]] = []

    def score(self, group: Group, problem: Problem) -> Tensor:
        return next(iter(group.rows(problem.model, "makes"))).norm(dim=1)

    def plan(self, problem: Problem) -> Plan:
        self.calls.append(problem.graph.free_outputs)
        return super().plan(problem)


def test_a_run_goes_on_only_from_one_with_the_same_free_outputs(
    dense: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_folder, "WORTH_KEEPING", 0.0)

    def again(*free: str) -> Result:
        asked = {"method": Counting(), "target": 0.9, "repair": (), "free_outputs": free, "work": tmp_path}
        return pruned(dense, images(1), **asked)

    Counting.calls.clear()
    first, same = again("feats"), again("feats")
    assert Counting.calls == [FREE]
    assert first.plans == same.plans
    assert first.plans[0].free_outputs == same.plans[0].free_outputs == FREE
    other = again("feats.*")  # names the same outputs, in other words
    assert Counting.calls == [FREE, ("feats.*",)]
    assert other.plans[0].free_outputs == ("feats.*",)


def test_a_recipe_says_it_too(tmp_path: Path) -> None:
    recipe = Recipe(
        model=f"{__file__}:Features",
        method="magnitude",
        keep=0.5,
        free_outputs=FREE,
        latency=False,
        export=(),
    )
    again = Recipe.from_toml(recipe.to_toml())
    assert again.free_outputs == FREE
    assert recipe.name() != replace(recipe, free_outputs=()).name()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the weights of Features")
        result = run_recipe(again)
    assert result.plans[0].free_outputs == FREE
    artifact.save(result, tmp_path / "result")
    assert artifact.load(tmp_path / "result", dense=Features()).recipe == result.recipe
