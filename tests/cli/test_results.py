"""Result folders made from the command line, and taken up again after a kill."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import forked
from commands import PRUNED, Call
from secateur import artifact
from secateur.artifact import folder
from secateur.recipe import Recipe
from secateur.report import page

TRAINED = ("prune", "--model", "nets.py:small", "--data", "mnist5k", "--method", "magnitude", "--keep", "0.5")
TRAINED += ("--epochs", "2", "--lr", "0.05")
TRAINED += ("--augment", "none", "--precision", "float32", "--memory-format", "contiguous", "--compile", "off")
TRAINED += ("--no-latency", "--export", "pt2")

# The same program, but for a process that dies without warning when the listener hears these words.
KILLED = """
import os, signal, sys
from secateur import progress
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
    done = forked.run(["-c", KILLED, at, *words], cwd=folder)
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
    assert "Verified: Before its repair, the pruned network computed what the original computes" in ended.said
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
    """A folder is named after its recipe unless told."""
    assert secateur("run", pruned / "recipe.toml", "--out", "one", "--quiet").status == 0
    assert secateur("run", pruned, "--quiet").status == 0
    recipe = artifact.load(pruned).recipe
    assert recipe is not None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [recipe.name()]
    for place in (tmp_path / "one", tmp_path / "out" / recipe.name()):
        for name in ("weights.safetensors", "recipe.toml"):
            assert (place / name).read_bytes() == (pruned / name).read_bytes()


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
    assert not (tmp_path / "broken").exists()  # whole or not at all, exports and report included

    resumed = secateur(*TRAINED, "--out", "broken", "--json")
    assert resumed.status == 0, resumed.err
    assert numbers(resumed.out) == numbers(straight.out)
    for name in ("weights.safetensors", "plans/001.json", "recipe.toml"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    artifact.check("broken")
    assert (tmp_path / "broken" / "model.pt2").exists()
    assert not (tmp_path / "broken.work").exists()
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"straight", "broken", "nets.py"}


def test_a_finished_result_of_the_same_recipe_is_a_success(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "done")
    before = (tmp_path / "done" / "manifest.json").stat().st_mtime_ns
    ended = secateur("prune", *PRUNED, "--out", "done")
    assert ended.status == 0, ended.err
    assert "done is the finished result of this very recipe; --force makes it anew." in ended.out
    assert "Result: done" in ended.out
    as_json = secateur("run", "done/recipe.toml", "--out", "done", "--json")
    assert as_json.status == 0
    assert json.loads(as_json.out)["already_there"] is True
    assert json.loads(as_json.out)["widths"]
    assert (tmp_path / "done" / "manifest.json").stat().st_mtime_ns == before
    other = secateur("prune", *PRUNED, "--seed", "1", "--out", "done")
    assert other.status == 1
    assert "done exists already" in other.err
    (tmp_path / "done" / "weights.safetensors").write_bytes(b"short")
    damaged = secateur("prune", *PRUNED, "--out", "done")
    assert damaged.status == 1
    assert "done exists already" in damaged.err
    assert {path.name for path in tmp_path.iterdir()} == {"done", "nets.py"}


LATER = ("minutes", "normalisation", "uncounted", "multiples", "calibration", "foretold", "stages", "searches", "zeros")


def test_a_finished_result_of_an_earlier_version_is_printed(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "done")
    place = tmp_path / "done" / "measurement.json"
    document = {name: value for name, value in json.loads(place.read_text()).items() if name not in LATER}
    for network in ("before", "cut", "after"):
        document[network]["counts"].pop("uncounted", None)
    place.write_text(json.dumps(document))
    artifact.record("done", "measurement.json")
    ended = secateur("prune", *PRUNED, "--out", "done")
    assert ended.status == 0, ended.err
    assert "Not fine-tuned" in ended.out


def test_a_result_without_its_report_is_not_finished(secateur: Call, pruned: Path, tmp_path: Path):
    """As ``Result.save`` leaves it: the exports of the recipe are not written either."""
    shutil.copytree(pruned, tmp_path / "done")
    (tmp_path / "done" / "report.html").unlink()
    place = tmp_path / "done" / "manifest.json"
    manifest = json.loads(place.read_text())
    del manifest["files"]["report.html"]
    place.write_text(json.dumps(manifest))
    artifact.check("done")
    ended = secateur("prune", *PRUNED, "--out", "done")
    assert ended.status == 1
    assert "done exists already" in ended.err


