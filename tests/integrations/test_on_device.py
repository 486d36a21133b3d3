"""The script that converts programs for phones: what it keeps, what it refuses. Its engines are not installed here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from secateur import export_pt2

SCRIPT = Path(__file__).parents[2] / "integrations" / "on_device.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("on_device", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    return export_pt2(net, torch.randn(1, 3, 8, 8), tmp_path_factory.mktemp("program") / "model.pt2").path


def converted(script: ModuleType, program: Path, out: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    def convert(module: Any, inputs: Any, path: Path) -> Any:
        path.write_bytes(b"converted")
        return lambda given: [factor * found for found in script.tensors(module(*given))]

    monkeypatch.setitem(script.CONVERTERS, ".pte", convert)
    monkeypatch.setattr(sys, "argv", ["on_device.py", str(program), str(out)])
    script.main()


def test_a_file_is_kept_if_its_outputs_are_those_of_the_program(
    script: ModuleType,
    program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    converted(script, program, tmp_path / "half.pte", monkeypatch, 1.0)
    assert "half.pte: 9 bytes, differs by 0.0e+00" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="computes something else"):
        converted(script, program, tmp_path / "other.pte", monkeypatch, 1.01)
    assert not (tmp_path / "other.pte").exists()


@pytest.mark.parametrize(
    ("given", "out", "sentence"),
    [
        ("model.pt2", "half.onnx", "ends in none of .pte, .tflite"),
        ("nothing.pt2", "half.pte", "there is no file"),
        ("model.pt2", "half.tflite", "litert_torch is missing"),
    ],
)
def test_one_clear_sentence(
    script: ModuleType, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], given: str, out: str, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["on_device.py", str(program.with_name(given)), str(tmp_path / out)])
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code
    assert sentence in f"{ended.value.code}{capsys.readouterr().err}"
    assert not (tmp_path / out).exists()
