"""What is in no count of MACs is named by every command that speaks of MACs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import Call

CODE = """
import torch
from torch import nn

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 16, 3, 2, 1))
        self.o = nn.Linear(16, 10)

    def forward(self, x):
        return self.o(torch.linalg.inv(self.c(x) + 40 * torch.eye(7)).mean((2, 3)))
"""
OPERATOR = "aten.linalg_inv_ex"
LEAST = 16 * 7 * 7


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "mixed.py").write_text(CODE)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 1, 28, 28), dtype=np.float32))
    return ("--model", "mixed.py:Mixed")


def test_sizes_and_explanations(secateur: Call, words: tuple[str, ...]) -> None:
    measured = secateur("measure", *words, "--image", "1x28x28", "--no-latency", "--json")
    counts = json.loads(measured.out)["counts"]
    assert (counts["uncounted"], counts["uncounted_macs"]) == (OPERATOR, LEAST)
    assert f"at least {LEAST} MACs in {OPERATOR}" in " ".join(
        secateur("measure", *words, "--image", "1x28x28", "--no-latency").out.split()
    )
    explained = secateur("explain", *words, "--image", "1x28x28", "--json")
    assert json.loads(explained.out)["uncounted"] == OPERATOR
    assert f"Not counted: {OPERATOR}." in secateur("explain", *words, "--image", "1x28x28").out


def test_plans_and_runs_do_not_call_the_target_met(secateur: Call, tmp_path: Path, words: tuple[str, ...]) -> None:
    asked = (*words, "--calibrate", "x.npy", "--method", "magnitude", "--keep", "0.6", "--repair", "none")
    sentence = f"at least {LEAST} MACs in {OPERATOR} are not counted: the target of 0.6 of the MACs is met only if"
    planned = secateur("plan", *asked)
    assert planned.status == 0, planned.err
    assert f"A{sentence[1:]}" in " ".join(planned.out.split())
    assert json.loads(secateur("plan", *asked, "--json").out)["uncounted"].startswith(sentence)
    ended = secateur("prune", *asked, "--no-latency", "--export", "", "--out", "small")
    assert ended.status == 0, ended.err
    assert f"A{sentence[1:]}" in " ".join(ended.out.split())
    assert "of its counted MACs" in " ".join(ended.out.split())
    assert f"warning: at least {LEAST} MACs in {OPERATOR} are not counted" in " ".join(ended.err.split())
    document = json.loads((tmp_path / "small" / "measurement.json").read_text())
    assert document["uncounted"].startswith(sentence)
    assert document["after"]["counts"]["uncounted"] == OPERATOR
    page = (tmp_path / "small" / "report.html").read_text()
    assert f"At least {LEAST} MACs in {OPERATOR}" in page
    assert "of those that are counted" in page
