"""Artifacts that somebody has made to do harm: each is loaded as what it is, or refused by one sentence."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import forgery
from secateur import Recipe, Target, artifact, prune, report
from secateur.artifact import dense_network, store
from secateur.cli.command import Given
from secateur.cli.subject import subject_of
from secateur.errors import ArtifactError
from secateur.models import build
from secateur.search.json_lines import Lines

SENTENCE = re.compile(r"[^\n\x1b]{10,2400}")
NAMES = re.compile(r"recipe\.toml|\.json|\.safetensors|/forged")
TIMES = {"milliseconds": 1.0, "spread": 0.1, "runs": 9, "difference": 1e-7}
BENCH = {
    "format": 1, "batch_size": 1, "threads": 1, "device": "cpu", "macs": {"dense": 2_293_000, "pruned": 1_000_000},
    "uncounted": "", "left_out": {"compile": "it needs a compiler"}, "environment": {"processor": "one", "torch": "2"},
    "runtimes": [{
        "runtime": "eager", "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1, "differs": True, "rounds": 9,
        "clock": "wall", "dense": TIMES, "pruned": TIMES,
    }],
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact of a LeNet-5 with half of its weights, whose network is built from its name."""
    recipe = Recipe(model="lenet5", method="magnitude", keep=0.5, of="params", latency=False, repair=())
    dense, target = build("lenet5", classes=10, channels=1, image=28), Target(0.5, "params")
    found = prune(dense, torch.randn(1, 1, 28, 28), "magnitude", target, latency=False, repair=())
    folder = replace(found, recipe=recipe).save(tmp_path_factory.mktemp("honest") / "artifact")
    forgery.write(folder, "bench.json", json.dumps(BENCH).encode())
    return folder


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forged") / "forged"


def refusal(folder: Path, use: Callable[[Path], object] = artifact.load) -> ArtifactError | None:
    """Load an artifact, or use it otherwise; return why it is refused. Any other error ends the test."""
    try:
        use(folder)
    except ArtifactError as error:
        return error
    return None


def reported(folder: Path) -> None:
    """Write the report of an artifact; nothing from outside of its folder may get into it."""
    page = report.write(folder, out=folder.with_name("page.html"))
    assert "a secret" not in page.read_text("utf-8")


def asked_about(folder: Path) -> None:
    """Have the network of an artifact as the commands do, and the images that it is to be tested on."""
    subject_of(Given(), folder, trust=False, test=True)


USES = (artifact.load, reported, asked_about)


def check(error: ArtifactError | None, what: str) -> None:
    if error is not None:
        assert SENTENCE.fullmatch(str(error)), what
        assert NAMES.search(str(error)), (what, str(error))
        assert not re.search(r"\b\w+(Error|Exception)\b", str(error)), (what, str(error))


def test_the_honest_one_loads(saved: Path, forged: Path):
    folder = forgery.copy_of(saved, forged)
    assert [refusal(folder, use) for use in USES] == [None] * 3
    for name in ("measurement.json", "plans/001.json", "recipe.toml", "weights.safetensors", "bench.json"):
        forgery.write(folder, name, (folder / name).read_bytes())  # the hashes are made as they were
    assert [refusal(folder, use) for use in USES] == [None] * 3


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("forge", range(len(forgery.FORGERS)))
def test_whatever_is_forged_is_refused_by_one_sentence_that_names_a_file(
    saved: Path, forged: Path, forge: int, use: Callable[[Path], object]
):
    folder = forgery.copy_of(saved, forged)
    what = forgery.FORGERS[forge](folder, random.Random(forge))
    check(refusal(folder, use), what)


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@settings(max_examples=70)
@given(forge=st.sampled_from(forgery.FORGERS), rng=st.randoms(use_true_random=False))
def test_so_is_what_is_forged_by_chance(
    saved: Path, forged: Path, forge: forgery.Forge, rng: random.Random, use: Callable[[Path], object]
):
    folder = forgery.copy_of(saved, forged)
    what = forge(folder, rng)
    check(refusal(folder, use), what)


def test_folders_of_links_to_a_store_of_blobs_are_read(saved: Path, forged: Path):
    folder = forgery.copy_of(saved, forged)
    store = folder.with_name("blobs")
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    for number, path in enumerate(sorted(it for it in folder.rglob("*") if it.is_file())):
        path.rename(store / str(number))
        path.symlink_to(store / str(number))
    assert [refusal(folder, use) for use in USES] == [None] * 3
    (folder / "measurement.json").resolve().write_bytes(b"something else")
    assert refusal(folder) is not None


