"""Time ``fit`` against a training loop written by hand, and against the bare arithmetic.

    python benchmarks/train.py --seconds 120 --threads 2 --json train.json
    python benchmarks/train.py --seconds 60 --threads 1 --check benchmarks/results/train.json

Three ways to train the built-in resnet20 on made-up images of CIFAR-10's size, in turn, several times over:

- ``fit``: everything that ``secateur.training.fit`` does for one epoch, its start and end included;
- ``plain``: the loop that everyone writes: a data set of float32 tensors that crops and flips each sample, a
  ``DataLoader``, forward, backward, SGD with momentum, cosine schedule, ``loss.item()`` for the log;
- ``bare``: forward, backward and optimizer step on batches made beforehand; no loop can be faster.

All run eagerly in float32 with contiguous tensors. Printed are images per second: medians and interquartile ranges
over the rounds, and the medians of the ratios within a round, which a busy machine disturbs less. ``--check`` fails
where ``fit / bare`` is lower than in a file of earlier numbers by more than a tenth and half of both spreads.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from secateur.data import from_arrays
from secateur.measure.machine import device_name
from secateur.models import build
from secateur.training import Settings, fit

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
SLACK = 0.1  # processors differ in what arithmetic costs beside everything else


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for everything together, about")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--check", type=Path, help="fail if fit has become slower than in this file, beside bare")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = measure(arguments)
    print(table(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.check and (fall := fallen(report, json.loads(arguments.check.read_text("utf-8")))):
        raise SystemExit(f"{arguments.check}: {fall}")


def fallen(report: dict[str, Any], earlier: dict[str, Any]) -> str:
    """Say how much slower ``fit`` has become beside ``bare``; empty if no more than noise explains."""
    now, before = (numbers["ratios"]["fit / bare"] for numbers in (report, earlier))
    least = (1 - SLACK) * before["median"] - (now["iqr"] + before["iqr"]) / 2
    if now["median"] >= least:
        return ""
    return f"fit / bare was {before['median']:.3f} and is {now['median']:.3f}, which is less than {least:.3f}"


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    device, size = torch.device(arguments.device), arguments.batch_size
    network = build("secateur:resnet20", classes=10)
    arms: dict[str, Callable[[nn.Module, int], None]] = {
        "fit": lambda model, batches: with_fit(model, batches, size, arguments.device),
        "plain": lambda model, batches: with_plain(model, batches, size, device, arguments.workers),
        "bare": lambda model, batches: with_bare(model, batches, size, device),
    }
    for run in arms.values():  # imports, kernels, caches
        timed(run, network, 2, device)
    step = timed(arms["plain"], network, 4, device) / 4
    batches = max(4, round(arguments.seconds / (len(arms) * arguments.rounds * step)))
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(arguments.rounds):
        order = list(arms) if number % 2 == 0 else list(arms)[::-1]  # no arm always runs on a machine heated by another
        for name in order:
            seconds[name].append(timed(arms[name], network, batches, device))
    return summary(arguments, batches, seconds)


def timed(run: Callable[[nn.Module, int], None], network: nn.Module, batches: int, device: torch.device) -> float:
    """Return the seconds that an arm takes for so many batches, on its own copy of the network."""
    model = copy.deepcopy(network).to(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run(model, batches)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def with_fit(model: nn.Module, batches: int, size: int, device: str) -> None:
    images, labels = made_up(batches * size)
    data = from_arrays(
        (images, labels),
        (images[:2], labels[:2]),
        (images[:2], labels[:2]),
        classes=10,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    settings = Settings(
        epochs=1,
        batch_size=size,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        augment="crop_flip",
        precision="float32",
        memory_format="contiguous",
        compile="off",
        device="cuda" if device == "cuda" else "cpu",
    )
    fit(model, data, settings)


class Floats(Dataset[tuple[Tensor, int]]):
    """Normalised float32 images in memory; each sample is cropped and flipped when it is asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = (images.float() / 255 - 0.5) / 0.25
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = F.pad(self.images[index], (4, 4, 4, 4))
        row, column = torch.randint(9, (2,)).tolist()
        image = image[:, row : row + 32, column : column + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image, int(self.labels[index])


def with_plain(model: nn.Module, batches: int, size: int, device: torch.device, workers: int) -> None:
    data = Floats(*made_up(batches * size))
    loader = DataLoader(data, size, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")
    rule = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=batches)
    model.train()
    total, right = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        scores = model(images)
        loss = F.cross_entropy(scores, labels)
        rule.zero_grad()
        loss.backward()
        rule.step()
        rates.step()
        total += loss.item() * len(labels)
        right += int((scores.argmax(1) == labels).sum())


def with_bare(model: nn.Module, batches: int, size: int, device: torch.device) -> None:
    images, labels = made_up(size)
    images, labels = ((images.float() / 255 - 0.5) / 0.25).to(device), labels.to(device)
    rule = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True, fused=True)
    model.train()
    for _ in range(batches):
        F.cross_entropy(model(images), labels).backward()
        rule.step()
        rule.zero_grad()


def made_up(count: int) -> tuple[Tensor, Tensor]:
    """Return uint8 images (count, 3, 32, 32) and labels (count,) in 0..9."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return images, torch.arange(count) % 10


def summary(arguments: argparse.Namespace, batches: int, seconds: dict[str, list[float]]) -> dict[str, object]:
    images = batches * arguments.batch_size
    rates = {name: [images / taken for taken in times] for name, times in seconds.items()}
    ratios = {
        f"fit / {other}": [mine / theirs for mine, theirs in zip(rates["fit"], rates[other], strict=True)]
        for other in ("plain", "bare")
    }
    cuda = arguments.device == "cuda"
    return {
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ratios": {name: spread(values) for name, values in ratios.items()},
        "rounds": arguments.rounds,
        "batches": batches,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "device": device_name(torch.device(arguments.device)),
        "capability": "cuda" if cuda else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "iqr": high - low}


def table(report: dict[str, object]) -> str:
    lines = [
        "resnet20, batches of {batch_size}, {threads} threads, {device} ({capability}), torch {torch}: "
        "{rounds} rounds of {batches} batches each".format(**report)
    ]
    for title, unit in (("images_per_second", "images/s"), ("ratios", "")):
        found = report[title]
        assert isinstance(found, dict)
        for name, value in found.items():
            digits = 1 if unit else 3
            lines.append(f"{name:12} {value['median']:9.{digits}f} (IQR {value['iqr']:.{digits}f}) {unit}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
