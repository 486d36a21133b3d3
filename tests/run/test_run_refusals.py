"""Everything that a user can get wrong in Python: one sentence each, and nothing lost."""

from __future__ import annotations

import gc
import os
import re
import signal
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import secateur
from nets import Plain, images, make
from secateur import artifact, events, rules
from secateur.artifact import folder as folders
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.data import Data, load_calibration
from secateur.errors import (
    ArtifactError,
    DataError,
    ModelError,
    SecateurError,
    SettingError,
    TargetError,
    TrainingError,
    VerificationError,
)
from secateur.events import Event
from secateur.methods.magnitude import Magnitude
from secateur.recipe import Recipe
from secateur.run import Result, prune
from secateur.training import Settings


@dataclass(frozen=True)
class OnData(ScoreMethod):
    """Removes the units whose loss the network feels least."""

    paper: ClassVar[Paper] = Paper("On tests", "Ada Author", "Journal of Tests", 2020)

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.tensor([problem.loss_after(Plan((DropUnits(group.name, (u,)),))) for u in range(group.size)])


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"target": 0.0}, SettingError, r"keep must be in \(0, 1\], not 0.0"),
        ({"target": 1.5}, SettingError, r"keep must be in \(0, 1\], not 1.5"),
        ({"target": -1}, SettingError, r"keep must be in \(0, 1\], not -1"),
        ({"target": float("nan")}, SettingError, r"keep must be in \(0, 1\], not nan"),
        ({"target": "half"}, SettingError, r"target must be a Target or a number, not 'half'"),
        ({"target": None}, TargetError, "say how much to keep"),
        ({"target": 0.001}, TargetError, r"cannot keep only 0.001 of the macs.* 0\.\d+ remain"),
        ({"method": "magnitud"}, SettingError, r"unknown method 'magnitud' \(did you mean 'magnitude'\?\)"),
        (
            {"method": Magnitude},
            SettingError,
            r"method must be a method such as Magnitude\(norm='l2'\) or a text, not <class",
        ),
        ({"method": OnData()}, DataError, r"measures the loss on held-out images; give data="),
        ({"data": "mnist5"}, DataError, r"unknown data set 'mnist5' \(did you mean 'mnist5k'\?\)"),
        ({"model": "vgg16"}, ModelError, r"no built-in network 'vgg16' \(did you mean 'vgg16_bn'\?\)"),
        ({"rounds": 0}, SettingError, "rounds must be a whole number of at least 1 and at most 10000, not 0"),
        ({"rounds": 1.5}, SettingError, "rounds must be a whole number of at least 1 and at most 10000, not 1.5"),
        ({"seed": "a"}, SettingError, "seed must be a whole number of at least 0, not 'a'"),
        ({"seed": 2**70}, SettingError, "seed must be a whole number of at least 0 and at most 4294967295, not 118"),
        ({"calibrate_images": 2**70}, SettingError, "at least 1 and at most 16777216, not 1180591620717"),
        ({"rounds": 2**70}, SettingError, "at least 1 and at most 10000, not 1180591620717"),
        ({"train": {"epochs": 1}}, SettingError, "train must be Settings of a training, not {'epochs': 1}"),
        ({"budget": 0.5}, SettingError, r"budget must be a Budget, not 0\.5"),
        ({"repair": "polish"}, SettingError, "unknown repair 'polish'"),
        ({"model": len}, SettingError, r"model must be a network \(torch.nn.Module\) or a text, not <built-in"),
        ({"leave": ("2.1",)}, SettingError, r"matches '2\.1', .* left alone \(did you mean '2\.0'\?\)"),
        ({"leave": ("*",)}, TargetError, "nothing in Plain can be pruned.*`secateur explain`"),
        ({"train": Settings()}, DataError, "fine-tuning needs data"),
        ({"example_inputs": None}, DataError, "give example_inputs, or data or calibrate to take one image from"),
        ({"repair": "reconstruct"}, DataError, "repairs need images, labels or not; give calibrate"),
        ({"calibrate": "nowhere"}, DataError, "there is no folder or file 'nowhere'"),
        ({"calibrate": images(70)[:, :1]}, DataError, r"of shape \(1, 8, 8\) each where the network takes \(3, 8, 8\)"),
        ({"calibrate": images(70) / 0}, DataError, "hold NaN or infinite values"),
        (
            {"calibrate": images(70), "calibrate_images": 0},
            SettingError,
            "calibrate_images must be a whole number of im",
        ),
        ({"example_inputs": torch.zeros(1, 1, 8, 8)}, ModelError, r"Plain does not run on .*\(1, 1, 8, 8\)"),
        ({"example_inputs": (images(1), images(1))}, ModelError, "Plain does not run on"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(
    asked: Mapping[str, Any], error: type[SecateurError], message: str, net: nn.Module
) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(error, match=message) as caught:
        prune(**{"model": net, "example_inputs": images(1), "target": 0.5, "latency": False, **asked})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("more", [{}, {"train": None, "method": "magnitude", "repair": "reconstruct", "rounds": 2}])
def test_the_largest_seed_goes_all_the_way(more: dict[str, Any], net: nn.Module, data: Data, train: Settings) -> None:
    seed = max(2**bits - 1 for bits in range(128) if rules.SEED.accepts(2**bits - 1))
    asked = {"method": "reconstruction", "data": data, "train": replace(train, epochs=1), "seed": seed, **more}
    result = prune(net, target=0.5, latency=False, **asked)
    assert result.plans


def test_a_method_that_needs_data_works_with_it(net: nn.Module, data: Data) -> None:
    assert prune(net, None, OnData(), 0.5, data, latency=False).plans


@pytest.mark.parametrize("of", ["macs", "params", "units"])
def test_the_smallest_target_is_named_and_can_be_reached(of: Any, net: nn.Module) -> None:
    with pytest.raises(TargetError) as caught:
        prune(net, images(1), target=Target(1e-6, of), rounds=3, latency=False)
    assert caught.value.reachable is not None
    named = re.search(r"0\.\d+ remain", str(caught.value))
    assert named
    said = float(named[0].split()[0])
    assert said == pytest.approx(caught.value.reachable, rel=1e-2)
    result = prune(net, images(1), target=Target(said, of), latency=False)
    assert {width.after for width in result.widths[:2]} == {1}


def test_the_last_round_is_thought_of_before_the_first(net: nn.Module, data: Data, train: Settings) -> None:
    heard: list[Event] = []
    with pytest.raises(TargetError, match=r"cannot keep only 0\.001"):
        prune(net, None, "magnitude", 0.001, data, train=train, rounds=9, latency=False, tell=heard.append)
    assert "train" not in {event.stage for event in heard}


def test_nothing_to_prune_is_said_so() -> None:
    with pytest.raises(TargetError, match="nothing in Sequential can be pruned"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), images(1), target=0.5, latency=False)


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("2.0.weight", float("nan"), True),
        ("2.0.weight", float("inf"), True),
        ("0.1.running_var", float("nan"), True),
        ("0.1.running_var", float("inf"), False),  # masks of attention are buffers with infinite values
    ],
)
def test_weights_of_a_failed_training_are_refused(name: str, value: float, refused: bool, net: nn.Module) -> None:
    with torch.no_grad():
        net.state_dict()[name].flatten()[3] = value
    if refused:
        with pytest.raises(ModelError, match=rf"'{name}' contains NaN.*load sound weights"):
            prune(net, images(1), target=0.5, latency=False)
    else:
        assert prune(net, images(1), target=0.5, latency=False).plans


