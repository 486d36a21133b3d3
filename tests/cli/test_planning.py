"""``plan`` tells what ``prune`` would remove, also where what was decided first cannot be carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Call
from plans import blind
from secateur.core.plan import Plan

LENT = '''
import torch
from torch import nn

class Lent(nn.Module):
    """Takes the shape of one tensor for another of heads, which fits where half of both are kept."""

    def __init__(self):
        super().__init__()
        self.first, self.value = nn.Conv2d(1, 16, 3, stride=4), nn.Conv2d(16, 16, 1)
        self.mix, self.last, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1), nn.Linear(3, 10)

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        v = self.value(x).view(n, 2, 8, h * w)
        y = self.last(x + self.mix((v @ torch.softmax(v.transpose(-2, -1) @ v, -1)).view(n, c, h, w)))
        return self.head(y.mean((2, 3)))
'''


@pytest.mark.parametrize("forecast", [[], ["--forecast"]])
def test_a_plan_that_cannot_be_carried_out_is_decided_again(
    secateur: Call, monkeypatch: pytest.MonkeyPatch, forecast: list[str]
) -> None:
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    Path("lent.py").write_text(LENT)
    words = ("--model", "lent.py:Lent", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.8")
    words = (*words, "--multiple", "1", "--runtime", "eager")
    planned = secateur("plan", *words, *forecast, "--out", "plan.json")
    assert planned.status == 0, planned.err
    ended = secateur("prune", *words, "--no-latency", "--export", "", "--out", "small", "--json")
    assert ended.status == 0, ended.err
    plan = Plan.from_json(Path("plan.json").read_text())
    assert plan.tried
    done = Plan.from_json(next(Path("small/plans").glob("*.json")).read_text())
    assert (done.dropped(), done.tried) == (plan.dropped(), plan.tried)
