"""What becomes of a run whose images, or whose network, allow no fit: another choice and repair, and one warning."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nets import Plain, images
from secateur.artifact import document
from secateur.core.sizes.size import Target
from secateur.data import Data, load_calibration
from secateur.data.arrays import from_arrays
from secateur.errors import BranchingError, DataError, SettingError, TargetError, VerificationError
from secateur.events import Event
from secateur.methods.magnitude import Magnitude
from secateur.methods.reconstruction import Reconstruction
from secateur.recipe import Recipe
from secateur.run import Result, Step, prune, run_recipe
from secateur.run import round as one_round
from secateur.run.job import Job
from secateur.run.pipeline import Pipeline
from secateur.run.stopwatch import Clock
from secateur.training import Settings, fit

Heard = list[str]


def cut(net: nn.Module, example: Any = None, **how: Any) -> tuple[Result, Heard]:
    heard: list[Event] = []
    result = prune(net, example, **{"target": 0.5, "latency": False, "tell": heard.append, **how})
    return result, [event.text for event in heard if event.stage == "warning"]


def steps(result: Result) -> list[str]:
    return [each.step for each in result.repairs]


class Ways(nn.Module):
    """Calls its layers in another order for few images than for many."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.outer, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        pair = (self.inner, self.outer) if len(x) < 60 else (self.outer, self.inner)
        x = F.relu(self.stem(x))
        for layer in pair:
            x = x + F.relu(layer(x))
        return self.head(x.mean((2, 3)))


# a forward that takes other ways for other images


def test_where_ways_part_defaults_make_room_with_one_warning() -> None:
    result, heard = cut(Ways(), images(70)[:1], calibrate=images(180))
    assert isinstance(result.method, Magnitude)
    assert steps(result) == ["fold"]
    assert heard == [
        "the forward of Ways takes other ways for other images, so its layers cannot be fitted: magnitude chooses what "
        "goes and the repair is fold"
    ]
    with pytest.warns(UserWarning, match="takes other ways for other images.*the repair is fold"):
        prune(Ways(), images(70)[:1], target=0.5, latency=False, calibrate=images(180))


def test_what_was_asked_for_beside_a_default_stays() -> None:
    result, [text] = cut(Ways(), images(1), calibrate=images(180), repair=("recalibrate",))
    assert isinstance(result.method, Magnitude)
    assert steps(result) == ["recalibrate"]
    assert text.endswith("cannot be fitted: magnitude chooses what goes")
    result, [text] = cut(Ways(), images(1), calibrate=images(180), method="filter_std")
    assert type(result.method).__name__ == "FilterStd"
    assert steps(result) == ["fold"]
    assert text.endswith("cannot be fitted: the repair is fold")


@pytest.mark.parametrize(
    "asked",
    [
        {"repair": "reconstruct"},
        {"method": "magnitude", "repair": "reconstruct"},
        {"method": "reconstruction"},
        {"method": "reconstruction", "repair": ()},
        {"method": Magnitude(allocate="reconstruction")},
        {"then": [Step(Reconstruction(), Target(0.4))]},
    ],
    ids=str,
)
def test_where_the_fit_was_asked_for_one_sentence_refuses_it(asked: dict[str, Any]) -> None:
    heard: list[Event] = []
    with pytest.raises(BranchingError, match="takes other ways for other images"):
        prune(Ways(), images(1), target=0.5, latency=False, calibrate=images(180), tell=heard.append, **asked)
    assert [event.text for event in heard if event.stage == "warning"] == []


def test_what_stands_in_goes_on_from_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = ((images(count), torch.arange(count) % 5) for count in (180, 20))
    jobs: list[Job] = []
    run = Pipeline.run
    monkeypatch.setattr(Pipeline, "run", lambda self, rounds: jobs.append(self.job) or run(self, rounds))
    result, heard = cut(Ways(), data=from_arrays(many, few, few))
    first, second = jobs
    assert (second.clock, second.graph, second.tested) == (first.clock, first.graph, first.tested)
    assert second.images is first.images
    assert result.before.quality == first.tested
    assert result.before.quality is not None
    assert result.seconds["plan"] > 0
    assert len(heard) == len(set(heard))


def test_where_only_the_repair_cannot_be_had_nothing_else_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    run = Pipeline.run
    monkeypatch.setattr(Pipeline, "run", lambda self, rounds: jobs.append(self.job) or run(self, rounds))
    net, asked = Ways(), {"method": "filter_std", "calibrate": images(180), "target": 0.5, "latency": False}
    result, [text] = cut(net, images(1), **asked)
    assert len(jobs) == 1
    assert text.endswith("cannot be fitted: the repair is fold")
    named, heard = cut(net, images(1), **asked, repair="fold")
    assert heard == []
    assert result.repairs == named.repairs
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), named.model.parameters(), strict=True))


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after some layers were fitted"])
def test_a_fit_that_breaks_off_leaves_nothing_behind(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, asked = Plain(), {"method": "magnitude", "calibrate": images(180)}
    fitted = one_round.repair

    def breaks(dense: nn.Module, thin: nn.Module, graph: Any, plan: Any, some: Any, steps: Any, **how: Any) -> Any:
        if "reconstruct" in steps:
            if late:
                fitted(dense, thin, graph, plan, some, steps, **how)
            raise BranchingError("the forward takes other ways, so its layers cannot be fitted: do without")
        return fitted(dense, thin, graph, plan, some, steps, **how)

    monkeypatch.setattr(one_round, "repair", breaks)
    result, _ = cut(net, images(1), **asked)
    named, _ = cut(net, images(1), **asked, repair="fold")
    assert steps(result) == ["fold"]
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), named.model.parameters(), strict=True))
    with pytest.raises(BranchingError):
        cut(net, images(1), **asked, repair="reconstruct")


