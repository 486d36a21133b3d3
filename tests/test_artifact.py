from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forked
from secateur import artifact
from secateur.artifact import folder as folders
from secateur.core.plan import DropUnits, Plan
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import ArtifactError
from secateur.measure import Quality, measure
from secateur.methods import find
from secateur.recipe import Recipe
from secateur.run import Result, Width
from secateur.tasks import Classification
from secateur.training import History, Settings
from secateur.training.history import Row

INPUTS = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


class TiedNet(Net):
    """Two layers share one weight, and a buffer is a view of another."""

    def __init__(self) -> None:
        super().__init__(8)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight = self.b.weight
        table = torch.arange(12.0)
        self.register_buffer("whole", table)
        self.register_buffer("part", table[2:5])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.fc(self.c(y).mean((2, 3))) + self.part.sum()


def trained(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model


def result_of(dense: nn.Module, rounds: int = 1, recipe: Recipe | None = None, **changes: Any) -> Result:
    model, plans, inputs = dense, [], changes.get("example_inputs", INPUTS)
    for _ in range(rounds):
        graph = trace(model, inputs)
        plan = Plan(tuple(DropUnits(group.name, (0, 2)) for group in graph.groups[:1]))
        thin = trained(apply(model, graph, plan))
        plans.append(plan)
        model = thin
    graph = trace(dense, inputs)
    before, after = measure(dense, inputs, time=False), measure(model, inputs, time=False)
    difference = verify(dense, graph, plans[0], apply(dense, graph, plans[0]), inputs).difference
    history = History((Row(1, 0.5, 0.8, float("nan"), None, 0.1, 2.0),))
    values: dict[str, Any] = {
        "model": model,
        "dense": dense,
        "plans": tuple(plans),
        "before": before,
        "middle": None,
        "after": type(after)(after.counts, Quality(Classification().metrics, (0.75,), 0.6, 20)),
        "histories": (history,),
        "pretrain": None,
        "explanation": graph.explain(),
        "widths": (Width("a", 6, 4),),
        "verification": difference,
        "method": find("magnitude")(),
        "target": Target(0.5, "params"),
        "example_inputs": inputs,
        "recipe": recipe,
        "seconds": {"trace": 0.25},
    }
    return Result(**{**values, **changes})


RECIPE = Recipe(model="secateur:net", data="mnist5k", method="magnitude", keep=0.5, train=Settings(epochs=1), seed=3)


def rebuild(spec: str, **asked: Any) -> nn.Module:
    assert spec == "secateur:net"
    assert asked == {"classes": 4, "channels": 3, "image": 8}
    return Net()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def result() -> Result:
    return result_of(trained(Net()).train(), recipe=RECIPE)


@pytest.fixture
def saved(result, tmp_path) -> Path:
    return result.save(tmp_path / "out" / "art")


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_is_saved_comes_back(rounds, tmp_path):
    result = result_of(trained(Net()), rounds, RECIPE)
    folder = artifact.save(result, tmp_path / "art")
    state = torch.get_rng_state()
    loaded = artifact.load(folder, build=rebuild)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.recipe == RECIPE
    assert loaded.plans == result.plans
    assert not loaded.model.training
    ours, theirs = result.model.state_dict(), loaded.model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(result.model.eval()(images), loaded.model(images))
    assert loaded.model.a.out_channels == 6 - 2 * rounds
    assert loaded.measurement == artifact.document(result)


def test_the_folder_has_exactly_the_promised_files(saved):
    names = {"recipe.toml", "plans/001.json", "weights.safetensors", "measurement.json", "environment.json"}
    assert set(contents(saved)) == names | {"manifest.json"}
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert set(manifest["files"]) == names
    assert manifest["files"]["recipe.toml"]["bytes"] == (saved / "recipe.toml").stat().st_size
    assert Recipe.read(saved / "recipe.toml") == RECIPE
    assert not hidden(saved.parent)


def test_documents_say_what_was_measured(saved, result):
    document = json.loads((saved / "measurement.json").read_text())
    assert document["model"] == "secateur:net"
    assert document["target"] == {"keep": 0.5, "of": "params"}
    assert document["method"]["name"] == "magnitude"
    assert document["method"]["settings"]["norm"] == "l1"
    assert "Idea." in document["method"]["card"]
    assert "@inproceedings{" in document["method"]["bibtex"]
    assert document["before"]["counts"]["params"] == sum(p.numel() for p in result.dense.parameters())
    top1 = {"name": "accuracy", "unit": "%", "higher_is_better": True, "digits": 2, "value": 0.75}
    assert document["after"]["quality"] == {"metrics": [top1], "loss": 0.6, "examples": 20}
    assert document["middle"] is None
    assert document["widths"] == [{"layer": "a", "before": 6, "after": 4}]
    assert document["verification"]["exact"] is True
    assert document["explanation"]["rows"][-1]["layer"] == "fc"
    assert document["explanation"]["rows"][-1]["with"] == []
    assert document["training"]["rounds"][0]["rows"][0]["val_loss"] is None  # NaN is not JSON
    assert document["seconds"] == {"trace": 0.25}
    assert document["example"] == {"shape": [1, 3, 8, 8], "dtype": "float32", "output": [1, 4]}
    environment = json.loads((saved / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["seed"] == 3
    assert "class Magnitude" in environment["method"]
    assert {"python", "secateur", "platform", "processor", "threads", "git", "time"} <= set(environment)


def test_tied_and_overlapping_tensors_survive(tmp_path):
    result = result_of(trained(TiedNet()))
    folder = artifact.save(result, tmp_path / "art")
    loaded = artifact.load(folder, dense=TiedNet())
    assert loaded.recipe is None
    assert loaded.model.c.weight is loaded.model.b.weight
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(result.model.eval()(images), loaded.model(images))
    with_copies = sum(x.numel() for x in result.model.state_dict().values()) * 4
    assert (folder / "weights.safetensors").stat().st_size < with_copies + 2000 - result.model.b.weight.numel() * 4


def test_other_inputs_and_types_survive(tmp_path):
    class Two(Net):
        def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:  # pyright: ignore
            return {"logits": super().forward(image) * scale}

    inputs = {"image": INPUTS.double(), "scale": torch.ones(1, 1, dtype=torch.int64)}
    result = result_of(trained(Two()).double(), example_inputs=inputs)
    loaded = artifact.load(artifact.save(result, tmp_path / "a"), dense=Two().double())
    assert torch.equal(result.model.eval()(**inputs)["logits"], loaded.model(**inputs)["logits"])
    half = result_of(trained(Net()))
    half = result_of(half.dense, model=half.model.half())
    assert artifact.load(artifact.save(half, tmp_path / "b"), dense=Net()).model.fc.weight.dtype == torch.float16


def test_an_existing_folder_is_refused(saved, result, tmp_path):
    before = contents(saved)
    with pytest.raises(ArtifactError, match="exists already"):
        result.save(saved)
    assert contents(saved) == before
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        result.save(file, force=True)


def test_force_replaces_an_artifact_and_an_empty_folder(saved, result, tmp_path):
    (saved / "report.html").write_text("old")
    (saved / "plans" / "002.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"plans/002\.json, which Secateur did not write"):
        result.save(saved, force=True)
    (saved / "plans" / "002.json").unlink()
    result.save(saved, force=True)
    assert "report.html" not in contents(saved)
    (tmp_path / "empty").mkdir()
    assert "recipe.toml" in contents(result.save(tmp_path / "empty", force=True))


def test_force_never_deletes_a_strangers_folder(result, tmp_path, saved):
    stranger = tmp_path / "thesis"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("years of work")
    (stranger / "manifest.json").write_text('{"files": {"thesis.tex": {}}}')
    with pytest.raises(ArtifactError, match="not replaced, even with force"):
        result.save(stranger, force=True)
    assert (stranger / "thesis.tex").read_text() == "years of work"
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        result.save(saved, force=True)
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_full_disk_leaves_the_old_artifact(fails_at, saved, result, monkeypatch):
    before, calls = contents(saved), []
    original = os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    if fails_at < 7:
        with pytest.raises(ArtifactError, match=r"no space left.*is untouched"):
            result.save(saved, force=True)
        assert contents(saved) == before
    else:  # all files are written: the rest is not worth failing for
        result.save(saved, force=True)
    artifact.check(saved)
    assert not hidden(saved.parent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_during_the_swap_leaves_old_or_new(renames, tmp_path):
    folder = tmp_path / "art"
    for text in ("old", "new"):
        process = os.fork()
        if process == 0:
            if text == "new":
                kill_at_rename(renames)
            with folders.replacing(folder, force=True) as new:
                (new / "text").write_text(text)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) == (text == "new")
    assert hidden(tmp_path)
    folders.recover(folder)
    artifact.check(folder)
    assert (folder / "text").read_text() == ("old" if renames == 1 else "new")
    with folders.replacing(folder, force=True) as new:
        (new / "text").write_text("third")
    assert (folder / "text").read_text() == "third"
    assert not hidden(tmp_path)


def kill_at_rename(number: int) -> None:
    original, calls = os.rename, []

    def rename(*names: Any) -> None:
        calls.append(names)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*names)

    os.rename = rename


def test_a_save_at_work_elsewhere_is_not_disturbed(result, tmp_path):
    other = tmp_path / f".art.partial-{os.getppid()}"
    gone = tmp_path / ".art.partial-999999999"
    cousin = tmp_path / ".art2.partial-999999999"
    for path in (other, gone, cousin):
        path.mkdir()
    result.save(tmp_path / "art")
    assert other.exists()
    assert not gone.exists()
    assert cousin.exists()


def test_a_folder_that_another_process_works_on_is_not_saved_to(result, tmp_path):
    pytest.importorskip("fcntl")
    hold = (
        "import pathlib, sys\nfrom secateur.artifact.locks import claimed, lock_of\n"
        "with claimed(lock_of(pathlib.Path(sys.argv[1]))):\n    print('has it', flush=True)\n    sys.stdin.readline()\n"
    )
    with forked.start(["-c", hold, str(tmp_path / "art")]) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "has it"
        with pytest.raises(ArtifactError, match=rf"process {other.pid} is working on .*art; wait until it ends"):
            result.save(tmp_path / "art")
        assert not (tmp_path / "art").exists()
        other.communicate("\n")
    result.save(tmp_path / "art")
    assert [path.name for path in tmp_path.iterdir()] == ["art"]


def test_a_failure_while_saving_leaves_nothing(result, tmp_path):
    class Strange(Net):
        def get_extra_state(self) -> Any:
            return {"not": "a tensor"}

        def set_extra_state(self, state: Any) -> None:
            pass

    with pytest.raises(ArtifactError, match="_extra_state"):
        artifact.save(result_of(trained(Net()), model=Strange()), tmp_path / "art")
    assert not list(tmp_path.iterdir())


def test_damage_is_one_clear_sentence(saved):
    for name in contents(saved):
        path = saved / name
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(ArtifactError, match="no manifest" if name == "manifest.json" else f"{name} is missing"):
            artifact.load(saved, build=rebuild)
        path.write_bytes(data[:-5])
        with pytest.raises(ArtifactError, match=f"{name} is damaged"):
            artifact.load(saved, build=rebuild)
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        if name != "manifest.json":
            with pytest.raises(ArtifactError, match=f"{name} is damaged: its content has changed"):
                artifact.load(saved, build=rebuild)
        path.write_bytes(data)
    artifact.load(saved, build=rebuild)


def test_what_is_no_artifact_is_said_so(tmp_path, saved):
    with pytest.raises(ArtifactError, match="no folder"):
        artifact.load(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"not a Secateur artifact: it has no manifest\.json"):
        artifact.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(ArtifactError, match="another program's"):
        artifact.load(tmp_path)
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(ArtifactError, match=r"format 2, this version reads up to 1.*--upgrade"):
        artifact.load(saved)
    for entry in (None, 3, "x", [], {}, {"bytes": 3}, {"bytes": "3", "sha256": "a"}):
        files = manifest["files"] | {"recipe.toml": entry}
        (saved / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged: it has no size and hash of recipe\.toml"):
            artifact.load(saved)


def test_another_network_is_refused(saved, tmp_path):
    with pytest.raises(ArtifactError, match=r"'fc\.weight' has shape \(4, 8\)"):
        artifact.load(saved, dense=Net(classes=5))
    with pytest.raises(ArtifactError, match=r"not the one that was pruned|has shape"):
        artifact.load(saved, dense=nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 4)))


def test_the_users_code_is_run_only_on_request(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("raise SystemExit('executed')")
    for spec in (f"{path}:Net", "some.package:Net"):
        recipe = Recipe(model=spec, method="magnitude", keep=0.5)
        folder = artifact.save(result_of(trained(Net()), recipe=recipe), tmp_path / "art", force=True)
        before = set(sys.modules)
        with pytest.raises(ArtifactError, match=r"your own code.*not run unasked.*build="):
            artifact.load(folder)
        assert set(sys.modules) == before
        assert artifact.load(folder, dense=Net()).recipe == recipe
        assert artifact.load(folder, build=lambda spec, **_: Net()).recipe == recipe


def test_a_network_without_a_name_needs_the_dense_one(tmp_path):
    folder = artifact.save(result_of(trained(Net())), tmp_path / "art")
    assert not (folder / "recipe.toml").exists()
    with pytest.raises(ArtifactError, match="pass it as dense="):
        artifact.load(folder)
    assert artifact.load(folder, dense=Net()).recipe is None


def test_named_networks_are_rebuilt_from_the_recipe_alone(tmp_path):
    from secateur.models import build

    images = torch.randn(1, 1, 28, 28)
    recipe = Recipe(model="secateur:lenet5", method="magnitude", keep=0.5)
    result = result_of(build("lenet5", classes=7, channels=1), recipe=recipe, example_inputs=images)
    loaded = artifact.load(artifact.save(result, tmp_path / "art"))
    assert torch.equal(result.model.eval()(images), loaded.model(images))


def test_added_files_can_be_recorded_and_checked(saved):
    (saved / "report.html").write_text("<html>")
    artifact.record(saved, "report.html")
    artifact.check(saved)
    (saved / "report.html").write_text("<HTML>")
    with pytest.raises(ArtifactError, match=r"report\.html is damaged"):
        artifact.check(saved)
    artifact.load(saved, build=rebuild)  # what can be made again does not matter to the network
