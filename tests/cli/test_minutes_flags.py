"""``--minutes`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import Call
from secateur import artifact

QUICK = ("--keep", "0.5", "--no-latency", "--export", "", "--method", "random_units")


@pytest.fixture
def digits(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((80, 1, 28, 28)).astype(np.float32))
    return "x.npy"


def test_a_little_time_is_used_and_told(secateur: Call, tmp_path: Path, digits: str):
    words = ("--model", "lenet5", "--calibrate", digits, *QUICK, "--minutes", "0.02")
    ended = secateur("prune", *words, "--out", "new")
    assert ended.status == 0, ended.err
    text = ended.out.replace("\n", " ")
    assert "Minutes: Of 0.02 minutes the repair took " in text
    assert "Not fine-tuned" not in text
    recipe, measurement = artifact.load(tmp_path / "new").recipe, artifact.load(tmp_path / "new").measurement
    assert recipe is not None
    assert recipe.minutes == 0.02
    assert measurement["minutes"]["repair"] > 0
    assert "Of 0.02 minutes the repair took " in (tmp_path / "new" / "report.html").read_text()


def test_none_is_the_repair_alone(secateur: Call, digits: str):
    words = ("--model", "lenet5", "--calibrate", digits, *QUICK, "--minutes", "0", "--json", "--out", "new")
    ended = secateur("prune", *words)
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert [done["step"] for done in found["repairs"]] == ["reconstruct"]
    assert found["minutes"]["way"] == "none"
    assert found["minutes"]["ended"] == "no time was given for it"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--minutes", "-1", "--calibrate", "x.npy"], 1, "--minutes must be a number of minutes of at least 0, not -1"),
        (
            ["--minutes", "nan", "--calibrate", "x.npy"],
            1,
            "--minutes must be a number of minutes of at least 0, not nan",
        ),
        (["--minutes", "soon", "--calibrate", "x.npy"], 2, "'soon' is not a number"),
        (["--minutes", "1"], 1, "minutes need images, labels or not; give --calibrate or --data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(
    secateur: Call, tmp_path: Path, digits: str, words: list[str], status: int, sentence: str
):
    ended = secateur("prune", "--model", "lenet5", *QUICK, *words, "--out", "new", "--quiet")
    assert ended.status == status, ended
    assert sentence in " ".join(ended.err.replace("\u2502", " ").split())
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.work").exists()


def test_a_comparison_has_no_minutes(secateur: Call, tmp_path: Path):
    (tmp_path / "both.toml").write_text(
        'model = "lenet5"\ndata = "mnist5k"\nminutes = 1\n[target]\nkeeps = [0.5]\n[[method]]\nname = "magnitude"\n'
    )
    ended = secateur("compare", "both.toml", "--out", "both", "--quiet")
    assert ended.status == 1
    assert "a comparison trains by epochs" in ended.err
