"""Result folders made from the command line, and taken up again after a kill."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import PRUNED, Call
from secateur import artifact

TRAINED = ("prune", "--model", "nets.py:small", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.5")
TRAINED += ("--epochs", "2", "--lr", "0.05")
TRAINED += ("--augment", "none", "--precision", "float32", "--memory-format", "contiguous", "--compile", "off")
TRAINED += ("--no-latency", "--export", "pt2")

# The same program, but for a process that dies without warning when the listener hears these words.
KILLED = """
import os, signal, sys
from secateur.cli import progress
from secateur.artifact import folder
word = sys.argv.pop(1)

def die(seen):
    if word in seen:
        os.kill(os.getpid(), signal.SIGKILL)

write = folder.write_file
progress.Listener.__call__ = lambda self, event: die(event.text)
folder.write_file = lambda path, data: (die(path.name), write(path, data))[1]
from secateur.cli.app import app
app()
"""


def killed(at: str, folder: Path, *words: str) -> None:
    """Run a command in a process that is killed at a certain point."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, at, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -9, done.stderr


def numbers(out: str) -> dict[str, Any]:
    """Return the measured part of what a run prints as JSON, without times and paths."""
    found = json.loads(out)
    for history in found["training"]["rounds"]:
        for row in history["rows"]:
            del row["seconds"]
    return {name: found[name] for name in ("before", "middle", "after", "training", "verification", "widths")}


def test_prune_prints_saves_and_reports(secateur: Call, tmp_path: Path):
    words = [word for word in PRUNED if word not in ("--export", "")]
    ended = secateur("prune", *words, "--export", "pt2", "--out", "small")
    assert ended.status == 0
    assert re.search(r"^ +Dense +Cut +Repaired +Change", ended.out, re.MULTILINE)
    assert re.search(r"MACs +2\.293 M( +1\.119 M){2} +2\.05. fewer", ended.out)
    assert "Verified: Before its repair, the pruned network computed what the original computes" in ended.out
    assert re.search(r"^Repaired: reconstruct \(\d+ layers\): validation accuracy from ", ended.out, re.MULTILINE)
    assert "Pinned: fc2 (an output of the network)." in ended.out
    assert "Not fine-tuned" in ended.out
    assert "Report: small/report.html" in ended.out
    stages = ["reading the network", "deciding what to remove", "saving", "exporting as pt2", "writing the report"]
    places = [ended.err.index(stage) for stage in stages]
    assert places == sorted(places)
    artifact.check("small")
    assert {path.name for path in tmp_path.iterdir()} == {"small", "nets.py"}


def test_the_repair_is_switched_off_by_a_word(secateur: Call, tmp_path: Path):
    ended = secateur("prune", *PRUNED, "--repair", "none", "--out", "bare")
    assert ended.status == 0
    assert re.search(r"^ +Dense +Cut +Change", ended.out, re.MULTILINE)
    assert "epaired" not in ended.out
    assert "Verified: The pruned network computed" in ended.out
    assert "repair = []" in (tmp_path / "bare" / "recipe.toml").read_text()
    loaded = artifact.load("bare")
    assert loaded.measurement["repairs"] == []
    assert loaded.measurement["cut"] is None


def test_a_recipe_or_its_folder_repeats_the_result(secateur: Call, pruned: Path, tmp_path: Path):
    assert secateur("run", pruned / "recipe.toml", "--out", "one", "--quiet").status == 0
    assert secateur("run", pruned, "--out", "two", "--quiet").status == 0
    expected = (pruned / "weights.safetensors").read_bytes()
    for name in ("one", "two"):
        assert (tmp_path / name / "weights.safetensors").read_bytes() == expected
        assert (tmp_path / name / "recipe.toml").read_bytes() == (pruned / "recipe.toml").read_bytes()


def test_a_folder_is_named_after_its_recipe_unless_told(secateur: Call, pruned: Path, tmp_path: Path):
    assert secateur("run", pruned, "--quiet").status == 0
    recipe = artifact.load(pruned).recipe
    assert recipe is not None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [recipe.name()]


def test_code_of_the_user_runs_only_when_it_is_named_or_trusted(secateur: Call, tmp_path: Path):
    (tmp_path / "mine.py").write_text((tmp_path / "nets.py").read_text() + "\nopen('ran', 'a').close()\n")
    words = (
        "--model",
        "mine.py:small",
        "--data",
        "mnist5k",
        "--method",
        "magnitude",
        "--keep",
        "0.5",
        "--no-latency",
        "--export",
        "",
    )
    assert secateur("prune", *words, "--out", "own").status == 0
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    for command in (["measure", "--no-latency"], ["explain"], ["evaluate"], ["export", "--format", "pt2"]):
        ended = secateur(command[0], "own", *command[1:])
        assert ended.status == 1
        assert "comes from your own code, mine.py:small" in ended.err
        assert "--trust" in ended.err
        assert not (tmp_path / "ran").exists()
        assert secateur(command[0], "own", *command[1:], "--trust").status == 0
        (tmp_path / "ran").unlink()
    for recipe in ("own", "own/recipe.toml"):
        ended = secateur("run", recipe, "--out", "again")
        assert ended.status == 1
        assert "comes from your own code, mine.py:small, which is not run unasked" in ended.err
        assert "--trust" in ended.err
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "again.work").exists()
    assert secateur("run", "own", "--out", "again", "--trust").status == 0
    assert (tmp_path / "ran").exists()


