"""``bench``: both networks of a result in several runtimes, and what it leaves in the folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from commands import Call
from secateur import artifact
from secateur.measure import count
from secateur.report.numbers import TIMES

QUICK = ("--seconds", "0.05", "--threads", "1")


@pytest.fixture
def folder(pruned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned, tmp_path / "small"))


def test_times_stand_side_by_side_and_are_kept(secateur: Call, folder: Path) -> None:
    ended = secateur("bench", folder, *QUICK, "--runtime", "eager,onnxruntime", "--batch-size", "2", "--json")
    found = json.loads(ended.out)
    assert ended.status == 0
    assert [entry["runtime"] for entry in found["runtimes"]] == ["eager", "onnxruntime"]
    assert (found["batch_size"], found["threads"], found["device"]) == (2, 1, "cpu")
    loaded, example = artifact.load(folder), artifact.load(folder).measurement["example"]
    assert example["shape"] == [1, 1, 28, 28]
    import torch

    one = torch.randn(1, 1, 28, 28)
    assert found["macs"] == {"dense": count(loaded.dense, one).macs, "pruned": count(loaded.model, one).macs}
    for entry in found["runtimes"]:
        assert 0 < entry["pruned"]["milliseconds"] < 1000
        assert entry["dense"]["difference"] < 1e-4
        assert 0 < entry["speedup_low"] <= entry["speedup"] <= entry["speedup_high"]
        assert entry["differs"] in (True, False)
        assert (entry["clock"], entry["rounds"] >= 11) == ("processor", True)
    kept = json.loads((folder / "bench.json").read_text())
    assert kept == {name: value for name, value in found.items() if name != "network"}
    assert "bench.json" in artifact.folder.manifest(folder)["files"]
    page = (folder / "report.html").read_text()
    assert "Speed in each runtime" in page
    assert "onnxruntime" in page
    artifact.load(folder)  # the report has changed, and its entry in the manifest with it


def test_the_table_fits_sixty_columns(secateur: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = secateur("bench", folder, *QUICK, "--runtime", "channels_last", "--no-save", "--quiet").out
    table, _, rest = out.partition("\n\n")
    assert max(len(line) for line in table.splitlines()) <= 60
    assert "channels_last" in table
    assert "MACs fell 2." in rest
    assert not (folder / "bench.json").exists()


@pytest.mark.parametrize("labelled", [True, False])
def test_the_four_corners_stand_in_the_terminal_and_on_the_page(
    secateur: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    from secateur.export.comparison import Int8
    from secateur.export.corners import Corner, Corners
    from secateur.measure import Latency, Quality, SideBySide
    from secateur.tasks import ACCURACY

    def fake(networks: object, example: object, **options: object) -> Corners:
        assert (list(networks), options["data"] is None) == (["dense", "pruned"], False)  # type: ignore[call-overload]
        assert options["untested"] == ("dense",)
        quality = Quality((ACCURACY,), (0.91,), 0.3, 1000) if labelled else None
        found = [
            Corner("dense", "float32", 4_000_000, quality),
            Corner("pruned", "int8", 500_000, quality, Int8(0.01, left=("conv1",))),
        ]
        latencies = {each.name: Latency(each.bytes / 1e6, 0.1, 11, 1, 1, "cpu", "onnxruntime") for each in found}
        turns = {name: (it.milliseconds,) * 11 for name, it in latencies.items()}
        times = SideBySide("onnxruntime", latencies, turns, dict.fromkeys(turns, 0.0))
        return Corners(tuple(found), (times,), ("the dense network in int8: it loses too much",))

    monkeypatch.setattr("secateur.export.corners.corners", fake)
    ended = secateur("bench", folder, *QUICK, "--runtime", "eager", "--int8", "--quiet")
    assert ended.status == 0, ended.err
    page = (folder / "report.html").read_text()
    for text in ("pruned int8", "1 layer in float32", "500 kB", f"8.00{TIMES}", *(["91.0"] if labelled else [])):
        assert text in page
        assert text in ended.out
    assert "Left out: the dense network in int8: it loses too much." in ended.said
    assert ("Accuracy" in ended.out) is labelled
    measured = json.loads((folder / "measurement.json").read_text())["before"]["quality"]
    dense, _ = json.loads((folder / "bench.json").read_text())["int8"]["corners"]
    assert dense["quality"] == (measured if labelled else None)  # not what it answers without its trained weights


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="ONNX packages not installed")
def test_both_networks_stand_in_both_precisions(secateur: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.export.likeness.LABELLED", 1.0)  # an untrained network answers at random
    ended = secateur("bench", folder, *QUICK, "--runtime", "onnxruntime", "--int8", "--quiet")
    assert ended.status == 0, ended.err
    assert "pruned int8" in ended.out
    found = json.loads((folder / "bench.json").read_text())["int8"]
    names = [(each["network"], each["precision"]) for each in found["corners"]]
    assert found["left_out"] == [
        "what the dense network answers in int8, for a result does not keep its trained weights"
    ]
    assert names == [(network, way) for network in ("dense", "pruned") for way in ("float32", "int8")]
    dense, dense_int8, pruned, pruned_int8 = found["corners"]
    assert dense_int8["quality"] is None
    assert all(each["quality"]["examples"] == 1000 for each in (dense, pruned, pruned_int8))
    assert dense["bytes"] > 3 * dense_int8["bytes"] > 3 * pruned_int8["bytes"]
    assert pruned["bytes"] > 2 * pruned_int8["bytes"]
    assert dense["times"]["onnxruntime"]["speedup"] == 1.0
    assert pruned["times"]["onnxruntime"]["speedup"] > 1.0
    page = (folder / "report.html").read_text()
    assert "In float32 and in int8" in page
    assert "pruned int8" in page


def test_what_is_not_installed_is_named_or_left_out(
    secateur: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    gone = ("onnxruntime", "openvino")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else found(name))
    monkeypatch.setattr("secateur.measure.runtimes.shutil.which", lambda name: None)
    ended = secateur("bench", folder, *QUICK, "--runtime", "openvino")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == 'error: openvino needs the package openvino; run: pip install "secateur[openvino]"\n'
    ended = secateur("bench", folder, *QUICK, "--quiet", "--no-save")
    assert ended.status == 0
    assert "eager" in ended.out
    assert 'Left out: onnxruntime needs the package onnxruntime; run: pip install "secateur[export]".' in ended.said
    assert "Left out: compile needs a C++ compiler" in ended.out


def test_damaged_times_are_named_by_the_report(secateur: Call, folder: Path) -> None:
    from secateur.errors import ArtifactError
    from secateur.report import write

    (folder / "bench.json").write_text('{"format": 1, "runtimes": [{}]}')
    with pytest.raises(ArtifactError, match=r"bench\.json is damaged: it lacks .*; remove it, and run secateur bench"):
        write(folder)
