"""Comparisons in float32 and in int8: who is asked for, and where the numbers stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from secateur.compare import Comparison, carry_out, gather, run_one, write
from secateur.compare.run_files import path_of
from secateur.data import Data
from secateur.errors import ExportError, SettingError
from secateur.export.corners import Corner, Corners
from secateur.measure import Latency, SideBySide


def timed(sizes: dict[str, int]) -> SideBySide:
    latencies = {name: Latency(each / 1000, 0.1, 11, 1, 1, "cpu", "onnxruntime") for name, each in sizes.items()}
    turns = {name: (each / 1000,) * 11 for name, each in sizes.items()}
    return SideBySide("onnxruntime", latencies, turns, dict.fromkeys(sizes, 0.0))


def test_pruned_networks_stand_in_both_precisions(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corners(networks: dict[str, nn.Module], inputs: Any, **options: Any) -> Corners:
        assert options["data"] is colours
        found: list[Corner] = []
        for name, model in networks.items():
            size = 4 * sum(p.numel() for p in model.parameters())
            found += [Corner(name, "float32", size, None), Corner(name, "int8", size // 4, None)]
        sizes = {corner.name: corner.bytes for corner in found}
        return Corners(tuple(found), (timed(sizes),), ("OpenVINO is elsewhere",))

    monkeypatch.setattr(run_one, "corners", corners)
    monkeypatch.setattr(run_one, "missing", lambda kind: "")
    text = "int8 = true\ncontrols = []\n" + small.replace("[0, 1]", "[0]").replace(
        "[train]\nepochs = 2", "[train]\nepochs = 1"
    )
    comparison = Comparison.from_toml(text)
    ((request, run),) = carry_out(comparison, tmp_path)
    assert run.int8 is not None
    ratios = [entry["times"]["onnxruntime"]["speedup"] for entry in run.int8["corners"]]
    dense, pruned = run.dense_params, run.params
    assert ratios == pytest.approx([1, 4, dense / pruned, 4 * dense / pruned], rel=0.01)
    _, written = write(comparison, gather(comparison, tmp_path), tmp_path)
    page = written.page.read_text("utf-8")
    assert "In float32 and in int8" in page
    assert f"<td>{request.label}</td><td>0.5</td><td>pruned int8</td>" in page
    assert page.count("dense float32</td>") == 1
    assert "seed 0: OpenVINO is elsewhere" in page
    path = path_of(tmp_path, request)
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "int8"}))
    _, written = write(comparison, gather(comparison, tmp_path), tmp_path)  # of an earlier version
    assert "In float32 and in int8" not in written.page.read_text("utf-8")


def test_what_cannot_be_written_is_refused_before_the_first_run(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingError, match="'int8' must be true or false, not 'yes'"):
        Comparison.from_toml(f'int8 = "yes"\n{small}')
    monkeypatch.setattr(run_one, "missing", lambda kind: f"{kind} needs something")
    with pytest.raises(ExportError, match="onnx-int8 needs something"):
        carry_out(Comparison.from_toml(f"int8 = true\n{small}"), tmp_path)
