"""What the commands print: numbers that the library confirms, JSON that is nothing else, lines that fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import forgery
from commands import Call
from secateur import artifact
from secateur.cli import tables
from secateur.data import load_data
from secateur.measure import count, quality
from secateur.methods import METHODS


def document(secateur: Call, *words: object) -> dict[str, Any]:
    """Return what a command prints as JSON; it may print nothing else."""
    ended = secateur(*words, "--json")
    assert (ended.status, ended.err) == (0, "")
    return json.loads(ended.out, parse_constant=pytest.fail)


def test_measure_counts_what_the_library_counts(secateur: Call, pruned: Path):
    loaded = artifact.load(pruned)
    found = document(secateur, "measure", pruned, "--no-latency")
    counts = count(loaded.model, load_data("mnist5k").example())
    assert found["counts"]["macs"] == counts.macs
    assert found["counts"]["params"] == counts.params == sum(x.numel() for x in loaded.model.parameters())
    assert found["latency"] is None


def test_measure_times_what_was_asked_for(secateur: Call, pruned: Path):
    words = ("measure", pruned, "--batch-size", "3", "--threads", "1", "--seconds", "0.05")
    latency = document(secateur, *words)["latency"]
    assert (latency["batch_size"], latency["threads"], latency["device"]) == (3, 1, "cpu")
    assert latency["milliseconds"] > 0
    text = secateur(*words).out
    assert "cpu, 1 thread, eager" in text


def test_counts_are_of_one_image_whatever_the_batch(secateur: Call):
    words = ("measure", "--model", "lenet5", "--image", "1x28x28", "--classes", "10", "--no-latency")
    found = document(secateur, *words)
    assert found["counts"]["macs"] == 2_293_000
    assert document(secateur, *words, "--batch-size", "7")["counts"] == found["counts"]


def test_evaluate_agrees_with_the_library(secateur: Call, pruned: Path):
    found = document(secateur, "evaluate", pruned, "--split", "val", "--batch-size", "100")
    data = load_data("mnist5k")
    expected = quality(artifact.load(pruned).model, data.batches("val", 250))
    assert found["examples"] == expected.examples == data.size("val")
    assert found["metrics"][0]["value"] == pytest.approx(expected.value)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert (found["mean"], found["std"]) == (list(data.mean), list(data.std))
    mean, std = data.mean[0], data.std[0]
    assert f"Images normalised with --mean {mean:.4g} --std {std:.4g}." in secateur("evaluate", pruned).out


def with_normalisation(pruned: Path, folder: Path, normalisation: object) -> Path:
    """Return a copy of a result whose file says another normalisation, with the right hash."""
    shutil.copytree(pruned, folder)
    content = json.loads((folder / "measurement.json").read_text())
    forgery.write(folder, "measurement.json", json.dumps({**content, "normalisation": normalisation}).encode())
    return folder


def test_nothing_but_mean_and_deviation_is_taken_from_the_normalisation_of_a_result(
    secateur: Call, pruned: Path, tmp_path: Path
):
    forged = {"mean": [0.5], "std": [0.25], "data": "nowhere", "seed": 7, "unknown": 1}
    folder = with_normalisation(pruned, tmp_path / "forged", forged)
    found = document(secateur, "evaluate", folder, "--split", "val")
    assert (found["mean"], found["std"]) == ([0.5], [0.25])
    assert found["examples"] == load_data("mnist5k").size("val")


def test_a_result_that_says_no_normalisation_takes_that_of_the_data(secateur: Call, pruned: Path, tmp_path: Path):
    found = document(secateur, "evaluate", with_normalisation(pruned, tmp_path / "old", None), "--split", "val")
    assert found["mean"] == list(load_data("mnist5k").mean)


@pytest.mark.parametrize(
    "normalisation",
    [[1], "x", 3, {"mean": [0.5]}, {"mean": 0.5, "std": 0.5}, {"mean": ["a"], "std": [1]}, {"mean": [0], "std": [0]},
     {"mean": [0, 0], "std": [1]}, {"mean": {"a": 1}, "std": [1]}, {"mean": [10**400], "std": [1]}],
)  # fmt: skip
def test_a_normalisation_that_is_none_is_refused(secateur: Call, pruned: Path, tmp_path: Path, normalisation: object):
    folder = with_normalisation(pruned, tmp_path / "forged", normalisation)
    ended = secateur("evaluate", folder)
    assert (ended.status, ended.out) == (1, "")
    assert re.fullmatch(r"error: \S*forged/measurement\.json (is damaged|cannot be used): .*\n", ended.err), ended.err
    assert secateur("measure", folder, "--no-latency").status == 0  # which needs no images


def test_explain_lists_every_layer_and_what_is_pinned(secateur: Call):
    found = document(secateur, "explain", "--model", "lenet5", "--data", "mnist5k", "--leave", "conv1")
    rows = {row["layer"]: row for row in found["rows"]}
    assert list(rows) == ["conv1", "conv2", "fc1", "fc2"]
    assert [rows[name]["prunable"] for name in rows] == [0, 50, 500, 0]
    assert all(row["reason"] for row in rows.values() if row["prunable"] < row["width"])
    assert 0 < found["reachable"] < 1


def test_streams_are_left_alone_and_that_is_said(secateur: Call):
    words = ("--model", "resnet20", "--groups", "inside blocks")
    found = document(secateur, "explain", *words)
    assert {row["layer"] for row in found["rows"] if row["prunable"]} == {
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)
    }
    assert "3 groups of 64 units that several layers put out" in found["spared"]
    assert "spared" not in document(secateur, "explain", "--model", "resnet20")
    said = "Left alone: 3 groups of 64 units that several layers put out and add up (groups = inside blocks)."
    assert said in secateur("explain", *words).said
    decided = secateur("plan", *words, "--method", "magnitude", "--keep", "0.7")
    assert said in decided.said
    assert "conv2" not in decided.out


def test_explain_explains_a_network_without_anything_to_prune(secateur: Call):
    ended = secateur("explain", "--model", "nets.py:pinned", "--data", "mnist5k")
    assert ended.status == 0
    assert "an output of the network" in ended.out
    assert "0 of 1 layers" in ended.out
    assert "keeps 100 % of the MACs" in ended.out


def test_the_plan_is_what_prune_carries_out(secateur: Call, pruned: Path, tmp_path: Path):
    words = ("plan", "--model", "lenet5", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.5")
    found = document(secateur, *words, "--out", "plan.json")
    (carried_out,) = artifact.load(pruned).plans
    assert json.loads((tmp_path / "plan.json").read_text()) == found["plan"] == json.loads(carried_out.to_json())
    measured = json.loads((pruned / "measurement.json").read_text())
    assert found["before"]["macs"] == measured["before"]["counts"]["macs"]
    assert found["after"]["macs"] == measured["after"]["counts"]["macs"]
    assert found["after"]["params"] == measured["after"]["counts"]["params"]
    again = secateur(*words, "--out", "plan.json")
    assert again.status == 1
    assert "plan.json exists already" in again.err
    assert secateur(*words, "--out", "plan.json", "--force").status == 0


def test_methods_and_show_tell_what_the_methods_say_of_themselves(secateur: Call):
    assert [row["name"] for row in document(secateur, "methods")["methods"]] == list(METHODS)
    text = secateur("methods").out
    assert all(name in text for name in METHODS)
    found = document(secateur, "show", "magnitude")
    assert found["paper"]["title"] == METHODS["magnitude"].paper.title
    assert {s["name"]: s["choices"] for s in found["settings"]}["norm"] == ["l1", "l2"]
    assert {"Idea", "Rule", "Needs", "Cost"} <= set(found["card"])
    text = secateur("show", "magnitude").out
    assert METHODS["magnitude"].paper.bibtex() in text


def test_export_is_written_into_the_manifest(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "small")
    found = document(secateur, "export", "small")["exports"]
    assert [each["path"] for each in found] == ["small/model.pt2", "small/model.onnx"]
    assert all(each["difference"] <= 1e-4 for each in found)
    artifact.check("small")
    assert "model.pt2" in json.loads((tmp_path / "small" / "manifest.json").read_text())["files"]
    again = secateur("export", "small", "--format", "pt2", "--source")  # the docs export after a run that has
    assert again.status == 0, again.err
    artifact.check("small")


@pytest.mark.parametrize("name", ["model.py", "model.safetensors"])
def test_a_file_that_is_no_export_of_the_result_is_not_replaced(
    secateur: Call, pruned: Path, tmp_path: Path, name: str
):
    shutil.copytree(pruned, tmp_path / "small")
    (tmp_path / "small" / name).write_text("mine")
    for source in (("--source",), ("--format", "source")):
        refused = secateur("export", "small", *source)
        assert refused.status == 1
        assert f"small/{name} exists already and is no export" in refused.err
        assert "replace it with --force" in refused.err
    assert (tmp_path / "small" / name).read_text() == "mine"
    assert secateur("export", "small", "--source", "--force").status == 0
    artifact.check("small")
    with (tmp_path / "small" / name).open("ab") as file:
        file.write(b"\n")
    assert "is no export" in secateur("export", "small", "--source").err


def test_source_is_exported_with_its_weights(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "small")
    found = document(secateur, "export", "small", "--source")
    assert [(e["path"], e["kind"]) for e in found["exports"]] == [("small/model.py", "source")]
    files = json.loads((tmp_path / "small" / "manifest.json").read_text())["files"]
    assert {"model.py", "model.safetensors"} <= files.keys()
    artifact.check("small")
    assert "class Network(nn.Module)" in (tmp_path / "small" / "model.py").read_text()


QUESTIONS = (
    ("explain", "--model", "resnet20", "--data", "mnist5k"),
    ("plan", "--model", "resnet20", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.5"),
    ("measure", "--model", "lenet5", "--data", "mnist5k", "--seconds", "0.05"),
    ("methods",),
)


@pytest.mark.parametrize("words", QUESTIONS, ids=lambda words: words[0])
def test_answers_fit_sixty_columns_of_a_terminal_and_hold_no_codes_elsewhere(
    secateur: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    monkeypatch.setenv("COLUMNS", "60")
    plain = secateur(*words)
    assert plain.status == 0
    assert "\x1b" not in plain.out + plain.err
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    shown = re.sub(r"\x1b\[[0-9;]*m", "", secateur(*words).out)
    assert max(map(len, shown.splitlines())) <= 60


def test_quiet_prints_results_alone(secateur: Call):
    loud = secateur("explain", "--model", "lenet5", "--data", "mnist5k")
    assert loud.err.startswith("reading the network")
    quiet = secateur("explain", "--model", "lenet5", "--data", "mnist5k", "--quiet")
    assert quiet.err == ""
    assert quiet.out == loud.out


def test_widths_are_chosen_for_each_group_unless_a_number_is_given(secateur: Call):
    def kept(*words: str) -> list[int]:
        flags = ("--model", "lenet5", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.6", *words)
        return [group["kept"] for group in document(secateur, "plan", *flags)["groups"]]

    conv1, conv2, fc1 = kept()
    assert (conv1 % 8, conv2 % 16, fc1) == (0, 0, 500)  # of 20, 50 and 500; half of the blocks in the narrow one
    assert kept("--multiple", "auto") == [conv1, conv2, fc1]
    assert [width % 5 for width in kept("--multiple", "5")] == [0, 0, 0]
    assert kept("--multiple", "1") not in ([conv1, conv2, fc1], kept("--multiple", "5"))


def test_paragraphs_are_wrapped_in_a_pipe_where_columns_say_how(
    secateur: Call, pruned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    narrow = secateur("explain", pruned)  # in 80 columns
    text = next(line for line in narrow.out.splitlines() if line.startswith("By default"))
    assert max(len(line) for line in narrow.out.splitlines()) <= 80
    assert not text.endswith(" ")
    monkeypatch.delenv("COLUMNS")
    whole = secateur("explain", pruned)
    assert any(line.startswith("By default") and line.endswith("small groups.") for line in whole.out.splitlines())
    assert whole.said.endswith(narrow.said[-150:])
    monkeypatch.setenv("COLUMNS", "30")
    capsys.readouterr()
    tables.say("Plan: a/very/long/path/that/somebody/will/copy.json")
    assert capsys.readouterr().out.splitlines() == ["Plan:", "a/very/long/path/that/somebody/will/copy.json"]