@pytest.mark.parametrize("at", ["done", f".done.partial-{os.getppid()}", ".done.old-1"])
def test_no_process_of_several_waits_for_a_finished_result(
    secateur: Call, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
):
    from secateur import run

    asked: list[object] = []
    monkeypatch.setattr(run, "run_recipe", lambda *_, **__: asked.append(_))
    shutil.copytree(pruned, tmp_path / at)
    monkeypatch.setenv("RANK", "1")
    ended = secateur("prune", *PRUNED, "--out", "done")
    assert (ended.status, ended.out, asked) == (0, "", [])
    assert secateur("prune", *PRUNED, "--out", "other").status == 0
    assert len(asked) == 1  # what is not there is computed by all of them
    monkeypatch.setenv("RANK", "0")
    assert "is the finished result" in secateur("prune", *PRUNED, "--out", "done").out


@pytest.mark.parametrize("name", [".", "../done", "../link"])
def test_every_name_of_a_folder_is_the_same_result(
    secateur: Call, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    from secateur.artifact.locks import claimed, lock_of

    shutil.copytree(pruned, tmp_path / "done")
    (tmp_path / "link").symlink_to("done")
    monkeypatch.chdir(tmp_path / "done")
    ended = secateur("prune", *PRUNED, "--out", name)
    assert ended.status == 0, ended.err
    assert "is the finished result" in ended.out
    with claimed(lock_of(tmp_path / "done")):
        assert "is working on" in secateur("prune", *PRUNED, "--out", name).err
    assert {path.name for path in tmp_path.iterdir()} == {"done", "link", "nets.py"}


def test_a_place_that_is_no_folder_is_one_sentence(secateur: Call, tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    for name in ("/", "loop"):
        ended = secateur("prune", *PRUNED, "--out", name)
        assert ended.status == 1
        assert re.fullmatch(f"error: cannot write {name}.*choose another --out\n", ended.err), ended.err


def test_what_the_clock_has_chosen_does_not_make_another_recipe(secateur: Call, tmp_path: Path, pruned: Path):
    shutil.copytree(pruned, tmp_path / "done")
    recipe = Recipe.read(tmp_path / "done" / "recipe.toml")
    made = replace(recipe, chosen={"runtime": "eager"})
    (tmp_path / "done" / "recipe.toml").write_text(made.to_toml())
    artifact.record("done", "recipe.toml")
    assert secateur("prune", *PRUNED, "--out", "done").status == 0
    (tmp_path / "again.toml").write_text(made.to_toml())
    assert secateur("run", "again.toml", "--out", "done").status == 0
    (tmp_path / "other.toml").write_text(replace(recipe, chosen={"runtime": "openvino"}).to_toml())
    assert secateur("run", "other.toml", "--out", "done").status == 1


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def writer_of_torch(*_: object, **__: object) -> None:
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


@pytest.mark.parametrize(
    ("at", "there"), [("report.html", True), ("report.html", False), ("model.pt2", True), ("torch's writer", True)]
)
def test_a_disk_that_fills_leaves_what_was_there(
    secateur: Call, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, there: bool
):
    if there:
        shutil.copytree(pruned, tmp_path / "small")
    before = contents(tmp_path)
    write, words = folder.write_file, [*PRUNED[:-1], "pt2", "--repair", "none", "--out", "small", "--force"]

    def filling(path: Path, data: bytes) -> None:
        full_disk() if path.name == at else write(path, data)

    with monkeypatch.context() as disk:
        disk.setattr(folder, "write_file", filling)
        disk.setattr(page, "write_file", filling)
        if at == "model.pt2":
            disk.setattr(torch.export, "save", full_disk)
        if at == "torch's writer":
            disk.setattr(torch.export, "save", writer_of_torch)
            disk.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
        ended = secateur("prune", *words)
    assert ended.status == 1
    assert "no space left on the disk" in ended.err
    assert ended.err.rstrip().endswith("untouched") is there
    after = {name: data for name, data in contents(tmp_path).items() if not name.startswith("small.work")}
    assert after == before


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_what_killed_processes_left_is_swept_whoever_has_their_number_now(secateur: Call, pruned: Path, tmp_path: Path):
    """The numbers of processes come again: this one's parent has one of them."""
    for name in (f".small.partial-{os.getppid()}", ".small.old-1"):
        shutil.copytree(pruned, tmp_path / name)
    (tmp_path / ".small.lock").write_text("1")  # the file of a claim is no claim
    shutil.copytree(pruned, tmp_path / "small")
    assert secateur("prune", *PRUNED, "--out", "small").status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"small", "nets.py"}


def test_a_result_that_was_whole_but_not_yet_in_its_place_is_taken(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / f".small.partial-{os.getppid()}")
    (tmp_path / "small.work").mkdir()
    shutil.copy(pruned / "recipe.toml", tmp_path / "small.work")
    os.utime(tmp_path / "small.work" / "recipe.toml", (0, 0))
    ended = secateur("prune", *PRUNED, "--out", "small")
    assert ended.status == 0
    assert "is the finished result" in ended.out
    assert {path.name for path in tmp_path.iterdir()} == {"small", "nets.py"}


@pytest.mark.skipif(os.name != "posix", reason="locks and signals of POSIX")
def test_two_processes_on_one_result_and_how_one_is_ended(secateur: Call, tmp_path: Path):
    words = [*TRAINED[:9], "--epochs", "500", *TRAINED[11:], "--out", "shared"]
    first = forked.start(["-m", "secateur", *words], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("shared.work/*.ckpt")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for more in ([], ["--force"]):
            second = secateur(*words, *more)
            assert second.status == 1
            assert f"process {first.pid} is working on shared" in second.err
        first.terminate()
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 143
    assert said.strip().splitlines()[-1] == "terminated; the same command goes on from shared.work"
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"shared.work", "nets.py"}


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
def test_a_kill_while_a_result_is_replaced_leaves_the_old_one(secateur: Call, tmp_path: Path):
    words = ("prune", *PRUNED, "--repair", "none", "--out", "small")
    assert secateur(*words).status == 0
    old = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    killed("measurement.json", tmp_path, *words, "--keep", "0.3", "--force")
    now = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "small").rglob("*") if path.is_file()}
    assert now == old
    assert secateur(*words, "--keep", "0.3", "--force").status == 0
    assert json.loads((tmp_path / "small" / "measurement.json").read_text())["target"]["keep"] == 0.3
    left = {path.name for path in tmp_path.iterdir()} - {"nets.py", "__pycache__"}
    assert left == {"small"}