def test_training_that_fails_says_so_and_leaves_the_network(net: nn.Module, data: Data, train: Settings) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(TrainingError, match="lower 'lr'"):
        prune(net, None, "magnitude", 0.5, data, train=replace(train, lr=1e30), latency=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_an_empty_batch_is_no_example(net: nn.Module) -> None:
    with pytest.raises(DataError, match="example inputs are an empty batch"):
        prune(net, images(1)[:0], target=0.5, latency=False)


def test_a_network_with_too_few_classes_for_the_data(data: Data, train: Settings) -> None:
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises((ModelError, DataError), match="as many classes as the data has"):
        prune(small, None, "magnitude", 0.5, data, train=train, latency=False)


# optimizers


def test_a_network_in_training_is_warned_of_its_optimizer(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SAID", set())
    held = torch.optim.SGD(net.parameters(), lr=0.1)
    net(images(1)).sum().backward()
    heard: list[Event] = []
    with pytest.warns(UserWarning, match=r"an optimizer that was made for it.*result.migrate") as caught:
        result = prune(net, images(1), target=0.5, latency=False, tell=heard.append)
    assert caught[0].filename == __file__  # the caller's line, not ours
    assert [event.text for event in heard if event.stage == "warning"] == [str(caught[0].message)]
    held.step()
    assert {id(p) for group in held.param_groups for p in group["params"]}.isdisjoint(
        id(p) for p in result.model.parameters()
    )


@pytest.mark.filterwarnings("error")
def test_nobody_goes_through_the_objects_of_the_process(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads build tuples meanwhile, which must not be seen before they are whole."""

    def walked(*_: object) -> list[object]:
        raise AssertionError("walked through the objects of the process")

    monkeypatch.setattr(gc, "get_objects", walked)
    monkeypatch.setattr(gc, "get_referrers", walked)
    other = torch.optim.SGD(net.parameters(), lr=0.1)
    assert prune(net, images(1), target=0.5, latency=False).plans
    assert other.param_groups


# saving


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def results() -> tuple[Result, Result]:
    return tuple(prune(make("plain"), images(1), target=keep, latency=False) for keep in (0.5, 0.3))  # type: ignore[return-value]


def test_an_old_result_is_replaced_only_on_request(results: tuple[Result, Result], tmp_path: Path) -> None:
    old, new = results
    folder = old.save(tmp_path / "out")
    before = contents(folder)
    with pytest.raises(ArtifactError, match="exists already; choose another folder, or give force=True"):
        new.save(folder)
    assert contents(folder) == before
    new.save(folder, force=True)
    assert secateur.load(folder, dense=Plain()).plans == new.plans


@pytest.mark.parametrize(
    "file", ["plans/001.json", "weights.safetensors", "measurement.json", "environment.json", "manifest.json"]
)
def test_a_failure_while_any_file_is_written_leaves_the_old_result(
    file: str, results: tuple[Result, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = results
    folder = old.save(tmp_path / "out")
    before, write = contents(folder), folders.write_file

    def failing(path: Path, data: bytes) -> None:
        if str(path).endswith(file):
            path.write_bytes(data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(folders, "write_file", failing)
    with pytest.raises(ArtifactError, match=r"no space left on the disk.*is untouched"):
        new.save(folder, force=True)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("file", ["plans/001.json", "weights.safetensors", "manifest.json"])
def test_a_kill_while_a_file_is_written_leaves_the_old_result(
    file: str, results: tuple[Result, Result], tmp_path: Path
) -> None:
    old, new = results
    folder = old.save(tmp_path / "out")
    before, write = contents(folder), folders.write_file

    def killing(path: Path, data: bytes) -> None:
        if str(path).endswith(file):
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, data)

    process = os.fork()
    if process == 0:
        folders.write_file = killing
        try:
            new.save(folder, force=True)
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    assert contents(folder) == before
    artifact.check(folder)
    assert secateur.load(folder, dense=Plain()).plans == old.plans
    new.save(folder, force=True)  # what the killed one left behind is cleared away
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_in_a_loop_the_warning_of_optimizers_comes_once(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SAID", set())
    net(images(1)).sum().backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            prune(net, images(1), target=0.5, latency=False)
    assert ["result.migrate(optimizer)" in str(each.message) for each in caught] == [True]


# masks of torch


@pytest.mark.parametrize(
    ("hide", "tensor"),
    [
        (lambda layer: torch_prune.l1_unstructured(layer, "weight", amount=0.3), "weight"),
        (lambda layer: torch_prune.ln_structured(layer, "weight", amount=2, n=2, dim=0), "weight"),
        (lambda layer: torch_prune.identity(layer, "bias"), "bias"),
    ],
)
def test_a_mask_of_torch_is_refused_with_the_call_that_removes_it(hide: Any, tensor: str) -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 8, 3), nn.Flatten())
    hide(net[0][0])
    with pytest.raises(ModelError, match=r"'0.0' carries a mask") as error:
        prune(net, images(1), "magnitude", 0.5, latency=False)
    call = str(error.value).rpartition("with ")[2]
    assert call == f"torch.nn.utils.prune.remove(model.get_submodule('0.0'), '{tensor}')"
    eval(call, {"torch": torch, "model": net})
    assert prune(net, images(1), "magnitude", 0.9, latency=False).verification < 1e-5


# numbers and names that lead nowhere


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        pytest.param(
            "seed", 10**5000, "at least 0 and at most 4294967295, not a huge int", id="a seed of thousands of digits"
        ),
        ("rounds", 10_001, "rounds must be a whole number of at least 1 and at most 10000, not 10001"),
        ("target", 403000, r"budget=Budget\(max_macs=403000\)"),
        ("work", "", "'work' is an empty text"),
        ("progress", 3, "progress must be true or false"),
    ],
)
def test_arguments_out_of_range(net: nn.Module, argument: str, value: Any, words: str) -> None:
    with pytest.raises(SecateurError, match=words):
        prune(net, images(1), "magnitude", **{"target": 0.5, "latency": False, argument: value})


@pytest.mark.parametrize("place", ["", ".", ".."])
def test_a_result_needs_a_folder_of_its_own(
    net: nn.Module, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = prune(net, images(1), "magnitude", 0.5, latency=False)
    for force in (False, True):
        with pytest.raises(ArtifactError, match="is no name for a result; name a folder of its own"):
            result.save(place, force=force)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_what_is_there_is_replaced_by_the_argument_or_the_flag_that_the_message_names(
    net: nn.Module, tmp_path: Path
) -> None:
    result = prune(net, images(1), "magnitude", 0.5, latency=False)
    result.save(tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"or give force=True to replace it"):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", force=True)


def test_a_network_that_would_not_train_any_more_is_not_returned() -> None:
    class Narrow(nn.Module):
        """Trains with as many channels as a trial leaves, but not with few."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x).relu().mean((2, 3))
            if self.training and y.shape[1] < 6:
                raise ValueError("too narrow")
            return self.head(y)

    torch.manual_seed(0)
    assert prune(
        Narrow(), images(), method="magnitude", target=0.5, latency=False, limits=Limits(multiple=1)
    ).model.training
    with pytest.raises(VerificationError, match=r"in training mode the cut failed: .* it does not \(too narrow\)"):
        prune(Narrow(), images(), method="magnitude", target=0.2, latency=False, limits=Limits(multiple=1))


@pytest.mark.parametrize("count", [2**24 + 1, 2**53])
def test_the_same_number_of_images_is_too_many_everywhere(count: int) -> None:
    recipe = 'model = "lenet5"\ncalibrate = "a"\n[target]\nkeep = 0.5\n[method]\nname = "magnitude"\n'
    recipe = f"calibrate_images = {count}\n{recipe}"
    for attempt in (
        lambda: prune(Plain(), images(1), target=0.5, calibrate=images(70), calibrate_images=count),
        lambda: load_calibration(images(70), count=count),
        lambda: Recipe.from_toml(recipe),
    ):
        with pytest.raises(SettingError, match=f"at most {2**24}"):
            attempt()
