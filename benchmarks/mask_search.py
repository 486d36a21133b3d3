"""Candidates per second of the search engine, beside the loop that it replaces, in the same run.

    python benchmarks/mask_search.py --data cifar10:DIR --weights resnet20.th
    python benchmarks/mask_search.py --data cifar10:DIR --model anwar_cifar10_small --images 1000

The loop copies the network, zeroes what the mask drops and makes a full pass over the validation images, mask after
mask, as torch runs networks by default. A second loop makes its passes with the library's own ``quality``, which
chooses the memory layout. All get the same masks and must name the same winner with the same number of errors;
otherwise the script fails. Each runs in a process of its own, since memory that one has used makes the next one
faster. Wall-clock and CPU seconds are given, for the machine may be busy; peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.data import Data, from_arrays, load_data
from secateur.measure import quality
from secateur.measure.machine import processor
from secateur.methods.random_masks import RandomMasks
from secateur.models import build, load_weights
from secateur.search import HeldOut, best_of

Batches = list[tuple[torch.Tensor, torch.Tensor]]
PARTS = ("engine", "loop", "accuracy_loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path, help="trained weights; without them masks differ little")
    parser.add_argument("--data", default="", help="data set; random images without")
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--ratio-of", default="units", choices=["units", "weights"])
    parser.add_argument("--granularity", default="maps")
    parser.add_argument("--leave", nargs="*", default=[], help="layers that keep all their maps")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--images", type=int, default=5000, help="validation images to use, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="list of measurements to add to")
    parser.add_argument("--part", choices=PARTS, help="do this part only, and print what was measured")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(measure(arguments)))
        return
    about = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("json", "data", "weights", "leave", "part")
    }
    row: dict[str, Any] = about | {"trained": bool(arguments.weights), "machine": machine()}
    for part in PARTS:
        command = [sys.executable, *sys.argv, "--part", part]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        row |= found if part == PARTS[0] else {name: found[name] for name in found if name.startswith(part)}
        text = f"{part}: {found[f'{part}_s']:.1f} s, {found[f'{part}_cpu_s']:.1f} CPU s, {found['peak_mib']:.0f} MiB; "
        text += f"mask {found['best']} wins with {found['errors']} errors of {found['images']}"
        if part != PARTS[0]:
            wall, cpu = (row[f"{part}_{unit}"] / row[f"{PARTS[0]}_{unit}"] for unit in ("s", "cpu_s"))
            text += f"; the engine looks at {wall:.2f} times as many masks by the clock, {cpu:.2f} by CPU time"
        print(text, flush=True)
        if (found["best"], found["errors"]) != (row["best"], row["errors"]):
            raise SystemExit("the winners differ")
    if arguments.json:
        rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
        rows = [old for old in rows if any(old[name] != row[name] for name in (*about, "trained"))]
        arguments.json.write_text(json.dumps([*rows, row], indent=1))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Find the best mask in one way."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build(arguments.model, classes=10).eval()
    if arguments.weights:
        load_weights(model, arguments.weights)
    data = load_data(arguments.data) if arguments.data else noise(arguments.images)
    batches: Batches = []
    left = arguments.images
    for x, y in data.batches("val", 256):
        batches.append((x[:left], y[:left]))
        left -= len(batches[-1][1])
        if not left:
            break
    graph = trace(model, data.example()).without(*arguments.leave)
    method = RandomMasks(
        ratio=arguments.ratio, ratio_of=arguments.ratio_of, granularity=arguments.granularity,
        candidates=arguments.candidates,
    )  # fmt: skip
    plans = method.draw(Problem(model, graph, limits=Limits(multiple=1)))
    images = sum(len(y) for _, y in batches)
    start, used = time.perf_counter(), time.process_time()
    more: dict[str, Any] = {}
    if arguments.part == "engine":
        search = best_of(model, graph, plans, HeldOut.of(batches, model))
        best, errors = search.best, search.trials[search.best].errors
        more["seen"] = sum(trial.images for trial in search.trials) / (images * len(plans))
    else:
        count = plain if arguments.part == "loop" else with_accuracy
        counted = [silenced_errors(model, graph, plan, batches, count) for plan in plans]
        best = min(range(len(plans)), key=lambda i: (counted[i], i))
        errors, more["loop_scores"] = counted[best], counted
    return more | {
        f"{arguments.part}_s": time.perf_counter() - start,
        f"{arguments.part}_cpu_s": time.process_time() - used,
        "best": best, "errors": errors, "images": images, "kept_macs": size(graph, plans[0]).macs / size(graph).macs,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "data": data.name,
    }  # fmt: skip


def noise(images: int) -> Data:
    """Return a data set of random pictures, for machines without any."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    y = torch.randint(10, (images,), generator=rng)
    return from_arrays((x[:64], y[:64]), (x[:1], y[:1]), (x, y), classes=10)


def silenced_errors(
    model: nn.Module, graph: Graph, plan: Plan, batches: Batches, count: Callable[[nn.Module, Batches], int]
) -> int:
    """Count the errors of one mask as anyone would: copy, zero, run everything."""
    network = copy.deepcopy(model)
    with masked(network, graph, plan):
        return count(network, batches)


@torch.no_grad()
def plain(network: nn.Module, batches: Batches) -> int:
    return sum(int((network(x).argmax(1) != y).sum()) for x, y in batches)


def with_accuracy(network: nn.Module, batches: Batches) -> int:
    images = sum(len(y) for _, y in batches)
    return images - round(quality(network, batches).value * images)


def machine() -> dict[str, object]:
    """Return on what it was measured."""
    return {"processor": processor(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