def test_code_that_a_comparison_names_runs_only_when_it_is_trusted(secateur: Call, tmp_path: Path):
    (tmp_path / "mine.py").write_text((tmp_path / "nets.py").read_text() + "\nopen('ran', 'a').close()\n")
    recipe = 'model = "mine.py:small"\ndata = "mnist5k"\ncontrols = []\n[target]\nkeeps = [0.6]\nmultiple = 1\n'
    (tmp_path / "few.toml").write_text(recipe + '[[method]]\nname = "magnitude"\n')
    ended = secateur("compare", "few.toml")
    assert ended.status == 1
    assert "comes from your own code, mine.py:small, which is not run unasked" in ended.err
    assert not (tmp_path / "ran").exists()
    assert secateur("compare", "few.toml", "--trust").status == 0
    assert (tmp_path / "ran").exists()


def test_no_recipe_can_vouch_for_itself(secateur: Call, tmp_path: Path):
    text = 'model = "mine.py:small"\ntrusted = true\n[method]\nname = "magnitude"\n'
    (tmp_path / "mine.toml").write_text(text)
    ended = secateur("run", "mine.toml")
    assert ended.status == 1
    assert "unknown setting 'trusted'" in ended.err


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_run_that_was_killed_goes_on_and_ends_the_same(secateur: Call, tmp_path: Path):
    straight = secateur(*TRAINED, "--out", "straight", "--json")
    assert straight.status == 0, straight.err

    killed("epoch 2 of 2", tmp_path, *TRAINED, "--out", "broken")
    assert not (tmp_path / "broken").exists()
    assert list((tmp_path / "broken.work").glob("*.ckpt"))
    other = secateur(*TRAINED, "--out", "broken", "--seed", "1")
    assert other.status == 1
    assert "unfinished run of another recipe" in other.err

    killed("exporting as pt2", tmp_path, *TRAINED, "--out", "broken")  # goes on, and is killed once more
    assert (tmp_path / "broken" / "weights.safetensors").exists()
    assert not (tmp_path / "broken" / "model.pt2").exists()

    resumed = secateur(*TRAINED, "--out", "broken", "--json")
    assert resumed.status == 0, resumed.err
    assert numbers(resumed.out) == numbers(straight.out)
    for name in ("weights.safetensors", "plans/001.json", "recipe.toml"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    artifact.check("broken")
    assert (tmp_path / "broken" / "model.pt2").exists()
    assert not (tmp_path / "broken.work").exists()
    assert secateur(*TRAINED, "--out", "broken").status == 1  # finished now: replaced only with force


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_kill_while_a_result_is_replaced_leaves_the_old_one(secateur: Call, tmp_path: Path):
    words = ("prune", *PRUNED, "--out", "small")
    assert secateur(*words).status == 0
    old = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    killed("measurement.json", tmp_path, "prune", *PRUNED, "--keep", "0.3", "--out", "small", "--force")
    now = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    assert now == old
    assert secateur("prune", *PRUNED, "--keep", "0.3", "--out", "small", "--force").status == 0
    assert json.loads((tmp_path / "small" / "measurement.json").read_text())["target"]["keep"] == 0.3
    left = {path.name for path in tmp_path.iterdir()} - {"nets.py", "__pycache__"}
    assert left == {"small"}


def test_an_interruption_tells_how_to_go_on(secateur: Call, monkeypatch: pytest.MonkeyPatch):
    from secateur import run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_recipe", interrupted)
    ended = secateur("prune", *PRUNED, "--out", "small")
    assert ended.status == 130
    assert ended.err.strip() == "interrupted; the same command goes on from small.work"


def test_an_image_folder_is_read_at_the_size_that_was_asked_for(secateur: Call, tmp_path: Path):
    pytest.importorskip("torchvision")
    image = pytest.importorskip("PIL.Image")
    for label, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        folder = tmp_path / "flags" / "train" / label
        folder.mkdir(parents=True)
        for number in range(12):
            image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    words = ("--model", "resnet20", "--data", "imagefolder:flags", "--image-size", "32", "--workers", "0")
    ended = secateur("prune", *words, "--keep", "0.5", "--no-latency", "--export", "", "--out", "small")
    assert ended.status == 0, ended.err
    loaded = artifact.load("small")
    assert loaded.measurement["example"]["shape"] == [1, 3, 32, 32]
    assert loaded.recipe is not None
    assert (loaded.recipe.image_size, loaded.recipe.workers) == (32, 0)
    again = secateur("evaluate", "small", "--json")
    assert json.loads(again.out)["top1"] == pytest.approx(loaded.measurement["after"]["accuracy"]["top1"])
