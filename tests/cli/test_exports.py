"""What ``export``, and the runs that export, write: networks ready to run, or as they were trained."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from commands import Call
from nets import lived_in
from secateur import artifact, load
from secateur.cli import exports
from secateur.core.surgery import relative_difference, run
from secateur.errors import ExportError, ModelError
from secateur.measure import Latency, deploy, deployment
from secateur.measure.side_by_side import SideBySide
from secateur.models import build

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
CODE = """
from torch import nn

def normed():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
    for number, norm in enumerate(net[1::3][:2]):
        norm.running_mean += 0.1 * (number + 1)
        norm.running_var *= 1.5
    return net
"""


@pytest.fixture
def small(secateur: Call, tmp_path: Path) -> Path:
    """Return the folder of a pruned network with two batch norms."""
    (tmp_path / "mine.py").write_text(CODE)
    words = (
        "--model",
        "mine.py:normed",
        "--data",
        "mnist5k",
        "--method",
        "magnitude",
        "--keep",
        "0.6",
        "--no-latency",
        "--export",
        "",
    )
    assert secateur("prune", *words, "--out", "small", "--quiet").status == 0
    return tmp_path / "small"


def exported(secateur: Call, *words: str) -> list[dict[str, Any]]:
    ended = secateur("export", "small", "--trust", "--json", *words)
    assert ended.status == 0, ended.err
    return json.loads(ended.out)["exports"]


def trained(folder: Path) -> nn.Module:
    return load(folder, build=build).model


def operators(path: Path) -> list[str]:
    return [str(node.target) for node in torch.export.load(path).graph.nodes if node.op == "call_function"]


def test_export_folds_batch_norms_unless_told_not_to(secateur: Call, small: Path) -> None:
    (folded,) = exported(secateur, "--format", "pt2", "--no-latency")
    assert folded["folded"] == 2
    assert folded["memory_format"] == "contiguous"
    assert folded["difference"] <= 1e-5
    assert not [name for name in operators(small / "model.pt2") if "batch_norm" in name]
    images = torch.randn(3, 1, 28, 28)
    found = torch.export.load(small / "model.pt2").module()(images)
    torch.testing.assert_close(found, trained(small)(images), atol=1e-5, rtol=1e-4)
    (whole,) = exported(secateur, "--format", "pt2", "--no-fold", "--force")
    assert whole["folded"] == 0
    assert len([name for name in operators(small / "model.pt2") if "batch_norm" in name]) == 2
    artifact.check(small)


@pytest.mark.skipif(not ONNX, reason="ONNX packages not installed")
def test_all_formats_at_once_are_ready_to_run_and_source_stays_as_trained(
    secateur: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SideBySide, "ratio", lambda self, of, to: 0.5)
    monkeypatch.setattr(SideBySide, "differ", lambda self, of, to: True)
    monkeypatch.setattr(deployment, "fastest", lambda *_: {})
    found = {each["kind"]: each for each in exported(secateur, "--format", "pt2,onnx", "--source")}
    assert {kind: (each["folded"], each["memory_format"]) for kind, each in found.items()} == {
        "pt2": (2, "channels_last"),
        "onnx": (2, "contiguous"),
        "source": (0, "contiguous"),
    }
    assert "nn.BatchNorm2d" in (small / "model.py").read_text()
    kernels = [value for value in torch.export.load(small / "model.pt2").state_dict.values() if value.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_export_says_what_it_did(secateur: Call, small: Path) -> None:
    said = secateur("export", "small", "--trust", "--format", "pt2").said
    assert "Ready to run: 2 batch norms folded; " in said
    assert "as given" in said
    assert "channels last" in said
    assert "any batch size, 2 batch norms folded" in said
    assert "Ready to run" not in secateur("export", "small", "--trust", "--source").out


def test_a_memory_format_that_only_looks_slower_is_said_to_be_no_slower() -> None:
    def said(contiguous: float) -> str:
        by_name = {"as given": 1.0, "contiguous": contiguous, "channels_last": 2.0}
        times = {name: Latency(value, 1.0, 3, 1, 2, "cpu", "eager") for name, value in by_name.items()}
        (line,) = exports.said_of(deployment.Deployed(nn.Identity(), (), (), "contiguous", 0.0, times))
        return line

    assert said(2.5).endswith("channels last 2 ms, which their scatter does not tell apart).")
    assert said(1.5).endswith("channels last 2 ms).")


@pytest.mark.parametrize(
    "words", [("--format", "pt2", "--no-latency"), ("--source",), ("--format", "pt2", "--no-fold")]
)
def test_export_times_nothing_where_there_is_nothing_to_choose(
    secateur: Call, small: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def timed(*_: Any, **__: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(deployment, "side_by_side", timed)
    monkeypatch.setattr(deployment, "fastest", timed)
    assert len(exported(secateur, *words)) == 1


def test_runs_export_what_is_ready_to_run_and_time_nothing_unasked(
    secateur: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: Any, **__: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(deployment, "side_by_side", timed)
    (tmp_path / "mine.py").write_text(CODE)
    words = ("--model", "mine.py:normed", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.6", "--no-latency")
    ended = secateur("prune", *words, "--export", "pt2,source", "--out", "small", "--quiet")
    assert ended.status == 0
    assert "Ready to run: 2 batch norms folded." in ended.out
    assert "any batch size, 2 batch norms folded" in ended.said
    assert "nn.BatchNorm2d" in (tmp_path / "small" / "model.py").read_text()


class Refusing(nn.Module):
    """Cannot be recorded as a program once it is laid out channels last, or folded."""

    def __init__(self, refuses: str = "") -> None:
        super().__init__()
        self.conv, self.norm, self.refuses = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), refuses

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        now = ["last"] if not self.conv.weight.is_contiguous() else []
        now += ["folded"] if isinstance(self.norm, nn.Identity) else []
        if torch.compiler.is_exporting() and any(word in self.refuses for word in now):
            raise NotImplementedError("no such kernel")
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("refuses", "folded", "memory_format"),
    [("", 1, "channels_last"), ("last", 1, "contiguous"), ("last, folded", 0, "contiguous")],
)
def test_what_cannot_be_exported_ready_to_run_is_exported_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refuses: str, folded: int, memory_format: str
) -> None:
    monkeypatch.setattr(SideBySide, "ratio", lambda self, of, to: 0.5)
    monkeypatch.setattr(SideBySide, "differ", lambda self, of, to: True)
    net, images = lived_in(Refusing(refuses)), torch.randn(2, 3, 8, 8)
    made = deploy(net, images, seconds=0.01)
    assert made.memory_format == "channels_last"
    done = exports.write("pt2", net, made, images, tmp_path / "m.pt2")
    assert (done.folded, done.memory_format) == (folded, memory_format)
    assert done.file.difference <= 1e-5
    found = torch.export.load(tmp_path / "m.pt2").module()(images)
    assert relative_difference(run(net, images), found) <= 1e-5


def test_what_cannot_be_made_ready_is_exported_as_it_was_trained(
    secateur: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("it holds a socket")

    monkeypatch.setattr("secateur.measure.deploy", refuse)
    ended = secateur("export", "small", "--trust", "--format", "pt2")
    assert ended.status == 0
    assert "exported as it was trained: it holds a socket" in ended.err
    assert len([name for name in operators(small / "model.pt2") if "batch_norm" in name]) == 2


def test_a_network_that_no_way_can_export_is_refused(tmp_path: Path) -> None:
    class Branching(Refusing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x)) if float(x.sum()) > -1e9 else x

    net, images = lived_in(Branching()), torch.randn(2, 3, 8, 8)
    with pytest.raises(ExportError, match="cannot export the network as pt2"):
        exports.write("pt2", net, deploy(net, images, time=False), images, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not ONNX, reason="ONNX packages not installed")
def test_int8_is_calibrated_and_judged_on_the_images_of_the_result(
    secateur: Call, pruned: Path, tmp_path: Path
) -> None:
    small = Path(shutil.copytree(pruned, tmp_path / "small"))
    (found,) = exported(secateur, "--int8", "--leave", "fc2", "--max-drop", "0.9")
    assert Path(found["path"]).name == "model.int8.onnx"
    assert found["int8"]["left"] == ["fc2"]
    assert found["int8"]["after"]["examples"] == 500
    artifact.check(small, ["model.int8.onnx"])
    (plain,) = exported(secateur, "--format", "onnx")
    for each in (found, plain):
        assert each["bytes"] == Path(each["path"]).stat().st_size
    assert found["bytes"] < plain["bytes"]


def test_int8_without_images_is_refused_before_the_work(secateur: Call) -> None:
    words = ("prune", "--model", "lenet5", "--method", "magnitude", "--keep", "0.5", "--export", "onnx-int8")
    refused = secateur(*words)
    assert refused.status == 1
    assert "int8 is calibrated on images, and there are none: give --calibrate a folder" in refused.err


def test_what_int8_may_lose_is_refused_by_its_flag(secateur: Call) -> None:
    refused = secateur("export", "nowhere", "--int8", "--max-drop", "-1")
    assert refused.err == "error: --max-drop must be a number from 0 on, not -1.0\n"
