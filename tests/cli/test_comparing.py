"""``compare`` and ``sensitivity``, end to end on a network of two layers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from commands import Call
from secateur.cli.compare import speak
from secateur.compare.comparison import CONTROLS
from secateur.compare.findings import Findings, Line
from secateur.compare.significance import Spread, Verdict
from secateur.core.selection.sensitivity_curves import Curve
from secateur.models import build
from secateur.run import subject
from secateur.tasks import Classification

RECIPE = """
model = "nets.py:small"
data = "mnist5k"
controls = ["random"]
[target]
keeps = [0.6]
multiple = 1
[[method]]
name = "magnitude"
"""


def test_a_comparison_is_listed_carried_out_and_shown(secateur: Call, tmp_path: Path) -> None:
    Path("few.toml").write_text(RECIPE)
    listed = secateur("compare", "few.toml", "--list")
    assert listed.status == 0
    assert re.search(r"random units, keep 0\.6, repair reconstruct, seed 0 +0 +no", listed.out)
    assert "2 runs are left, 0 epochs in all." in listed.out
    early = secateur("compare", "few.toml", "--show")
    assert early.status == 1
    assert early.err.count("\n") == 1
    assert "there is no run of this comparison in out/few yet" in early.err

    ended = secateur("compare", "few.toml", "--trust")
    assert ended.status == 0
    assert "run 2 of 2: random units, keep 0.6, repair reconstruct, seed 0" in ended.err
    assert re.search(r"magnitude +0\.6 +58\.7 +\d+\.\d\d", ended.out)
    assert re.search(r"dense network +100\.0 +\d+\.\d\d", ended.out)
    assert "One seed: no standard deviation" in ended.out
    assert "Repaired after the cut by: reconstruct." in ended.out
    assert {path.name for path in Path("out/few").iterdir()} == {
        "comparison.html", "comparison.json", "recipe.toml", "runs", "runs.csv", "table.csv", "work",
    }  # fmt: skip
    assert Path("out/few/recipe.toml").read_text() == RECIPE
    rows = list(csv.DictReader(Path("out/few/table.csv").read_text().splitlines()))
    assert [row["against_random"] for row in rows if row["method"] == "magnitude"] == ["one seed: nothing can be said"]
    again = secateur("compare", "few.toml", "--show", "--json")
    assert again.status == 0
    assert json.loads(again.out)["done"] == 2


def test_no_line_of_the_table_is_longer_than_the_terminal_and_verdicts_are_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [
        Line(
            label=label, method="", control=True, keep=0.5, test=Spread((0.9123, 0.9256)), val=Spread((0.5,)), cut=None,
            dense=Spread((1.0,)), macs=0.5, params=0.5, latency=None, speedup=None, epochs=1, seeds=(0, 1),
            metric=Classification().metric,
            repair=repair, against_random=Verdict(-12.3, 1.23e-05, "worse by 12.30 points (p = 1.2e-05)"),
        )
        for label in CONTROLS.values()
        for repair in ("none", "reconstruct + recalibrate")
    ]  # fmt: skip
    speak(Findings(tuple(lines), (), 1, 1, Spread((1.0, 0.9))))
    out = capsys.readouterr().out
    assert max(map(len, out.split("\n\n")[0].splitlines())) <= 80
    assert out.count("worse, p 1e-05") == len(lines)


@pytest.mark.parametrize("place", ["", ".", ".."])
def test_a_comparison_needs_a_folder_of_its_own(secateur: Call, place: str) -> None:
    Path("few.toml").write_text(RECIPE)
    before = sorted(Path().iterdir())
    for more in ([], ["--list"], ["--show"]):
        ended = secateur("compare", "few.toml", f"--out={place}", "--trust", *more)
        assert ended.status == 1
        assert re.match(r"error: '[./]+' is no name for a result; name a folder of its own", ended.err)
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"magnitude"', '"magnitud"', r"error: few\.toml: unknown method 'magnitud' \(did you mean 'magnitude'\?\)"),
        ("0.6", "0.0", r"error: few\.toml: 'keeps' must be fractions in \(0, 1\], not 0\.0"),
    ],
)
def test_a_bad_comparison_is_one_sentence(secateur: Call, old: str, new: str, message: str) -> None:
    Path("few.toml").write_text(RECIPE.replace(old, new))
    ended = secateur("compare", "few.toml")
    assert ended.status == 1
    assert ended.out == ""
    assert re.match(message, ended.err)
    assert ended.err.count("\n") == 1
    assert not Path("out").exists()


def test_sensitivity_is_printed_drawn_and_kept(secateur: Call) -> None:
    words = ("sensitivity", "--model", "nets.py:small", "--data", "mnist5k", "--multiple", "1")
    words = (*words, "--images", "100", "--levels", "4")
    ended = secateur(*words, "--out", "curves")
    assert ended.status == 0
    assert re.search(r"^0 +8 +~\d+\.\d\d +\d+\.\d\d +~\d+\.\d\d", ended.out, re.MULTILINE)
    assert "What has a ~ was not measured" in ended.out
    document = json.loads(Path("curves/sensitivity.json").read_text())
    found = [Curve.from_dict(curve) for curve in document["curves"]]
    assert [(curve.group, curve.kept) for curve in found] == [("0", (8, 6, 5, 3, 1)), ("2", (8, 6, 5, 3, 1))]
    page = Path("curves/sensitivity.html").read_text("utf-8")
    assert 'id="chart-sensitivity-1"' in page
    [journal] = Path("curves/work").rglob("*.jsonl")
    before = journal.read_bytes()
    as_json = secateur(*words, "--out", "curves", "--json")
    assert json.loads(as_json.out)["curves"] == document["curves"]
    assert journal.read_bytes() == before  # nothing was measured again
    with Path("nets.py").open("a") as code:
        code.write("# another activation, say, with the same weights\n")
    assert secateur(*words, "--out", "curves", "--json").status == 0
    assert len([*Path("curves/work").rglob("*.jsonl")]) == 2


def test_sensitivity_builds_a_network_once_and_gives_it_grey_pictures(
    secateur: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(16):
        place = Path("pets", ("train", "test")[number % 2], ("a", "b")[number // 8])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28, 3), number, np.uint8)).save(place / f"{number}.png")
    made = list[str]()

    def counted(spec: str, **asked: Any) -> nn.Module:
        made.append(spec)
        return build(spec, **asked)

    monkeypatch.setattr(subject, "build", counted)
    words = ("sensitivity", "--model", "nets.py:small", "--data", "imagefolder:pets", "--image-size", "28")
    ended = secateur(*words, "--workers", "0", "--levels", "1", "--multiple", "1")
    assert ended.status == 0, ended.err
    assert made == ["nets.py:small"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "random_masks"), "error: random_masks gives units no scores"),
        (("--images", "0"), "error: --images must be at least 1, not 0"),
    ],
)
def test_sensitivity_refuses_in_one_sentence(secateur: Call, words: tuple[str, ...], message: str) -> None:
    ended = secateur("sensitivity", "--model", "nets.py:small", "--data", "mnist5k", *words)
    assert ended.status == 1
    assert ended.err.splitlines()[-1].startswith(message)


def test_prune_allocates_by_sensitivity_and_reports_the_curves(secateur: Call) -> None:
    words = (
        "prune",
        "--model",
        "nets.py:small",
        "--data",
        "mnist5k",
        "--method",
        "magnitude",
        "--keep",
        "0.5",
        "--allocate",
        "sensitivity",
    )
    ended = secateur(*words, "--no-latency", "--export", "", "--out", "small")
    assert ended.status == 0
    document = json.loads(Path("small/measurement.json").read_text())
    [curves] = document["sensitivity"]
    assert [curve["group"] for curve in curves] == ["0", "2"]
    assert document["method"]["settings"]["allocate"] == "sensitivity"
    assert 'id="chart-sensitivity-1"' in Path("small/report.html").read_text("utf-8")
