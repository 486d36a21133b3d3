from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import forked
from kills import Killed
from secateur.artifact.locks import claimed
from secateur.compare import Comparison, carry_out, gather, requests, run_files, run_one, write
from secateur.compare.requests import Request
from secateur.compare.run_files import path_of
from secateur.compare.scratch import rescale
from secateur.data import Data
from secateur.errors import ArtifactError, SecateurError, SettingError, TargetError, TrainingError
from secateur.events import Event
from secateur.measure import Latency, SideBySide
from secateur.run import headline_speed, images_of, pipeline, prune_as, subject
from secateur.run.sources import RECORD


def numbers(comparison: Comparison, folder: Path) -> dict[str, tuple[float, ...]]:
    found = gather(comparison, folder)
    return {request.title: (run.test, run.val, run.macs, run.params, run.epochs) for request, run in found}


def test_a_killed_comparison_goes_on_and_ends_alike(colours: Data, small: str, tmp_path: Path) -> None:
    comparison = Comparison.from_toml(small)
    heard: list[Event] = []
    carry_out(comparison, tmp_path / "whole", tell=heard.append)
    wanted = requests(comparison)
    assert len(wanted) == 10
    begun = [event.text for event in heard if event.stage == "run"]
    assert begun == [f"run {n} of 10: {request.title}" for n, request in enumerate(wanted, 1)]

    tests = sum(event.text == "testing the network" for event in heard)
    # per seed: dense once, three pruned when cut, repaired and tuned, two trained
    assert tests == 2 * (1 + 3 * 3 + 2)

    def kill(event: Event) -> None:
        if event.stage == "run":
            kill.run = event.text  # type: ignore[attr-defined]
        if event.text.startswith("epoch 2 of 2") and "random units, keep 0.5, repair" in kill.run:  # type: ignore[attr-defined]
            raise Killed

    with pytest.raises(Killed):
        carry_out(comparison, tmp_path / "killed", tell=kill)
    there = numbers(comparison, tmp_path / "killed")
    assert 0 < len(there) < 10
    heard.clear()
    done = carry_out(comparison, tmp_path / "killed", tell=heard.append)
    assert len(done) == 10
    epochs = [event.text for event in heard if event.text.startswith("epoch")]
    assert epochs[0].startswith("epoch 2 of 2")  # the interrupted run went on from its checkpoint
    assert numbers(comparison, tmp_path / "killed") == numbers(comparison, tmp_path / "whole")
    left = {path.name for path in (tmp_path / "killed" / "work").iterdir()} - {RECORD}
    assert all(name.startswith("dense-") for name in left)
    assert len(left) == 2
    heard.clear()
    carry_out(comparison, tmp_path / "killed", tell=heard.append)
    assert heard == []

    runs = {request.label: run for request, run in done if request.seed == 1}
    thin, dense = runs["uniform width"], runs["dense network, trained on"]
    scratch = runs["thin network from scratch"]
    assert (scratch.macs, scratch.params) == (thin.macs, thin.params)
    assert dense.macs == dense.dense_macs == thin.dense_macs > 2 * thin.macs * 0.999
    assert (thin.epochs, dense.epochs, scratch.epochs) == (2, 2, 3)
    assert thin.cut is not None
    assert thin.repaired is not None
    assert scratch.cut is scratch.repaired is None
    assert scratch.plans == ()
    assert len(thin.plans) == 1

    findings, written = write(comparison, done, tmp_path / "killed")
    assert findings.complete
    document = json.loads(written.document.read_text())
    assert len(document["runs"]) == 10
    assert len(document["lines"]) == 5
    page = written.page.read_text("utf-8")
    assert "uniform width" in page
    assert re.search(r"<td>reconstruct</td>", page)
    assert "https://" not in page.replace("https://plotly", "").partition("</script>")[2]  # nothing is fetched
    _damage(comparison, tmp_path / "killed")


def test_runs_of_earlier_versions_are_told_by_their_recipe(colours: Data, small: str, tmp_path: Path) -> None:
    """They measured once before training: the cut network, or the repaired one where there was a repair."""
    for folder, way in (("plain", "[]"), ("mended", '["compensate"]')):
        text = small.replace("[target]", f"[target]\nrepair = {way}").replace("[0, 1]", "[0]")
        comparison = replace(Comparison.from_toml(text), controls=("random",))
        (tmp_path / folder / "runs").mkdir(parents=True)
        request = requests(comparison)[0]
        old = {"name": request.name, "method": "magnitude", "keep": 0.5, "seed": 0, "dense": 0.9, "cut": 0.3}
        old |= {"test": 0.8, "val": 0.8, "test_images": 9, "macs": 1, "params": 1, "dense_macs": 2, "dense_params": 2}
        old |= {"latency": None, "dense_latency": None, "epochs": 1, "verification": 0.0, "seconds": 1.0, "plans": []}
        old |= {"format": 1, "recipe": "", "histories": [], "environment": {}}
        path_of(tmp_path / folder, request).write_text(json.dumps(old))
        [(_, run)] = gather(comparison, tmp_path / folder)
        assert (run.cut, run.repaired) == ((0.3, None) if folder == "plain" else (None, 0.3))


