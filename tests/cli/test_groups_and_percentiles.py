"""Odd numbers and odd networks for weak_subnetwork and self_grouping: one clear sentence, or a sound plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from commands import Call

NETS = """
import torch
from torch import nn

class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 6, 5), nn.Conv2d(1, 6, 5), nn.Conv2d(6, 10, 24)

    def forward(self, x):
        return self.c(self.a(x) + self.b(x)).flatten(1)

def equal():
    net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(3200, 10))
    with torch.no_grad():
        net[2].weight[:] = net[2].weight[:1]
        net[5].weight.zero_()
    return net

def few():
    return nn.Sequential(nn.Conv2d(1, 2, 9, stride=9), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "odd.py").write_text(NETS)
    return "odd.py"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["weak_subnetwork", "--conv", "101"], "conv is a percentile and must be in 0 to 100, not 101"),
        (["weak_subnetwork", "--fc=-1"], "fc is a percentile and must be in 0 to 100, not -1"),
        (["weak_subnetwork", "--junction", "1e9"], "junction is a percentile and must be in 0 to 100"),
        (["weak_subnetwork", "--criterion", "activation", "--batches", "0"], "batches must be at least 1, not 0"),
        (["self_grouping", "--conv", "100.5"], "conv is a percentage and must be in 0 to 100, not 100.5"),
        (["self_grouping", "--fc=-3"], "fc is a percentage and must be in 0 to 100, not -3"),
        (["self_grouping", "--method-groups", "0"], "groups must be at least 1, not 0"),
        (["self_grouping", "--min-inputs=-1"], "min_inputs must not be negative, not -1"),
        (["self_grouping", "--align", "0"], "align must be at least 1, not 0"),
        (["self_grouping", "--dense", "*"], "no layer can be regrouped"),
        (["self_grouping", "--fc", "0", "--keep", "0.05"], "cannot keep only 0.05 of the macs: .* raise fc"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_out_of_range_are_one_sentence(secateur: Call, words: list[str], sentence: str):
    ended = secateur("plan", "--model", "lenet5", "--data", "mnist5k", "--quiet", "--method", *words)
    assert ended.status == 1
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.err.lower().startswith("error: ")
    assert re.search(sentence, ended.err), ended.err


def test_a_network_without_layer_pairs_is_one_sentence(secateur: Call, nets: str):
    ended = secateur("plan", "--model", f"{nets}:Stream", "--data", "mnist5k", "--method", "weak_subnetwork", "--quiet")
    assert ended.status == 1
    assert "no two layers hold units of their own between them; try streams = tied" in ended.err
    tied = secateur(
        "plan", "--model", f"{nets}:Stream", "--data", "mnist5k", "--method", "weak_subnetwork", "--streams", "tied",
        "--keep", "0.5", "--json",
    )  # fmt: skip
    assert tied.status == 0
    found = json.loads(tied.out)
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]


@pytest.mark.parametrize("network", ["equal", "few"])
@pytest.mark.parametrize("percent", ["0", "50", "100"])
def test_more_groups_than_filters_and_empty_clusters_are_no_trouble(
    secateur: Call, nets: str, network: str, percent: str
):
    """Equal filters fill one cluster of 99; what goes is removed for real and verified."""
    words = ("--model", f"{nets}:{network}", "--data", "mnist5k", "--method", "self_grouping", "--method-groups", "99")
    levels = ("--conv", percent, "--fc", percent, "--restarts", "1")
    ended = secateur("prune", *words, *levels, "--no-latency", "--export", "", "--out", "new", "--json")
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["verification"]["exact"]
    less = found["after"]["counts"]["macs"] < found["before"]["counts"]["macs"]
    assert less == (percent != "0")
