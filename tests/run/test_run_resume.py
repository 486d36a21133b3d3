"""A run that was killed goes on with the same result, and never from what another run left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from kills import Killed
from nets import Plain
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.size import Target
from secateur.data import Data
from secateur.errors import ArtifactError, TrainingError
from secateur.events import Event, ignore
from secateur.recipe import Recipe
from secateur.run import Result, prune, run_recipe, subject, work_folder
from secateur.training import Settings
from states import tensors


@dataclass(frozen=True)
class Slow(ScoreMethod):
    """Counts how often it is asked."""

    paper: ClassVar[Paper] = Paper("On tests", "Ada Author", "Journal of Tests", 2020)
    calls: ClassVar[list[int]] = []

    def score(self, group: Group, problem: Problem) -> Tensor:
        return next(iter(group.rows(problem.model, "makes"))).norm(dim=1)

    def plan(self, problem: Problem) -> Plan:
        self.calls.append(len(problem.history) + 1)
        return super().plan(problem)


def kill(stage: str, number: int) -> Callable[[Event], None]:
    """Return a listener that kills at the ``number``-th event of a stage that has a text."""
    seen: list[Event] = []

    def tell(event: Event) -> None:
        if event.stage == stage and event.text:
            seen.append(event)
            if len(seen) == number:
                raise Killed

    return tell


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def epochs(result: Result) -> list[list[tuple[Any, ...]]]:
    return [[(row.epoch, row.train_loss, row.val_loss, row.lr) for row in h.rows] for h in result.histories]


@pytest.fixture(scope="module")
def go(data: Data, train: Settings) -> Callable[..., Result]:
    torch.manual_seed(0)
    net = Plain()
    before = tensors(net)

    def run(folder: Path | None = None, tell: Callable[[Event], None] = ignore, **changes: Any) -> Result:
        asked: dict[str, Any] = {"method": Slow(), "target": Target(0.4), "train": train, "rounds": 2, **changes}
        result = prune(net, data=data, latency=False, work=folder, tell=tell, **asked)
        assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
        return result

    return run


@pytest.fixture(autouse=True)
def _every_decision_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_folder, "WORTH_KEEPING", 0.0)


@pytest.fixture(scope="module")
def whole(go: Callable[..., Result]) -> Result:
    """Return what comes out when nothing is killed."""
    return go()


@pytest.mark.parametrize(
    ("stage", "number"),
    [("apply", 1), ("train", 1), ("plan", 2), ("apply", 2), ("train", 3), ("measure", 3)],
)
def test_after_a_kill_the_same_call_gives_the_same_result(
    stage: str, number: int, go: Callable[..., Result], whole: Result, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        go(tmp_path, kill(stage, number))
    again = go(tmp_path)
    assert same(again.model, whole.model)
    assert again.plans == whole.plans
    assert epochs(again) == epochs(whole)
    assert again.after == whole.after
    assert again.before == whole.before
    assert again.verification == whole.verification


def test_many_kills_are_as_good_as_none(go: Callable[..., Result], whole: Result, tmp_path: Path) -> None:
    Slow.calls.clear()
    for _ in range(4):  # each gets one epoch further, and dies in the next
        with pytest.raises(Killed):
            go(tmp_path, kill("train", 2))
    again = go(tmp_path)
    assert same(again.model, whole.model)
    assert Slow.calls == [1, 2]  # what was decided is not decided again


def test_a_finished_run_is_not_trained_again(go: Callable[..., Result], tmp_path: Path) -> None:
    first = go(tmp_path)
    heard: list[Event] = []
    again = go(tmp_path, heard.append)
    assert same(first.model, again.model)
    assert [e.text for e in heard if e.stage == "train" and "epoch 1 of" in e.text] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "random_units"},  # of the same widths, and so of the same shapes
        {"target": Target(0.6)},
        {"method": Slow(scope="global")},
    ],
)
def test_another_request_does_not_go_on_from_it(
    changes: dict[str, Any], go: Callable[..., Result], tmp_path: Path
) -> None:
    alone = go(**changes)
    go(tmp_path)
    beside = go(tmp_path, **changes)
    assert beside.plans == alone.plans
    assert same(beside.model, alone.model)


def test_another_network_of_the_same_shape_does_not_go_on_from_it(data: Data, train: Settings, tmp_path: Path) -> None:
    def run(seed: int, folder: Path | None) -> Result:
        torch.manual_seed(seed)
        return prune(Plain(), None, "random_units", 0.5, data, train=train, latency=False, work=folder)

    alone = run(1, None)
    run(2, tmp_path)
    assert same(run(1, tmp_path).model, alone.model)


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"epochs": 3}, {"seed": 1}], ids=str)
def test_another_training_of_the_same_network_is_refused_not_mixed(
    change: dict[str, Any], go: Callable[..., Result], train: Settings, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        go(tmp_path, kill("train", 2), repair=())  # which draws its images by the seed, so that others are trained
    other = change if "seed" in change else {"train": replace(train, **change)}
    with pytest.raises(TrainingError, match=r"round-1-\w+\.ckpt belongs to another training"):
        go(tmp_path, repair=(), **other)


def test_a_damaged_plan_is_decided_again(go: Callable[..., Result], whole: Result, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go(tmp_path, kill("apply", 1))
    [path] = tmp_path.glob("plan-1-*.json")
    path.write_bytes(path.read_bytes()[:-9])
    Slow.calls.clear()
    assert go(tmp_path).plans == whole.plans
    assert Slow.calls == [1, 2]


def test_a_quick_decision_is_not_kept(
    go: Callable[..., Result], whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_folder, "WORTH_KEEPING", 1e6)
    with pytest.raises(Killed):
        go(tmp_path, kill("apply", 1))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Killed):
        go(tmp_path, kill("train", 4))
    assert same(go(tmp_path).model, whole.model)


def test_a_work_folder_that_cannot_be_is_a_sentence(go: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="choose another work folder"):
        go(tmp_path / "file")


def test_a_plan_that_cannot_be_written_is_a_sentence(
    go: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("secateur.artifact.write_file", full)
    with pytest.raises(ArtifactError, match="No space left on device; choose another work folder"):
        go(tmp_path)


@pytest.mark.parametrize("number", [2, 4])
def test_a_recipe_goes_on_in_its_dense_training_too(
    number: int, data: Data, train: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom nets import Plain\n\ndef build():\n    return Plain()\n"
    )
    monkeypatch.setattr(subject, "load_data", lambda spec, **how: data)
    recipe = Recipe(
        model=f"{tmp_path / 'net.py'}:build",
        data="colours",
        method="magnitude",
        keep=0.5,
        pretrain=replace(train, epochs=3),
        train=train,
        latency=False,
    )
    whole = run_recipe(recipe)
    with pytest.raises(Killed):
        run_recipe(recipe, work=tmp_path / "work", tell=kill("train", number))
    again = run_recipe(recipe, work=tmp_path / "work")
    assert same(again.model, whole.model)
    assert same(again.dense, whole.dense)
    assert again.pretrain is not None
    assert whole.pretrain is not None
    assert [row.train_loss for row in again.pretrain.rows] == [row.train_loss for row in whole.pretrain.rows]