def _damage(comparison: Comparison, folder: Path) -> None:
    request = requests(comparison)[0]
    path = path_of(folder, request)
    good = json.loads(path.read_text())
    for content, message in (
        ("{", "is damaged: it is no JSON"),
        ("[]", "is damaged: it holds no table"),
        (json.dumps({**good, "test": "high"}), "is damaged: 'test' is 'high'"),
        (json.dumps({name: value for name, value in good.items() if name != "val"}), "is damaged: it lacks 'val'"),
        (json.dumps({**good, "name": "another"}), "is damaged: it is of the run another"),
        (json.dumps({**good, "format": 99}), "newer version; run: pip install --upgrade secateur"),
    ):
        path.write_text(content)
        with pytest.raises(ArtifactError, match=message):
            gather(comparison, folder)


def test_what_cannot_work_is_refused_before_the_first_run(colours: Data, small: str, tmp_path: Path) -> None:
    comparison = replace(Comparison.from_toml(small), keeps=(0.5, 1e-6))
    with pytest.raises(
        TargetError, match=r"^magnitude \(scope=global\), keep 1e-06: cannot keep only 1e-06 of the macs"
    ):
        carry_out(comparison, tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []


def test_pictures_get_the_channels_of_the_network_which_is_built_once_for_it(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(16):
        place = tmp_path / "pets" / ("train", "test")[number % 2] / ("a", "b")[number // 8]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(place / f"{number}.png")
    shapes = list[torch.Size]()

    def built(*_: object, **__: object) -> nn.Module:
        made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        shapes.append(made[0].weight.shape)
        return made

    monkeypatch.setattr(subject, "build", built)
    comparison = replace(Comparison.from_toml(small), keeps=(1e-6,))
    base = replace(comparison.base, data=f"imagefolder:{tmp_path / 'pets'}", image_size=8, workers=0)
    with pytest.raises(TargetError, match="cannot keep only 1e-06"):  # it is traced on grey pictures
        carry_out(replace(comparison, base=base), tmp_path / "out")
    assert len(shapes) == 1


def test_what_one_method_cannot_do_keeps_no_other_from_it(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison.from_toml(small.replace("[0, 1]", "[0]").replace("epochs = 2", "epochs = 1"))
    own = run_one.Conductor.run

    def refusing(self: run_one.Conductor, request: Request) -> Any:
        if request.title.startswith("magnitude"):
            raise TargetError("cannot keep only so much", 0.7)
        if request.title.startswith("random units"):
            raise TrainingError("diverged")
        return own(self, request)

    monkeypatch.setattr(run_one.Conductor, "run", refusing)
    heard: list[Event] = []
    refused = sum(request.title.startswith(("magnitude", "random units")) for request in requests(comparison))
    with pytest.raises(TargetError, match=r"magnitude.*: cannot keep only so much.*; look at the others with .*gather"):
        carry_out(comparison, tmp_path, tell=heard.append)
    assert sum(event.text.startswith("left out: ") for event in heard) == refused > 1
    assert len(gather(comparison, tmp_path)) == len(requests(comparison)) - refused
    assert not list((tmp_path / "work").glob("prune-*"))
    monkeypatch.setattr(run_one.Conductor, "run", own)
    done = carry_out(comparison, tmp_path)
    assert len(done) == len(requests(comparison))
    with pytest.raises(TrainingError, match="what was measured is no finite number"):
        run_files.save(tmp_path, done[0][0], replace(done[0][1], test=float("nan")))


def test_processes_share_the_work_and_leave_each_other_alone(colours: Data, small: str, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    comparison = Comparison.from_toml(small.replace("[0, 1]", "[0]").replace("epochs = 2", "epochs = 1"))
    wanted = requests(comparison)
    (tmp_path / "work").mkdir()
    place = tmp_path / "work" / f"{wanted[-1].name}.lock"
    code = (
        "import pathlib, sys\nfrom secateur.artifact.locks import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])) as other:\n    print(other, flush=True)\n    sys.stdin.readline()\n"
    )
    with forked.start(["-c", code, str(place)]) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "None\n"
        message = rf"1 of 5 runs in .* are still going .* seed 0 in process {other.pid}; wait .* or look at the runs"
        with pytest.raises(ArtifactError, match=message):
            carry_out(comparison, tmp_path)
        assert [request.name for request, _ in gather(comparison, tmp_path)] == [r.name for r in wanted[:-1]]
        other.stdin.write("\n")
    with claimed(place) as holder:
        assert holder is None
    assert len(carry_out(comparison, tmp_path)) == 5


def test_without_runs_there_is_no_page(small: str, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="there is no run of this comparison"):
        write(Comparison.from_toml(small), [], tmp_path)


def test_new_weights_have_the_scale_of_thin_layers() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    dense, thin = nn.Linear(64, 5), nn.Linear(16, 5)
    with torch.no_grad():
        thin.weight.copy_(dense.weight[:, :16])
    before = thin.weight.clone()
    rescale(thin, dense)
    torch.testing.assert_close(thin.weight, 2 * before)


def test_each_run_is_timed_in_turns_with_its_own_dense_network(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], str, int | None]] = []

    def measured(networks: dict[str, nn.Module], inputs: Any, runtime: Any, **options: Any) -> SideBySide:
        seen.append((list(networks), runtime, options["threads"]))
        sizes = {name: float(sum(p.numel() for p in model.parameters())) for name, model in networks.items()}
        latencies = {name: Latency(each, 0.1, 11, 1, 1, "cpu", runtime) for name, each in sizes.items()}
        return SideBySide(
            runtime, latencies, {name: (each,) * 11 for name, each in sizes.items()}, dict.fromkeys(sizes, 0.0)
        )

    chosen: list[Any] = []

    def choose(model: nn.Module, inputs: Any, among: Any, **options: Any) -> Any:
        chosen.append(among)
        return among[len(chosen) - 1]

    monkeypatch.setattr(headline_speed, "side_by_side", measured)
    monkeypatch.setattr(headline_speed, "fastest_runtime", choose)
    monkeypatch.setattr(pipeline.Pipeline, "foretell", lambda self, graph: None)
    text = "latency = true\nthreads = 1\n" + small.replace("[0, 1]", "[0]").replace("epochs = 2", "epochs = 1")
    comparison = Comparison.from_toml(text)
    done = carry_out(comparison, tmp_path)
    assert chosen == [("eager", "channels_last")]  # once for all, for what is not exported
    assert seen == [(["dense", "pruned"], "eager", 1)] * 5
    for request, run in done:
        assert run.speed is not None
        assert run.dense_latency == run.dense_params
        assert run.latency == run.params
        assert run.speed["ratio"] == pytest.approx(run.dense_params / run.params)
        assert run.speed["differs"] is (request.kind != "dense")
    _, written = write(comparison, done, tmp_path)
    page = written.page.read_text("utf-8")
    assert "Each network was timed in turns with the dense one in PyTorch eager" in page
    assert page.count("no measurable difference") == 1  # that which was only trained on
    path = path_of(tmp_path, done[0][0])
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "speed"}
    path.write_text(json.dumps(old))  # as earlier versions have left it
    assert gather(comparison, tmp_path)[0][1].speed is None


def test_a_comparison_refuses_a_runtime_that_is_not_there(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headline_speed, "missing", lambda runtime, device: f"{runtime} needs something")
    with pytest.raises(SettingError, match="openvino needs something"):
        carry_out(Comparison.from_toml(f'latency = true\nruntime = "openvino"\n{small}'), tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []


def test_all_methods_are_repaired_by_the_same_unlabelled_images(
    colours: Data, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(90, 3, 8, 8)).astype(np.float32))
    head = f'calibrate = "{tmp_path / "images.npy"}"\ncalibrate_images = 70\ncontrols = ["random"]\n'
    text = small.partition("[pretrain]")[0].replace("[target]", '[target]\nrepair = ["compensate", "recalibrate"]')
    comparison = Comparison.from_toml(head + text)
    assert comparison.base.calibrate_images == 70
    loaded: list[Any] = []
    used: list[Any] = []

    def load(*given: Any) -> Any:
        loaded.append(images_of(*given))
        return loaded[-1]

    def pruned(*given: Any, images: Any, **more: Any) -> Any:
        used.append(images)
        return prune_as(*given, images=images, **more)

    monkeypatch.setattr(run_one, "images_of", load)
    monkeypatch.setattr(run_one, "prune_as", pruned)
    carry_out(comparison, tmp_path / "out")
    assert [found.count for found in loaded] == [70, 70]  # once for each seed
    assert used == [loaded[0], loaded[0], loaded[1], loaded[1]]
    assert loaded[0].digest() != loaded[1].digest()
