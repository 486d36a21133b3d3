"""What pruning does to networks for other tasks than classification: half of the MACs, without training and fine-tuned.

    python benchmarks/tasks.py --camvid DIR --bccd DIR --textures DIR --restoration DIR --work WORK
    python benchmarks/tasks.py ... --tasks camvid bccd --seeds 0 1 2      # what is not in the file yet
    python benchmarks/tasks.py ... --smoke                                # seconds: a few images, one epoch
    python benchmarks/tasks.py --table                                    # prints what is in the file
    python benchmarks/tasks.py --docs                                     # writes it into docs/results.md

Each task is one recipe, ``task_NAME.toml``, which says network, data, image size and both trainings; the folders of
pictures are given here (see ``task_data.py``), and tasks without theirs are left out. The dense network is trained once
for each seed, on one thread, and its weights stay in the work folder. Each row is one network, pruned by one way (an
arm) and, with epochs, fine-tuned; its metrics are those of all test images. Units are chosen, and what is left is
fitted to the dense network, with training images and without their labels. A run that was killed goes on where it
stopped, also within a training. The last row of a kind counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from provenance import machine, versions
from row_files import append, read
from secateur import prune
from secateur.events import ignore
from secateur.measure import Quality, count, quality
from secateur.methods import make
from secateur.models import build
from secateur.recipe import Recipe
from secateur.training import Settings, fit
from task_data import TASKS, loaded, shortened
from task_networks import Bicubic
from task_tables import documented, tables

FILE = Path(__file__).parent / "results" / "tasks.jsonl"
SMOKE_IMAGES = 16
BICUBIC = "bicubic, no network"


@dataclass(frozen=True)
class Arm:
    """One way to choose units and to repair what is left.

    Attributes:
        method: of ``secateur.methods``.
        repair: of ``secateur.repair``; None for what ``prune`` does by default where there are images.
        tuned: whether the network is fine-tuned as well.
        timed: whether its time is measured; others have the widths of one that is.
        options: settings of the method.
        tasks: for which it is run; none for all.
    """

    method: str
    repair: tuple[str, ...] | None = None
    tuned: bool = False
    timed: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tasks: tuple[str, ...] = ()


TRANSFERS = ("textures", "cells")
ARMS = {
    "reconstruction": Arm("reconstruction", tuned=True, timed=True),
    "magnitude": Arm("magnitude", (), tuned=True, timed=True),
    "magnitude, refit": Arm("magnitude"),
    "random_units": Arm("random_units", (), tuned=True),
    "random_units, refit": Arm("random_units"),
    "weak_subnetwork": Arm("weak_subnetwork", (), tuned=True, timed=True, tasks=TRANSFERS),
    "self_grouping": Arm("self_grouping", (), tuned=True, timed=True, options={"restarts": 3}, tasks=TRANSFERS),
}


class Job(NamedTuple):
    """What one row says."""

    task: str
    arm: str
    epochs: int
    seed: int


def key(row: dict[str, Any]) -> Job:
    return Job(*(row[name] for name in Job._fields))


def main() -> None:
    arguments = parsed()
    if arguments.table or arguments.docs:
        text = tables(read(arguments.out, key), list(TASKS), [BICUBIC, *ARMS])
        print(documented(text) if arguments.docs else text)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = False
    for seed in arguments.seeds:
        for name in arguments.tasks:
            missing = [folder for folder in TASKS[name] if getattr(arguments, folder) is None]
            if missing:
                print(f"{name}: left out, --{' and --'.join(missing)} not given", flush=True)
            elif due(name, seed, arguments):
                failed |= not study(name, seed, arguments)
    sys.exit(failed)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="folder of CamVid, with masks beside the images")
    parser.add_argument("--bccd", type=Path, help="folder of the blood cells, with boxes as COCO has them")
    parser.add_argument("--textures", type=Path, help="folder with one folder of pictures for each class")
    parser.add_argument("--restoration", type=Path, help="folder with Set5 and Set14")
    parser.add_argument("--work", type=Path, help="folder for weights, checkpoints and folders that are made")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), metavar="NAME")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, help=f"file of rows, one JSON object a line; {FILE.name} if left out")
    parser.add_argument("--retry", action="store_true", help="repeat what failed")
    parser.add_argument("--smoke", action="store_true", help="try all on a few images; rows go into the work folder")
    parser.add_argument("--table", action="store_true", help="print the tables of what is in the file")
    parser.add_argument("--docs", action="store_true", help="write them into docs/results.md")
    arguments = parser.parse_args()
    if arguments.work is None and not (arguments.table or arguments.docs):
        parser.error("give --work, or --table or --docs")
    if arguments.smoke:
        arguments.work = arguments.work / "smoke"
    arguments.out = arguments.out or (arguments.work / FILE.name if arguments.smoke else FILE)
    return arguments


def due(name: str, seed: int, arguments: argparse.Namespace) -> list[Job]:
    """Return what is not in the file yet; all that needs no training before what does."""
    there = {key(row) for row in read(arguments.out, key) if not (arguments.retry and "failed" in row)}
    arms = [arm for arm in arguments.arms if name in (ARMS[arm].tasks or (name,))]
    plain = ["dense", *([BICUBIC] if name == "superresolution" else []), *arms]
    wanted = [Job(name, arm, 0, seed) for arm in plain]
    settings = recipe_of(name, arguments).train
    assert settings is not None
    wanted += [Job(name, arm, settings.epochs, seed) for arm in arms if ARMS[arm].tuned]
    return [job for job in wanted if job not in there]


def recipe_of(name: str, arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a task; to try it out with one epoch of each training."""
    found = Recipe.read(Path(__file__).parent / f"task_{name}.toml").vouched()
    assert found.pretrain is not None
    assert found.train is not None
    if not arguments.smoke:
        return found
    short: list[Settings] = [replace(each, epochs=1, warmup_epochs=0) for each in (found.pretrain, found.train)]
    return replace(found, pretrain=short[0], train=short[1])


