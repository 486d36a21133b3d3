"""Commands that choose by weights say so where nobody has trained these."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from commands import Call
from secateur.models import build
from secateur.models.untrained import is_untrained

RECIPE = """
model = "nets.py:small"
data = "mnist5k"
controls = ["random"]
[target]
keeps = [1e-6]
multiple = 1
[[method]]
name = "magnitude"
"""
CHANCE = "warning: the weights of Sequential are as they were drawn at random"


@pytest.fixture(autouse=True)
def _networks_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.run.preflight.is_untrained", is_untrained)


@pytest.mark.parametrize("command", ["plan", "prune", "sensitivity"])
def test_weights_that_nobody_has_trained_are_warned_of_once(secateur: Call, command: str) -> None:
    network = ("--model", "nets.py:small", "--data", "mnist5k", "--multiple", "1", "--method", "magnitude")
    more = {
        "plan": ("--keep", "0.6"),
        "prune": ("--keep", "0.6", "--no-latency", "--export", "", "--repair", "none"),
        "sensitivity": ("--levels", "1", "--images", "50"),
    }
    untrained = secateur(command, *network, *more[command])
    assert untrained.err.count(CHANCE) == 1
    torch.save({name: it + 0.01 for name, it in build("nets.py:small").state_dict().items()}, "trained.pt")
    out = () if command == "plan" else ("--out", "other")
    trained = secateur(command, *network, *more[command], *out, "--weights", "trained.pt")
    assert (trained.status, CHANCE in trained.err) == (0, False)


@pytest.mark.parametrize("trains", [False, True])
def test_a_comparison_warns_of_weights_that_it_does_not_train(secateur: Call, trains: bool) -> None:
    text = RECIPE + ("[pretrain]\nepochs = 1\n" if trains else "")
    Path("few.toml").write_text(text)
    ended = secateur("compare", "few.toml", "--trust")
    assert "cannot keep only 1e-06" in ended.err  # said before the first run
    assert ended.err.count(CHANCE) == (0 if trains else 1)