def test_an_interruption_tells_how_to_go_on(secateur: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from secateur import run

    def interrupted(*_: object, work: Path, **__: object) -> None:
        for name in kept:
            (work / name).write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_recipe", interrupted)
    for early in ((), ("runtime-1.json",)):  # what is soon found again is not kept
        kept = early
        ended = secateur("prune", *PRUNED, "--out", "small")
        assert (ended.status, list(tmp_path.glob("small*"))) == (130, [])
        assert ended.err.strip() == "interrupted before there was anything to go on from"
    kept = ("plan-1.json",)
    ended = secateur("prune", *PRUNED, "--out", "small")
    assert ended.status == 130
    assert ended.err.strip() == "interrupted; the same command goes on from small.work"
    assert (tmp_path / "small.work" / "plan-1.json").is_file()


@pytest.mark.parametrize("words", [("compare", "both.toml"), ("sensitivity", "--model", "lenet5", "--data", "mnist5k")])
def test_no_interruption_promises_what_is_not_there(
    secateur: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
):
    from secateur import compare, run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "both.toml").write_text(
        'model = "lenet5"\ndata = "mnist5k"\n[target]\nkeeps = [0.5]\n[[method]]\nname = "magnitude"\n'
    )
    monkeypatch.setattr(compare, "carry_out", interrupted)
    monkeypatch.setattr(run, "subject_of", interrupted)
    ended = secateur(*words, "--out", "new")
    assert (ended.status, ended.err.strip()) == (130, "interrupted before there was anything to go on from")
    (tmp_path / "new" / "work").mkdir(parents=True)
    (tmp_path / "new" / "work" / "row.json").write_text("{}")
    assert "interrupted; the same command goes on from new" in secateur(*words, "--out", "new").err


def test_an_image_folder_is_read_at_the_size_that_was_asked_for(secateur: Call, tmp_path: Path):
    pytest.importorskip("torchvision")
    image = pytest.importorskip("PIL.Image")
    for label, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        folder = tmp_path / "flags" / "train" / label
        folder.mkdir(parents=True)
        for number in range(12):
            image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    words = ("--model", "resnet20", "--data", "imagefolder:flags", "--image-size", "32", "--workers", "0")
    words += ("--method", "magnitude", "--keep", "0.5", "--repair", "none", "--no-latency", "--export", "")
    ended = secateur("prune", *words, "--out", "small")
    assert ended.status == 0, ended.err
    loaded = artifact.load("small")
    assert loaded.measurement["example"]["shape"] == [1, 3, 32, 32]
    assert loaded.recipe is not None
    assert (loaded.recipe.image_size, loaded.recipe.workers) == (32, 0)
    again = secateur("evaluate", "small", "--json")
    assert json.loads(again.out)["metrics"] == [
        pytest.approx(each) for each in loaded.measurement["after"]["quality"]["metrics"]
    ]