def study(name: str, seed: int, arguments: argparse.Namespace) -> bool:
    """Measure what is due of one task; return whether all came out."""
    subject = Subject(name, seed, arguments)
    fine = True
    for job in due(name, seed, arguments):
        try:
            row = subject.measured(job)
        except Exception as error:  # one arm shall not stop the others
            row = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"}
            fine = False
        row = {**job._asdict(), **row}
        append(arguments.out, row | {"machine": machine(), "versions": versions("torchvision", "onnxruntime")})
        print(json.dumps(row), flush=True)
    return fine


class Subject:
    """One task: its data, its recipe and its dense network."""

    def __init__(self, name: str, seed: int, arguments: argparse.Namespace) -> None:
        self.recipe, self.seed = recipe_of(name, arguments), seed
        self.work = arguments.work / f"{name}-{seed}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.data = {
            said: shortened(data, SMOKE_IMAGES) if arguments.smoke else data
            for said, data in loaded(name, self.recipe, arguments)
        }
        self.first, *self.others = self.data

    @functools.cached_property
    def dense(self) -> nn.Module:
        """The dense network, trained unless that was done."""
        file = self.work / "dense.pt"
        torch.manual_seed(self.seed)
        data = self.data[self.first]
        path, _, function = self.recipe.model.rpartition(":")
        model = build(f"{Path(__file__).parents[1] / path}:{function}", classes=data.classes, channels=data.shape[0])
        if file.exists():
            model.load_state_dict(torch.load(file, weights_only=True))
            return model.eval()
        assert self.recipe.pretrain is not None
        began = time.process_time()
        fit(model, data, self.recipe.pretrain, checkpoint=self.work / "dense.work", seed=self.seed, progress=False)
        print(f"{self.work.name}: trained in {time.process_time() - began:.0f} s of the processor", flush=True)
        torch.save(model.state_dict(), file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        return model.eval()

    @functools.cached_property
    def tested(self) -> Quality:
        """What the dense network achieves on the first test set."""
        return self._quality(self.dense, self.first)

    def measured(self, job: Job) -> dict[str, Any]:
        """Return what one row says beside its job."""
        if job.arm == "dense":
            size = count(self.dense, self.data[self.first].example())
            row: dict[str, Any] = {"macs": size.macs, "params": size.params, "trained": self.recipe.pretrain.epochs}
            return (
                row
                | {"model": self.recipe.model, "data": {it: self._said(it) for it in self.data}}
                | {"metrics": self._metrics(self.dense, self.tested)}
            )
        if job.arm == BICUBIC:
            bicubic = Bicubic()
            return {"macs": 0.0, "params": 0.0, "metrics": self._metrics(bicubic, self._quality(bicubic, self.first))}
        arm = ARMS[job.arm]
        began = time.process_time()
        result = prune(
            self.dense, method=make(arm.method, arm.options), target=self.recipe.keep, repair=arm.repair,
            data=self.data[self.first], train=self.recipe.train if job.epochs else None, seed=self.seed,
            tested=self.tested, calibrate_images=self.recipe.calibrate_images, latency=arm.timed and not job.epochs,
            runtime=self.recipe.runtime, threads=1, progress=False, tell=ignore,
            work=self.work / f"{job.arm}-{job.epochs}".replace(", ", "+"),
        )  # fmt: skip
        row = {"seconds": round(time.process_time() - began, 1)}
        before, after = result.before.counts, result.after.counts
        row |= {"macs": round(after.macs / before.macs, 5), "params": round(after.params / before.params, 5)}
        if result.after.quality is not None:
            row["metrics"] = self._metrics(result.model, result.after.quality)
        if (speed := result.speed) is not None:
            row["speed"] = {name: round(getattr(speed, name), 4) for name in ("ratio", "low", "high")}
            row["speed"] |= {"runtime": speed.runtime, "clock": speed.clock, "dense_ms": speed.milliseconds[0]}
        return row

    def _metrics(self, model: nn.Module, first: Quality) -> dict[str, dict[str, Any]]:
        found = {self.first: first} | {name: self._quality(model, name) for name in self.others}
        return {name: it.to_dict() for name, it in found.items()}

    def _quality(self, model: nn.Module, name: str) -> Quality:
        data = self.data[name]
        return quality(model, data.batches("test"), data.task)

    def _said(self, name: str) -> dict[str, Any]:
        data = self.data[name]
        sizes = {split: data.size(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
        return {"shape": data.shape, "task": data.task.to_dict(), "images": sizes}


if __name__ == "__main__":
    main()
