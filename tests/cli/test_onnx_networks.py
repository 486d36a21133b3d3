"""Commands about a network that an ONNX file holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from commands import run
from onnx_made import node, pictures, written


def test_a_file_is_pruned_from_images_alone_and_its_result_goes_through_every_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(Path("net.onnx"))
    np.save("images.npy", np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32))
    asked = ["--model", "net.onnx", "--calibrate", "images.npy", "--keep", "0.5"]
    made = run(capsys, "prune", *asked, "--export", "onnx", "--no-latency", "--out", "half", "--json")
    assert made.status == 0, made
    document = json.loads(made.out)
    assert document["method"]["name"] == "reconstruction"
    assert document["repairs"][0]["step"] == "reconstruct"
    assert [it.name for it in onnx.load("half/model.onnx").graph.input] == ["x"]
    Path("net.onnx").rename("moved.onnx")  # what follows needs the folder alone
    for words in (
        ["explain", "half"],
        ["measure", "half", "--no-latency"],
        ["export", "half", "--format", "source"],
        ["export", "half", "--int8"],
    ):
        ended = run(capsys, *words)
        assert ended.status == 0, ended
    gone = run(capsys, "run", "half", "--out", "again")
    assert gone.status == 1
    assert "cannot read the ONNX file net.onnx" in gone.err


def test_what_cannot_be_read_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("LpPool", "x", kernel_shape=[2, 2])])
    ended = run(capsys, "explain", "--model", str(path))
    assert ended.status == 1
    assert "there is no way to say LpPool in PyTorch here" in ended.err
    assert "Traceback" not in ended.err
