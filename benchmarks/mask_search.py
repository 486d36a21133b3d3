"""Candidates per second of the search engine, beside the loop that it replaces, in the same run.

    python benchmarks/mask_search.py --data cifar10:DIR --weights resnet20.th
    python benchmarks/mask_search.py --data cifar10:DIR --model anwar_cifar10_small --images 1000

The loop copies the network, zeroes what the mask drops and makes a full pass over the validation images with the
library's own ``accuracy``, mask after mask. Both get the same masks and must name the same winner with the same number
of errors; otherwise the script fails. Wall-clock and CPU seconds are given, for the machine may be busy. Peak memory
is the process's, after each part; the engine goes first.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import time
from pathlib import Path

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.size import size
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.data import Data, from_arrays, load_data
from secateur.measure import accuracy
from secateur.methods.random_masks import RandomMasks
from secateur.models import build, load_weights
from secateur.search import HeldOut, best_of

Batches = list[tuple[torch.Tensor, torch.Tensor]]


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
    arguments = parser.parse_args()
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
    plans = method.draw(Problem(model, graph))
    row = compare(model, graph, plans, batches)
    about = {name: value for name, value in vars(arguments).items() if name not in ("json", "data", "weights", "leave")}
    row = about | {"data": data.name, "trained": bool(arguments.weights), "machine": machine()} | row
    if arguments.json:
        rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
        rows = [old for old in rows if any(old[name] != row[name] for name in (*about, "trained"))]
        arguments.json.write_text(json.dumps([*rows, row], indent=1))


def noise(images: int) -> Data:
    """Return a data set of random pictures, for machines without any."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (images, 3, 32, 32), generator=rng, dtype=torch.uint8)
    y = torch.randint(10, (images,), generator=rng)
    return from_arrays((x[:64], y[:64]), (x[:1], y[:1]), (x, y), classes=10)


def compare(model: nn.Module, graph: Graph, plans: list[Plan], batches: Batches) -> dict[str, object]:
    images = sum(len(y) for _, y in batches)
    kept = size(graph, plans[0]).macs / size(graph).macs
    print(f"{len(plans)} masks on {images} images; the first keeps {kept:.3f} of the MACs", flush=True)

    start, used = time.perf_counter(), time.process_time()
    search = best_of(model, graph, plans, HeldOut.of(batches, model))
    engine = (time.perf_counter() - start, time.process_time() - used)
    errors = search.trials[search.best].errors
    seen = sum(trial.images for trial in search.trials) / (images * len(plans))
    memory = peak()
    print(f"engine: {engine[0]:.1f} s, {engine[1]:.1f} CPU s; mask {search.best} wins with {errors} errors; looked at "
          f"{seen:.2f} of the images; peak {memory:.0f} MiB", flush=True)  # fmt: skip

    start, used = time.perf_counter(), time.process_time()
    counted = [naive(model, graph, plan, batches, images) for plan in plans]
    loop = (time.perf_counter() - start, time.process_time() - used)
    best = min(range(len(plans)), key=lambda i: (counted[i], i))
    print(f"loop:   {loop[0]:.1f} s, {loop[1]:.1f} CPU s; mask {best} wins with {counted[best]} errors; "
          f"peak {peak():.0f} MiB")  # fmt: skip
    if (best, counted[best]) != (search.best, errors):
        raise SystemExit("the winners differ")
    print(f"candidates per second: {len(plans) / engine[0]:.2f} and {len(plans) / loop[0]:.2f}; "
          f"{loop[0] / engine[0]:.2f} times as many by the clock, {loop[1] / engine[1]:.2f} by CPU time")  # fmt: skip
    return {"engine_s": engine[0], "loop_s": loop[0], "engine_cpu_s": engine[1], "loop_cpu_s": loop[1], "best": best,
            "errors": errors, "images": images, "seen": seen, "kept_macs": kept, "peak_mib": memory,
            "scores": counted}  # fmt: skip


def naive(model: nn.Module, graph: Graph, plan: Plan, batches: Batches, images: int) -> int:
    """Count the errors of one mask as anyone would: copy, zero, run everything."""
    network = copy.deepcopy(model)
    with masked(network, graph, plan):
        return images - round(accuracy(network, batches).top1 * images)


def machine() -> dict[str, object]:
    """Return on what it was measured."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.machine(), "torch": torch.__version__}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
