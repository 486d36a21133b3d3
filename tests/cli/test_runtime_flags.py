"""The runtime on the command line: named once, for the budget and for the headline."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest

from commands import Call

SMALL = ("--model", "lenet5", "--data", "mnist5k", "--method", "magnitude", "--export", "", "--quiet")


def test_the_runtime_goes_from_the_flag_to_the_sentence_and_the_recipe(secateur: Call) -> None:
    ended = secateur("prune", *SMALL, "--keep", "0.3", "--runtime", "eager", "--threads", "1", "--out", "small")
    assert ended.status == 0
    assert "; a forward pass in PyTorch eager " in ended.said
    assert "Latency in PyTorch eager: batch of 1, cpu, 1 thread, processor time" in ended.out
    recipe = tomllib.loads(Path("small/recipe.toml").read_text())
    assert (recipe["runtime"], recipe["threads"]) == ("eager", 1)
    speed = json.loads(Path("small/measurement.json").read_text())["speed"]
    assert (speed["dense"]["runtime"], speed["dense"]["threads"], speed["clock"]) == ("eager", 1, "processor")
    assert speed["low"] <= speed["ratio"] <= speed["high"]


def test_a_runtime_that_is_not_installed_is_one_sentence(secateur: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    sentence = 'error: openvino needs the package openvino; run: pip install "secateur[openvino]"\n'
    ended = secateur("prune", *SMALL, "--keep", "0.5", "--runtime", "openvino", "--out", "small")
    assert (ended.status, ended.out, ended.err) == (1, "", sentence)
    assert not Path("small").exists()
    assert not Path("small.work").exists()
    ended = secateur("plan", *SMALL[:6], "--max-latency", "0.5", "--runtime", "openvino")
    assert ended.status == 1
    assert ended.err.endswith(sentence)
    assert secateur("plan", *SMALL[:6], "--keep", "0.5", "--runtime", "openvino").status == 0  # nothing is timed


def test_an_unknown_runtime_is_named(secateur: Call) -> None:
    ended = secateur("prune", *SMALL, "--keep", "0.5", "--runtime", "onnxrutime", "--out", "small")
    assert ended.status == 2
    assert "did you mean 'onnxruntime'" in " ".join(ended.err.split())