def test_the_time_of_what_fails_counts() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="no"), clock("plan"):
        raise ValueError("no")
    assert clock.seconds["plan"] >= 0


def test_a_recipe_says_what_was_done_instead(tmp_path: Path) -> None:
    file = tmp_path / "ways.py"
    lines = inspect.getsource(Ways)
    file.write_text(f"import torch.nn.functional as F\nfrom torch import Tensor, nn\n\n{lines}")
    np.save(tmp_path / "x.npy", images(180).numpy())
    asked = Recipe(
        model=f"{file}:Ways", method="reconstruction", keep=0.5, calibrate=str(tmp_path / "x.npy"), latency=False
    )
    with pytest.warns(UserWarning, match="takes other ways for other images") as caught:
        result = run_recipe(asked, method_asked=False)
    assert caught[0].filename == __file__
    assert result.recipe == replace(asked, method="magnitude")
    with pytest.raises(BranchingError):
        run_recipe(asked)


# too few images


def trained(data: Data) -> nn.Module:
    torch.manual_seed(0)
    net = Plain()
    fit(net, data, Settings(epochs=15, batch_size=16, lr=0.05, augment="none", device="cpu"))
    return net.eval()


def distance(result: Result, fresh: Tensor) -> float:
    with torch.no_grad():
        return float((result.model(fresh) - result.dense(fresh)).square().sum())


@pytest.mark.parametrize(
    ("count", "method", "repairs", "words"),
    [
        (
            1,
            "Magnitude",
            ["fold"],
            "(arrays, not normalised here): too few, so magnitude chooses what goes and the repair is fold, not",
        ),
        (3, "Magnitude", ["fold"], "magnitude chooses what goes and the repair is fold, not reconstruct"),
        (7, "Magnitude", ["fold"], "the repair is fold, not reconstruct; give 64 to 1,000"),
        (
            8,
            "Magnitude",
            ["reconstruct"],
            "8 unlabelled images (arrays, not normalised here): too few, so magnitude chooses what goes; give",
        ),
        (15, "Magnitude", ["reconstruct"], "magnitude chooses what goes; give 64 to 1,000"),
        (
            16,
            "Reconstruction",
            ["reconstruct"],
            "16 unlabelled images (arrays, not normalised here): at least 64 are advised",
        ),
        (64, "Reconstruction", ["reconstruct"], ""),
    ],
)
def test_few_images_are_used_for_what_they_are_enough_for(
    count: int, method: str, repairs: list[str], words: str
) -> None:
    result, heard = cut(Plain(), calibrate=images(count))
    assert type(result.method).__name__ == method
    assert steps(result) == repairs
    assert len(heard) == bool(words)
    assert words in "".join(heard)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_images_make_fresh_ones_no_worse_than_no_repair(count: int, data: Data) -> None:
    net, fresh = trained(data), torch.cat([x for x, _ in data.batches("test")])
    some = load_calibration(data, count=count)
    for asked in ({}, {"repair": "reconstruct"}):
        bare, _ = cut(net, method="magnitude", calibrate=some, repair=(), target=0.4)
        mended, _ = cut(net, method="magnitude", calibrate=some, target=0.4, **asked)
        assert distance(mended, fresh) <= 1.01 * distance(bare, fresh)


def test_who_names_the_method_is_warned_and_gets_it() -> None:
    result, [text, *_] = cut(Plain(), calibrate=images(3), method="reconstruction", repair="reconstruct")
    assert isinstance(result.method, Reconstruction)
    assert "the repair is fold, not reconstruct" in text
    assert "reconstruction chooses next to blindly (name another method)" in text
    assert any("from 3 images, too few to go by" in note for note in result.plans[0].notes)


@pytest.mark.parametrize(
    ("some", "words"),
    [
        (
            images(1).repeat(70, 1, 1, 1),
            "1 unlabelled image (arrays, not normalised here, without 69 repeats and images of a single colour): too",
        ),
        (
            torch.rand(70, 3, 1, 1).expand(70, 3, 8, 8),
            "70 unlabelled images (arrays, not normalised here), each of a single colour: too few",
        ),
    ],
    ids=["repeats", "single colours"],
)
def test_repeats_and_single_colours_are_no_more_images(some: Tensor, words: str) -> None:
    result, [text] = cut(Plain(), calibrate=some)
    assert isinstance(result.method, Magnitude)
    assert steps(result) == ["fold"]
    assert words in text


