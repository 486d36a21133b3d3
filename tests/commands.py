"""Calling the command line from tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

NETWORKS = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 10),
    )

def coloured():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def pinned():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def broken():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7, 10))

def poisoned():
    model = small()
    model[2].weight.data[0, 0, 0, 0] = float("nan")
    return model

def number():
    return 3

def raising():
    raise RuntimeError("out of luck")
"""
PRUNED = ("--model", "lenet5", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.5")
PRUNED += ("--no-latency", "--export", "")


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Return standard output with its paragraphs in single lines, however wide the terminal is."""
        return " ".join(self.out.split())


Call = Callable[..., Ended]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Ended:
    """Run a command in this process."""
    from secateur.cli.app import app

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        app([str(word) for word in words], prog_name="secateur")
    out, err = capsys.readouterr()
    return Ended(int(ended.value.code or 0), out, err)
