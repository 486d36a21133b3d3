"""``--free-outputs`` wherever layers can be left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Call

FEATURES = """
import torch
from torch import nn

class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.neck, self.head = nn.Conv2d(1, 8, 5, stride=3), nn.Conv2d(8, 6, 3), nn.Linear(8, 10)

    def forward(self, x):
        maps = self.stem(x).relu()
        return self.head(maps.mean((2, 3))), [maps, self.neck(maps)]
"""
NETWORK = ("--model", "features.py:Features", "--data", "mnist5k")
METHOD = ("--method", "magnitude", "--multiple", "1")


@pytest.fixture(autouse=True)
def _network(secateur: Call, tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(FEATURES)


def document(secateur: Call, *words: str) -> dict[str, Any]:
    ended = secateur(*words, "--json")
    assert ended.status == 0, ended.err
    return json.loads(ended.out)


def test_explain_says_which_output_pins_a_layer_and_what_would_free_it(secateur: Call) -> None:
    rows = {row["layer"]: row for row in document(secateur, "explain", *NETWORK)["rows"]}
    assert (rows["stem"]["prunable"], rows["stem"]["reason"]) == (0, "an output of the network ('1.0')")
    assert "free_outputs" in rows["stem"]["remedy"]
    rows = {row["layer"]: row for row in document(secateur, "explain", *NETWORK, "--free-outputs", "1.0")["rows"]}
    assert [rows[name]["prunable"] for name in ("stem", "neck", "head")] == [8, 0, 0]
    refused = secateur("explain", *NETWORK, "--free-outputs", "2")
    assert refused.status == 1
    assert "no output of the network matches '2' in --free-outputs" in " ".join(refused.err.split())


def test_plan_and_sensitivity_look_at_groups_that_are_freed(secateur: Call) -> None:
    assert "--free-outputs" in secateur("plan", *NETWORK, *METHOD, "--keep", "0.5").err
    found = document(secateur, "plan", *NETWORK, *METHOD, "--keep", "0.5", "--free-outputs", "1")
    assert {group["group"] for group in found["groups"]} == {"stem", "neck"}
    assert found["plan"]["free_outputs"] == ["1"]
    words = ("--free-outputs", "1.0,1.1", "--levels", "1", "--images", "64", "--out", "curves")
    found = document(secateur, "sensitivity", *NETWORK, *METHOD, *words)
    assert {curve["group"] for curve in found["curves"]} == {"stem", "neck"}


def test_prune_notes_it_in_the_recipe_and_the_result_loads(secateur: Call) -> None:
    words = ("--keep", "0.2", "--no-latency", "--export", "", "--out", "out")
    found = secateur("prune", *NETWORK, *METHOD, *words, "--free-outputs", "1.*")
    assert found.status == 0, found.err
    assert 'free_outputs = [\n  "1.*",\n]' in Path("out/recipe.toml").read_text()
    rows = document(secateur, "explain", "out", "--trust", "--free-outputs", "1.*")["rows"]
    left = {row["layer"]: row["width"] for row in rows if row["prunable"]}
    assert left.keys() == {"stem", "neck"}
    assert left["stem"] < 8
    assert left["neck"] < 6