def test_few_training_images_are_few_images_too() -> None:
    some = (images(6), torch.arange(6) % 2)
    result, [text] = cut(Plain(), data=from_arrays(some, some, some))
    assert isinstance(result.method, Magnitude)
    assert steps(result) == ["fold"]
    assert text.startswith("6 training images: too few, so magnitude chooses what goes and the repair is fold")


# what else can be wrong with them


def test_pixels_that_nobody_has_normalised_are_warned_of() -> None:
    _, [text] = cut(Plain(), calibrate=255 * torch.rand(70, 3, 8, 8))
    assert text.startswith("the calibration images hold values up to 25")
    assert "give them as uint8 with mean and std, or normalised" in text
    pixels = (255 * torch.rand(70, 3, 8, 8)).byte()
    assert cut(Plain(), calibrate=pixels)[1] == []
    labels = torch.arange(70) % 5
    loud = from_arrays((pixels.float(), labels), (pixels.float(), labels), mean=[0.0] * 3, std=[1.0] * 3)
    _, heard = cut(Plain(), data=loud)
    assert [text[:15] for text in heard] == ["63 unlabelled i", "the calibration"]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("labels", [torch.arange(100) % 4, torch.rand(100), torch.eye(4)[torch.arange(100) % 4]])
def test_loaders_of_vectors_with_labels_of_any_kind_need_no_example(labels: Tensor) -> None:
    torch.manual_seed(0)
    result, heard = cut(mlp(), calibrate=DataLoader(TensorDataset(torch.randn(100, 20), labels), batch_size=10))
    assert result.example_inputs.shape == (1, 20)
    assert steps(result) == ["reconstruct"]
    assert heard == []


class Odd(nn.Module):
    """Spoils what is between its layers."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil, self.stem, self.norm = spoil, nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.inner, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.inner(self.spoil(F.relu(self.norm(self.stem(x)))))).mean((2, 3)))


@pytest.mark.parametrize("spoil", [lambda x: 0 * x, lambda x: 0 * x + 1], ids=["zeros", "ones"])
@pytest.mark.parametrize("repair", ["reconstruct", "compensate", "recalibrate"])
def test_what_is_the_same_for_all_images_does_no_harm(spoil: Callable[[Tensor], Tensor], repair: str) -> None:
    torch.manual_seed(0)
    result, _ = cut(Odd(spoil), calibrate=images(70), repair=repair)
    lost = float(result.plans[0].notes[0].partition("predicted to lose ")[2].partition(" ")[0])
    assert lost < 5
    assert all(bool(tensor.isfinite().all()) for tensor in result.model.state_dict().values())


def test_a_network_that_puts_out_nan_is_one_sentence() -> None:
    with pytest.raises(VerificationError, match="the network puts out NaN or infinite values for its example inputs"):
        cut(Odd(lambda x: x.log() - x.log()), calibrate=images(70))


@pytest.mark.parametrize("overflow", [lambda x: torch.where(x[:1, :1] > 0, x / (x * 0), x)], ids=["some"])
def test_layers_that_some_images_overflow_are_left_alone(overflow: Callable[[Tensor], Tensor]) -> None:
    def spoil(x: Tensor) -> Tensor:
        return x if len(x) < 3 else overflow(x)  # the example and the proof are sound

    result, _ = cut(Odd(spoil), calibrate=images(70), method="magnitude", repair="compensate")
    assert all(bool(tensor.isfinite().all()) for tensor in result.model.state_dict().values())


def test_a_last_batch_of_one_image_has_statistics_as_well() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    result, _ = cut(net, calibrate=images(129), repair="recalibrate")
    assert [(each.step, each.layers) for each in result.repairs] == [("recalibrate", 1)]


def test_minutes_that_are_none_and_less() -> None:
    result, _ = cut(Plain(), calibrate=images(70), minutes=0)
    assert (steps(result), result.minutes.steps) == (["reconstruct"], 0)  # type: ignore[union-attr]
    with pytest.raises(SettingError, match="minutes must be a number of minutes of at least 0, not -1"):
        cut(Plain(), calibrate=images(70), minutes=-1)


def test_nothing_to_prune_and_nothing_to_see_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="nothing in Sequential can be pruned"):
        cut(nn.Sequential(nn.Conv2d(3, 4, 3)), calibrate=images(70))
    with pytest.raises(DataError, match="there are no pictures in"):
        cut(Plain(), calibrate=tmp_path)


def test_what_images_were_normalised_with_is_kept(data: Data) -> None:
    pixels = (255 * torch.rand(70, 3, 8, 8)).byte()
    own = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for given, known in (
        (load_calibration(pixels, mean=own[0], std=own[1]), own),
        (pixels, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        (torch.rand(70, 3, 8, 8), None),
    ):
        result, _ = cut(Plain(), calibrate=given)
        assert result.normalisation == known
        assert document(result)["normalisation"] == (known and {"mean": list(known[0]), "std": list(known[1])})
    assert cut(Plain(), data=data)[0].normalisation == (data.mean, data.std)
