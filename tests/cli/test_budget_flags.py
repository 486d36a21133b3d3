"""Limits on the command line: in flags, in the recipe, in what is printed and in what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import save_file

from commands import Call
from secateur.data import load_data
from secateur.models import build
from secateur.run import budget_target
from secateur.run.budget_terms import Bargain
from secateur.training import Settings, fit

SMALL = ("--model", "lenet5", "--data", "mnist5k", "--method", "magnitude")
SMALL += ("--no-latency", "--export", "", "--quiet")


def test_limits_go_from_flags_to_the_result(secateur: Call) -> None:
    ended = secateur("prune", *SMALL, "--max-macs", "0.7", "--max-params", "0.4", "--max-drop", "0.9", "--out", "small")
    assert ended.status == 0
    assert "points lost; at most 90.00 points might be lost" in ended.said
    with open("small/recipe.toml") as file:
        assert "[budget]\n" in file.read().replace("  ", "")
    with open("small/measurement.json") as file:
        document = json.load(file)
    before, after = document["before"]["counts"], document["after"]["counts"]
    assert after["macs"] <= 0.7 * before["macs"]
    assert after["params"] <= 0.4 * before["params"]
    assert document["budget"]["drop"]["asked"] == 0.9
    with open("small/report.html") as file:
        assert "at most 90.00 points might be lost" in file.read()


@pytest.mark.slow
def test_plan_settles_a_latency(secateur: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(budget_target, "Bargain", partial(Bargain, seconds=0.1))
    words = ("--max-latency", "0.9", "--runtime", "onnxruntime", "--threads", "1", "--json")
    found = json.loads(secateur("plan", "--model", "resnet20", *words).out)
    assert found["after"]["macs"] < found["before"]["macs"]


def test_a_plan_reckons_with_the_repair_that_follows(secateur: Call, tmp_path: Path) -> None:
    data, model = load_data("mnist5k"), build("nets.py:small")
    fit(model, data, Settings(epochs=2, batch_size=64, optimizer="adamw", lr=5e-3, augment="none"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    words = ("--model", "nets.py:small", "--weights", "w.safetensors", "--data", "mnist5k", "--method", "random_units")

    def left(*more: str) -> int:
        ended = secateur("plan", *words, "--max-drop", "0.1", "--multiple", "1", "--json", *more)
        assert ended.status == 0, ended.err
        return json.loads(ended.out)["after"]["macs"]

    assert left() < left("--repair", "none")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--max-latency", "fast"), '--max-latency must be a fraction up to 1 or a time such as 12ms, not "fast"'),
        (("--max-macs", "-3"), "--max-macs must be a fraction up to 1 or a number above 1, not -3.0"),
        (("--drop-after", "cut"), "a budget needs a limit: --max-macs, --max-params, --max-latency or --max-drop"),
        (
            ("--max-drop", "0.1", "--drop-after", "training"),
            "the drop is to count after fine-tuning, but none is asked",
        ),
    ],
)
def test_impossible_limits_are_one_sentence(secateur: Call, words: tuple[str, ...], line: str) -> None:
    ended = secateur("prune", *SMALL, *words, "--out", "small")
    assert ended.status == 1
    assert ended.err.startswith(f"error: {line}")
    assert ended.err.count("\n") == 1