def test_lines_are_not_written_where_a_link_leads(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "trials.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match=r"trials\.jsonl: a link leads out"):
        Lines(tmp_path / "work" / "trials.jsonl")
    assert not (tmp_path / "secret").exists()


def test_no_file_is_written_where_a_link_leads(saved: Path, forged: Path, tmp_path: Path):
    folder = forgery.copy_of(saved, forged)
    for name in ("report.html", f".report.html.partial-{os.getpid()}"):
        (folder / name).symlink_to(tmp_path / "secret")
    report.write(folder)
    assert not (tmp_path / "secret").exists()
    assert not (folder / "report.html").is_symlink()


def measurement(folder: Path, at: tuple[object, ...], new: object) -> None:
    old = json.loads((folder / "measurement.json").read_text("utf-8"))
    forgery.write(folder, "measurement.json", json.dumps(forgery.changed(old, at, new)).encode())


@pytest.mark.parametrize(
    ("at", "new", "said"),
    [
        (("example", "shape"), [1, 1, 13000, 13000], "weights, where .* were counted"),
        (("example", "shape"), [10**6, 1, 28, 28], "larger than any"),
        (("example", "shape"), [1, 1, -28, 28], "-28 and not a whole number"),
        (("example", "shape"), [1, 1, 28, 2**31], "a size of 2147483648"),
        (("example", "dtype"), "load", "the type 'load'"),
        (("example", "output"), [1, 10**9], "1,000,000,000 classes"),
        (("example", "output"), [1, 60_000], "weights, where .* were counted"),
        (("before", "counts", "params"), 7, "weights, where 7 were counted"),
        (("before", "counts"), None, "'counts' is None and not a table"),
        (("after",), {}, "it lacks 'counts'"),
        (("execution",), [1], "'execution' is .* and not a table"),
    ],
)
def test_a_measurement_that_does_not_fit_is_refused(
    saved: Path, forged: Path, at: tuple[object, ...], new: object, said: str
):
    folder = forgery.copy_of(saved, forged)
    measurement(folder, at, new)
    with pytest.raises(ArtifactError, match=said) as refused:
        artifact.load(folder)
    check(refused.value, said)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([{"drop": "conv1", "units": "0-9999999999"}], "more than 2,097,152 units"),
        ([{"drop": "conv1", "units": ",".join(["0-1000000"] * 9)}], "more than 2,097,152 units"),
        ([{"drop": "conv1", "units": "1_0"}], "numbers are written as"),
        ([{"drop": "conv1", "units": "0-6000"}], "which has 6 units|of another network"),
        ([{"drop": "conv1", "units": ""}] * 70_000, "70,000 edits"),
        ([{"drop": "c" * 10**6, "units": ""}], "at most 1000 letters"),
        ([{"zero": "x", "shape": [10**9] * 99, "keep": ""}], "at most 8 whole numbers"),
        ([{"zero": "x", "shape": [-8, -1], "keep": "AA=="}], "at most 8 whole numbers"),
        ([{"regroup": "fc1", "blocks": [["0", "0"]]}] * 65, "more than 64 times"),
    ],
)
def test_a_plan_out_of_proportion_is_refused(saved: Path, forged: Path, edits: list[object], said: str):
    folder = forgery.copy_of(saved, forged)
    forgery.write(folder, "plans/001.json", json.dumps({"format": 1, "edits": edits}).encode())
    with pytest.raises(ArtifactError, match=said) as refused:
        artifact.load(folder)
    check(refused.value, said)
    assert "plans/001.json" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../b", "a\\b", "a\x00b", "\ud800", "x" * 999, "", "a//b"]
)
def test_names_that_lead_out_of_the_folder_are_refused(saved: Path, forged: Path, name: str):
    folder = forgery.copy_of(saved, forged)
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    content["files"][name] = {"bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ArtifactError, match="is no name of a file in the folder"):
        artifact.load(folder)
    with pytest.raises(ArtifactError, match="is no name of a file in the folder"):
        artifact.check(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["recipe.toml", "measurement.json", "weights.safetensors", "manifest.json"])
def test_a_pipe_is_not_waited_for(saved: Path, forged: Path, name: str):
    folder = forgery.copy_of(saved, forged)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtifactError, match=f"{name} is missing|no {name}"):
        artifact.load(folder)


def test_another_network_than_was_measured_is_refused_before_it_is_built(
    saved: Path, forged: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = forgery.copy_of(saved, forged)
    text = (folder / "recipe.toml").read_text("utf-8").replace('"lenet5"', '"vgg16_bn"')
    forgery.write(folder, "recipe.toml", text.encode())
    built: list[str] = []

    def watched(spec: str, **asked: object) -> object:
        model = build(spec, **asked)  # type: ignore[arg-type]
        built.append(next(model.parameters()).device.type)
        return model

    monkeypatch.setattr(dense_network, "build_by_name", watched)
    with pytest.raises(ArtifactError, match=r"recipe\.toml .* weights, where .* were counted"):
        artifact.load(folder)
    assert built == ["meta"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_not_the_files_fault_is_not_hidden(
    saved: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(store, "traced", fails)
    with pytest.raises(error):
        artifact.load(saved)


def test_an_unforeseen_error_names_the_file_and_is_kept_as_the_cause(saved: Path, monkeypatch: pytest.MonkeyPatch):
    cause = ZeroDivisionError("division by zero")

    def fails(*_: object, **__: object) -> None:
        raise cause

    monkeypatch.setattr(store, "traced", fails)
    with pytest.raises(ArtifactError, match=r"plans/001\.json is damaged: it holds something impossible") as refused:
        artifact.load(saved)
    assert refused.value.__cause__ is cause


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures processes")
def test_five_hundred_are_refused_within_two_seconds_and_a_gigabyte(saved: Path, forged: Path):
    """Every one in a process of its own, whose time and memory are measured; those that load are not counted."""
    refused, number = 0, 0
    while refused < 500:
        forge = forgery.FORGERS[number % len(forgery.FORGERS)]
        folder = forgery.copy_of(saved, forged)
        what = f"{number}, {forge(folder, random.Random(number))}"
        process = os.fork()
        if not process:
            os._exit(_judged(folder, what))
        _, status = os.waitpid(process, 0)
        assert os.WIFEXITED(status), what
        assert os.WEXITSTATUS(status) in (0, 1), what
        refused += os.WEXITSTATUS(status)
        number += 1


def _judged(folder: Path, what: str) -> int:
    """Return 1 for an artifact that was refused as it should be, 0 for one that loads, 2 for any other end."""
    try:
        start, error = time.process_time(), refusal(folder)  # other programs are not its fault
        seconds, memory = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        check(error, what)
        assert seconds < 2, (what, seconds)
        assert memory < 2**20, (what, memory)  # KiB
        return int(error is not None)
    except BaseException as error:
        print(repr(error), flush=True)
        return 2
