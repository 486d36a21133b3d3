"""Every built-in task from its folder of data to a saved result, from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, segmentation

import task_worlds as worlds
from commands import run
from secateur import Budget, Settings, Step, Target, build, fit, load, load_data, prune, run_recipe
from secateur.data import Data
from secateur.errors import DataError, ExportError, ModelError, SecateurError, SettingError
from secateur.export import export_onnx
from secateur.measure import quality
from secateur.methods import METHODS
from secateur.methods.magnitude import Magnitude
from secateur.methods.random_masks import RandomMasks
from secateur.models import give_weights
from secateur.recipe import Recipe
from secateur.report.page import write
from secateur.run import Result
from secateur.search import task_examples
from secateur.tasks import Classification, Custom, Detection, Segmentation, Task

BRIEF = Settings(epochs=1, batch_size=8)
IGNORING = "segmentation?ignore=11"

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Prepared:
    """The worlds of a session, each written once."""

    def __init__(self, root: Path) -> None:
        self.root, self.found = root, dict[str, worlds.World]()

    def world(self, name: str) -> worlds.World:
        if name not in self.found:
            self.found[name] = worlds.world(name, self.root / name.replace(" ", "-"))
        return self.found[name]

    def data(self, name: str, task: Task | None = None) -> Data:
        if name == "segmentation" and task is None:
            task = Segmentation(ignore=11)
        return load_data(self.world(name).data, image_size=worlds.SIDE, workers=0, task=task)

    def network(self, name: str, **settings: int) -> nn.Module:
        torch.manual_seed(0)
        return build(self.world(name).model, **settings)

    def flags(self, name: str) -> tuple[str, ...]:
        here = self.world(name)
        task = ("--task", IGNORING) if name == "segmentation" else ()
        return ("--model", here.model, "--data", here.data, "--image-size", "32", "--workers", "0", *task)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("tasks"))


def pruned(prepared: Prepared, name: str, **settings: Any) -> Result:
    chosen: dict[str, Any] = {"target": 0.5, "method": "magnitude", "latency": False, **settings}
    return prune(prepared.network(name), data=prepared.data(name), **chosen)


@pytest.mark.parametrize("name", worlds.TASKS)
def test_every_task_is_pruned_trained_saved_loaded_and_measured_alike(prepared: Prepared, name: str, tmp_path: Path):
    data = prepared.data(name)
    result = pruned(prepared, name, train=BRIEF)
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs
    after = result.after.quality
    assert after is not None
    assert [each.name for each in after.metrics] == [each.name for each in data.task.metrics]
    assert data.task.metric.name in repr(result)
    assert data.task.metric.text(after.value) in repr(result)
    result.save(tmp_path / "result")
    loaded = load(tmp_path / "result", dense=prepared.network(name))
    assert quality(loaded.model, data.batches("test"), data.task).values == pytest.approx(after.values, nan_ok=True)
    html = write(tmp_path / "result").read_text("utf-8")
    assert data.task.metric.name.lower() in html.lower()


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_rounds_steps_and_minutes_are_of_every_task(prepared: Prepared, name: str):
    twice = pruned(prepared, name, rounds=2, then=[Step(Magnitude(), Target(0.4))])
    assert len(twice.plans) == 3
    spent = pruned(prepared, name, minutes=0.01)
    assert spent.minutes is not None


def test_a_budget_is_in_the_unit_of_the_metric(prepared: Prepared):
    model, data = prepared.network("restoration"), prepared.data("restoration")
    fit(model, data, Settings(epochs=12, batch_size=8, lr=3e-3, optimizer="adamw", augment="none"))
    left = []
    for decibels in (0.02, 1):
        result = prune(model, None, "magnitude", None, data, latency=False, budget=Budget(max_drop=decibels))
        assert result.budget is not None
        drop = result.budget["drop"]
        dense, thin = (quality(net, data.batches("val"), data.task).value for net in (result.dense, result.model))
        assert drop["asked"] == decibels
        assert drop["found"] == pytest.approx(dense - thin, abs=1e-3)
        assert drop["found"] <= decibels
        left.append(result.after.counts.macs)
    assert left[0] > left[1]


@pytest.mark.parametrize("name", ["segmentation", "restoration", "regression", "retrieval"])
def test_tasks_with_something_to_imitate_are_distilled(prepared: Prepared, name: str):
    rows = [
        pruned(prepared, name, train=Settings(epochs=1, batch_size=8, distill=share)).histories[0].rows
        for share in (0.0, 0.5)
    ]
    assert [len(each) for each in rows] == [1, 1]
    assert rows[0][0].train_loss != rows[1][0].train_loss


@pytest.mark.parametrize("settings", [Settings(distill=0.5), Settings(label_smoothing=0.1)])
def test_what_detection_cannot_learn_from_is_refused_before_any_work(prepared: Prepared, settings: Settings):
    told: list[str] = []
    with pytest.raises(SettingError, match=r"set ('distill'|it) to 0"):
        pruned(prepared, "detection", train=settings, tell=lambda event: told.append(event.stage))
    assert "trace" not in told
    assert "measure" not in told


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_a_search_of_masks_that_was_killed_goes_on(
    prepared: Prepared, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings: dict[str, Any] = {"method": RandomMasks(candidates=4), "target": 0.6}
    whole = pruned(prepared, name, **settings)
    judged, original = list[int](), task_examples.Examples.loss_and_error

    def killed(held: Any, model: nn.Module) -> tuple[float, float]:
        judged.append(1)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return original(held, model)

    monkeypatch.setattr(task_examples.Examples, "loss_and_error", killed)
    with pytest.raises(KeyboardInterrupt):
        pruned(prepared, name, work=tmp_path, **settings)
    again = pruned(prepared, name, work=tmp_path, **settings)
    assert again.plans == whole.plans
    assert len(judged) == 3 + 2  # of four, two were noted


@pytest.mark.parametrize("method", ["fine_pruning", "weak_subnetwork"])
def test_methods_that_look_at_answers_take_segmentation(prepared: Prepared, method: str):
    options: dict[str, Any] = {"criterion": "activation"} if method == "weak_subnetwork" else {"trials": 3, "starts": 3}
    result = pruned(prepared, "segmentation", method=METHODS[method](**options), target=0.7)
    assert result.after.counts.macs <= 0.7 * result.before.counts.macs


def hits(output: Tensor, labels: Tensor) -> float:
    return float((output.argmax(1) == labels).float().mean())


def table(batch: Any) -> Tensor:
    return batch["pictures"]


def test_a_task_of_ones_own_takes_loaders_of_tables(prepared: Prepared, tmp_path: Path):
    data = prepared.data("classification")
    splits = [[{"pictures": x, "labels": y} for x, y in data.batches(s, 8)] for s in ("train", "val", "test")]
    task = Custom(nn.functional.cross_entropy, hits, title="hits", unit="%", network_inputs=table)
    settings: dict[str, Any] = {"target": 0.5, "method": "magnitude", "latency": False, "train": BRIEF}
    model = prepared.network("classification", classes=2)
    result = prune(model, data=splits, task=task, **settings)
    assert "hits" in repr(result)
    result.save(tmp_path / "result")
    assert "hits" in write(tmp_path / "result").read_text("utf-8").lower()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"criterion": lambda output, labels: output}, "must return the mean loss as a scalar"),
        ({"score": lambda output, labels: "good"}, "must be a number, not a str"),
    ]
    for entries, why in wrong:
        own = Custom(**{"criterion": nn.functional.cross_entropy, "score": hits, **entries}, network_inputs=table)
        with pytest.raises(DataError, match=why):
            prune(model, data=splits, task=own, **settings)


def boxes(*numbers: float, label: int = 1) -> dict[str, Tensor]:
    return {"boxes": torch.tensor([numbers], dtype=torch.float32), "labels": torch.tensor([label])}


@pytest.mark.parametrize(
    ("target", "error", "why"),
    [
        (boxes(20, 20, 60, 60), DataError, "lies mostly outside of its 32 x 32 pixels"),
        (boxes(20, 20, 5, 5), DataError, "a box without area"),
        (boxes(4, 4, 20, 20, label=9), DataError, "a box has the label 9, but the network has 3 classes"),
    ],
)
def test_boxes_that_no_network_learns_from_are_one_sentence(
    prepared: Prepared, target: dict[str, Tensor], error: type[SecateurError], why: str
):
    batches = [(torch.rand(2, 3, 32, 32), [target, target])]
    with pytest.raises(error, match=why) as caught:
        prune(
            prepared.network("detection"),
            data=[batches] * 3,
            task=Detection(),
            target=0.5,
            method="magnitude",
            train=BRIEF,
            latency=False,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "task"),
    [("classification", Detection()), ("detection", Segmentation()), ("segmentation", Classification())],
)
def test_data_of_another_task_is_refused_when_it_is_loaded(prepared: Prepared, name: str, task: Task):
    with pytest.raises(DataError, match=f"the first validation example of pictures does not fit {task.name}"):
        prepared.data(name, task)


@pytest.mark.parametrize(
    ("data", "network", "came"),
    [
        ("segmentation", "classification", r"not float32 of shape \(8, 3\)"),
        ("restoration", "regression", r"not float32 of shape \(8, 2\)"),
        ("regression", "restoration", r"not float32 of shape \(8, 3, 32, 32\)"),
        ("detection", "segmentation", "a list of images of shape"),
    ],
)
def test_a_network_for_another_task_is_refused_with_what_came_out(
    prepared: Prepared, data: str, network: str, came: str
):
    with pytest.raises(ModelError, match=came):
        prune(prepared.network(network), data=prepared.data(data), target=0.5, method="magnitude", latency=False)


def test_a_recipe_of_detection_is_run_again_and_its_result_can_be_asked(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = tmp_path / "first", tmp_path / "second"
    asked = ("--method", "magnitude", "--keep", "0.5", "--no-latency", "--export", "", "--quiet")
    assert run(capsys, "prune", *prepared.flags("detection"), *asked, "--out", first).status == 0
    refused = run(capsys, "run", first / "recipe.toml", "--out", second)
    assert refused.status == 1
    assert "--trust" in refused.err
    assert run(capsys, "run", first / "recipe.toml", "--trust", "--out", second, "--quiet").status == 0
    one, two = (json.loads((folder / "measurement.json").read_text()) for folder in (first, second))
    assert one["after"] == two["after"]
    for words in (("evaluate",), ("measure", "--no-latency"), ("bench", "--seconds", "0.02", "--runtime", "eager")):
        ended = run(capsys, words[0], first, "--trust", *words[1:])
        assert ended.status == 0, ended
    assert "mAP@0.5" in run(capsys, "evaluate", first, "--trust").out
    ended = run(capsys, "export", first, "--trust", "--format", "onnx", "--quiet")
    assert ended.status == 1
    assert "list of images" in ended.err


def test_images_that_are_normalised_as_those_of_the_cut_and_not_as_usual_are_said(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    here = prepared.world("restoration")
    words = ("--model", here.model, "--calibrate", f"{here.data.partition(':')[2]}/train/input", "--image-size", "32")
    words += ("--method", "magnitude", "--keep", "0.5", "--no-latency", "--export", "", "--quiet", "--workers", "0")
    warned = "usually they are otherwise: give --mean 0,0,0 --std 1,1,1 if it was trained so"
    for more, expected in (((), True), (("--mean", "0,0,0", "--std", "1,1,1"), False)):
        assert run(capsys, "prune", *words, *more, "--out", tmp_path / "result", "--force").status == 0
        asked = ("evaluate", tmp_path / "result", "--trust", "--data", here.data)
        assert (warned in run(capsys, *asked).err) is expected
        assert warned not in run(capsys, *asked, "--mean", "0,0,0", "--std", "1,1,1").err


@pytest.mark.parametrize("name", ["segmentation", "detection", "restoration at a scale"])
def test_plans_curves_and_qualities_of_a_task_are_printed(
    prepared: Prepared, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    metric = {"segmentation": "mean IoU", "detection": "mAP"}.get(name, "PSNR")
    here = prepared.flags(name)
    assert run(capsys, "plan", *here, "--method", "magnitude", "--keep", "0.5").status == 0
    assert metric.lower() in run(capsys, "evaluate", *here).out.lower()
    ended = run(capsys, "measure", *here, "--batch-size", "3", "--seconds", "0.01")
    assert ended.status == 0
    assert "Batch" in ended.out
    ended = run(capsys, "sensitivity", *here, "--levels", "1", "--out", tmp_path / "curves", "--quiet")
    assert ended.status == 0, ended
    assert f"Validation {metric}" in ended.out


def test_a_comparison_is_in_the_unit_of_its_task(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    here = prepared.world("restoration")
    recipe = tmp_path / "compare.toml"
    recipe.write_text(
        f'model = "{here.model}"\ndata = "{here.data}"\nimage_size = 32\nworkers = 0\nlatency = false\nseeds = [0]\n'
        '[target]\nkeeps = [0.6]\nrepair = []\n[[method]]\nname = "magnitude"\n[[method]]\nname = "filter_std"\n'
        "[pretrain]\nepochs = 1\nbatch_size = 8\n[train]\nepochs = 1\nbatch_size = 8\n"
    )
    ended = run(capsys, "compare", recipe, "--trust", "--out", tmp_path / "out", "--quiet")
    assert ended.status == 0, ended
    assert "Test PSNR dB" in ended.out
    assert "PSNR" in (tmp_path / "out" / "comparison.html").read_text("utf-8")


def test_a_task_of_ones_own_is_run_from_a_file_on_trust_alone(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mine = tmp_path / "my_task.py"
    mine.write_text(
        "from torch.nn.functional import cross_entropy\nfrom secateur.tasks import Custom\n"
        "def hits(scores, labels):\n    return (scores.argmax(1) == labels).float().mean()\n"
        "def make():\n    return Custom(cross_entropy, hits, title='hits', unit='%')\n"
    )
    here = prepared.world("classification")
    recipe = Recipe(
        model="secateur:lenet5",
        data=here.data,
        image="1x28x28",
        workers=0,
        task=f"{mine}:make",
        method="magnitude",
        keep=0.6,
        latency=False,
        repair=(),
    )
    result = run_recipe(recipe)
    assert result.after.quality is not None
    assert result.after.quality.metric.name == "hits"
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    refused = run(capsys, "run", file, "--out", tmp_path / "out")
    assert refused.status == 1
    assert "--trust" in refused.err
    assert not (tmp_path / "out" / "measurement.json").exists()
    result.save(tmp_path / "saved")
    refused = run(capsys, "evaluate", tmp_path / "saved")
    assert refused.status == 1
    assert refused.err.startswith(f"error: the task of the recipe comes from your own code, {mine}:make, which is not")
    found = run(capsys, "evaluate", tmp_path / "saved", "--trust", "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["metrics"][0]["value"] == result.after.quality.value


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ssdlite320_mobilenet_v3_large", detection.ssd.SSD), ("lraspp_mobilenet_v3_large", segmentation.LRASPP)],
)
def test_detectors_and_segmenters_are_built_by_name_and_take_weights_of_other_classes(
    name: str, kind: type[nn.Module], tmp_path: Path
):
    spec = f"torchvision:{name}"
    trained, model = build(spec, classes=5), build(spec, classes=3)
    assert isinstance(model, kind)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    image = torch.rand(3, 64, 64)
    example: Any = ([image],) if kind is detection.ssd.SSD else image[None]
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    give_weights(model, str(tmp_path / "trained.pt"), example, name=spec, classes=3, transfer=True)
    theirs = trained.state_dict()
    for key, value in model.state_dict().items():
        source = theirs if theirs[key].shape == value.shape else fresh
        assert torch.equal(value, source[key]), key
    heads = [key for key, value in fresh.items() if theirs[key].shape != value.shape]
    assert heads
    assert all("classif" in key for key in heads)


def ssdlite() -> nn.Module:
    return build("torchvision:ssdlite320_mobilenet_v3_large", classes=3)


def faster_rcnn() -> nn.Module:
    make = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    return make(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, rpn_post_nms_top_n_test=20
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [ssdlite, faster_rcnn])
def test_detectors_of_torchvision_are_cut_trained_and_measured(make: Callable[[], nn.Module], tmp_path: Path):
    torch.manual_seed(0)
    batches = [([torch.rand(3, 64, 64), torch.rand(3, 48, 64)], [boxes(4, 4, 30, 30), boxes(8, 8, 40, 40, label=2)])]
    model = make()
    result = prune(
        model,
        data=[batches] * 3,
        task=Detection(),
        target=0.5,
        method="magnitude",
        train=Settings(epochs=1, batch_size=2),
        latency=False,
        repair=(),
    )
    assert result.after.counts.macs <= 0.505 * result.before.counts.macs  # however many boxes each of them finds
    result.save(tmp_path / "result")
    loaded = load(tmp_path / "result", dense=model)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    with pytest.raises(ExportError, match="export its backbone and heads alone"):
        export_onnx(result.model, result.example_inputs, tmp_path / "whole.onnx")


def several(images: Sequence[Tensor]) -> Any:
    return (list(images),)


def test_a_detector_that_writes_its_batch_into_its_code_is_not_cut_for_one_image_alone(prepared: Prepared):
    """The cut network is tried on two images as well, in a list as the dense one takes them."""
    seen: list[int] = []
    model = prepared.network("detection")
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    prune(model, several([torch.rand(3, 32, 32)]), "magnitude", 0.5, latency=False, repair=())
    assert 2 in seen
