"""Networks of Ultralytics go through it, and come back to it thin."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ultralytics")
pytest.importorskip("onnxruntime")
from torchvision.io import write_jpeg

import ultralytics_prune as integration
from secateur.core.surgery import relative_difference
from secateur.errors import SecateurError

SIDE = 64
NETWORK = """
nc: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2f, [32, True]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C2f, [64, True]]
head:
  - [[2, 4], 1, Detect, [nc]]
"""  # the parts of YOLOv8, few and narrow
TRAINING: dict[str, Any] = {
    "batch": 4, "amp": False, "plots": False, "device": "cpu", "warmup_epochs": 0, "optimizer": "SGD", "lr0": 0.01
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Any:
    file = tmp_path / "small.yaml"
    file.write_text(NETWORK)
    model = integration.opened(file)
    with torch.no_grad():
        for module in model.model.modules():  # as after a training, so that numbers depend on the image
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(std=0.5)
        for last in (
            branch[-1] for branches in (model.model.model[-1].cv2, model.model.model[-1].cv3) for branch in branches
        ):
            last.weight.mul_(10)
            last.bias.zero_()
    return model


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Write eight pictures of a bright square (class 0) or a dark one (class 1), with labels."""
    folder = tmp_path / "shapes"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        kind, left, top = number % 2, 8 + 4 * (number // 2), 40 - 4 * number
        picture = torch.full((3, SIDE, SIDE), 114, dtype=torch.uint8)
        picture[:, top : top + 16, left : left + 16] = 0 if kind else 255
        write_jpeg(picture, str(folder / "images" / f"{number}.jpg"))
        where = f"{(left + 8) / SIDE} {(top + 8) / SIDE} {16 / SIDE} {16 / SIDE}"
        (folder / "labels" / f"{number}.txt").write_text(f"{kind} {where}\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames:\n  0: bright\n  1: dark\n")
    return data


def widths(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.named_parameters()}


def test_the_thin_network_takes_the_place_of_the_dense_one(model: Any):
    dense = model.model
    before = widths(dense)
    result = integration.pruned(model, 0.5, side=SIDE, latency=False)
    assert model.model is result.model
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs
    assert widths(dense) == before != widths(model.model)
    assert all(
        shape[0] % 8 == 0
        for name, shape in widths(model.model).items()
        if "dfl" not in name and name.endswith("conv.weight")
    )


def test_the_maps_that_a_head_returns_beside_its_prediction_may_lose_channels(model: Any):
    images = integration.noise(model.model, SIDE)
    assert integration.free_features(model.model, images) == ("1.feats",)
    held = integration.pruned(deepcopy(model), 0.5, side=SIDE, latency=False, free_outputs=())
    free = integration.pruned(model, 0.5, side=SIDE, latency=False)
    assert widths(held.model)["model.4.cv2.conv.weight"][0] == 64 > widths(free.model)["model.4.cv2.conv.weight"][0]


def test_what_was_saved_is_opened_by_ultralytics_with_the_same_numbers(model: Any, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    images = torch.cat([integration.noise(model.model, SIDE), torch.zeros(1, 3, SIDE, SIDE)])
    again = integration.opened(integration.saved(model, tmp_path / "thin.pt"))
    assert widths(again.model) == widths(model.model)
    own = integration.predicted(model.model, images)
    assert relative_difference([part[:1] for part in own], [part[1:] for part in own]) > 1e-3  # there is what to lose
    assert relative_difference(own, integration.predicted(again.model, images)) == 0
    assert relative_difference(own, integration.predicted(again.model.fuse(verbose=False), images)) < 1e-4


def test_the_trainer_trains_the_thin_network(model: Any, shapes: Path, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    integration.fine_tuned(model, shapes, epochs=1, side=SIDE, project=str(tmp_path), **TRAINING)
    assert widths(model.model) == {name: tuple(value.shape) for name, value in before.items()}
    moved = {name: (value - before[name]).abs().max() for name, value in model.model.named_parameters()}
    assert moved["model.0.conv.weight"] > 1e-3  # more than what half a float rounds away
    assert widths(integration.opened(model.trainer.best).model) == widths(model.model)


def test_a_saved_network_is_trained_on_without_what_pruned_it(model: Any, shapes: Path, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    thin = widths(model.model)
    again = integration.opened(integration.saved(model, tmp_path / "thin.pt"))
    integration.fine_tuned(again, shapes, epochs=1, side=SIDE, project=str(tmp_path), **TRAINING)
    assert widths(again.model) == thin


def test_a_trainer_that_would_build_the_dense_network_again_stops(model: Any, shapes: Path, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    again = integration.opened(integration.saved(model, tmp_path / "thin.pt"))
    for each in (model, again):
        with pytest.raises(KeyError, match="this network is pruned"):
            each.train(data=str(shapes), epochs=1, imgsz=SIDE, project=str(tmp_path), **TRAINING)


def test_data_of_other_classes_are_refused(model: Any, shapes: Path, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    shapes.write_text(shapes.read_text() + "  2: none\n")
    with pytest.raises(SecateurError, match="tells 2 classes apart and the data have 3"):
        integration.fine_tuned(model, shapes, epochs=1, side=SIDE, project=str(tmp_path), **TRAINING)


def test_the_exported_network_computes_the_same(model: Any, tmp_path: Path):
    integration.pruned(model, 0.5, side=SIDE, latency=False)
    assert integration.exported(model, tmp_path / "thin.onnx", SIDE) < 1e-4
    assert (tmp_path / "thin.onnx").is_file()
    with torch.no_grad():
        model.model.model[-1].cv3[0][2].bias.add_(1)  # what was written is compared, not the network with itself
        wanted = integration.predicted(model.model, integration.noise(model.model, SIDE), exported=True)
    found = run_onnx(tmp_path / "thin.onnx", integration.noise(model.model, SIDE))
    assert relative_difference(wanted, integration.quantities(found)) > 0.01


def run_onnx(file: Path, images: torch.Tensor) -> list[torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {session.get_inputs()[0].name: images.numpy()})]


def test_a_fused_network_is_refused(model: Any):
    for module in model.model.modules():
        if hasattr(module, "bn"):
            del module.bn
    with pytest.raises(SecateurError, match="prune it before fuse"):
        integration.pruned(model, 0.5, side=SIDE)


@pytest.mark.parametrize("name", ["absent.pt", "absent.yaml", "absent.onnx"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path):
    with pytest.raises(SecateurError, match=name):
        integration.opened(tmp_path / name)


def test_the_command_line_prunes_trains_and_writes(
    model: Any, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = [str(tmp_path / "small.yaml"), "--imgsz", str(SIDE), "--data", str(shapes), "--epochs", "1"]
    words += ["--out", str(tmp_path / "out"), "--calibrate", str(shapes.parent / "images"), "--method", "magnitude"]
    words += ["--set", *(f"{name}={value}" for name, value in TRAINING.items())]
    monkeypatch.setattr(sys, "argv", ["ultralytics_prune.py", *words])
    assert integration.main() == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["thin"]["counts"]["macs"] <= 0.5 * report["dense"]["counts"]["macs"]
    assert set(report["metrics"]) == {"dense", "pruned", "fine-tuned"}
    assert "metrics/mAP50(B)" in report["metrics"]["fine-tuned"]
    assert report["loaded again differs by"] == 0
    assert (tmp_path / "out" / "thin.onnx").is_file()
    words[0] = str(tmp_path / "absent.pt")
    monkeypatch.setattr(sys, "argv", ["ultralytics_prune.py", *words])
    assert integration.main() == 1
    assert capsys.readouterr().err.startswith("error: Ultralytics cannot open")


def test_the_command_line_explains(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = [str(tmp_path / "small.yaml"), "--imgsz", str(SIDE), "--explain", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["ultralytics_prune.py", *words])
    assert integration.main() == 0
    told = capsys.readouterr().out
    assert "a softmax over channels in 'model.5.dfl'" in told
    assert not (tmp_path / "out").exists()
