"""Prune the published CIFAR-10 ResNets, fine-tune, and print the table that the README shows.

    python benchmarks/cifar.py --data cifar10:DIR --weights DIR --networks resnet20 --epochs 20

DIR with the weights holds the files of akamaster/pytorch_resnet_cifar10 (``resnet20-12fca82f.th``, ...).
Every run is one JSON file in ``--out``; those that exist are not repeated, and a killed run goes on from its last
epoch. Latencies are measured in a pass of their own (``--latency``), with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.data import Data, load_data
from secateur.measure import SpeedUp, side_by_side
from secateur.measure.machine import processor
from secateur.models import build, load_weights
from secateur.run import prune
from secateur.training import Settings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those the weights were trained with
ANY_WIDTH = Limits(multiple=1)  # as in the papers; for speed widths would be multiples
METHODS = ("magnitude", "filter_std", "random_units")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10:DIR")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cifar")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.7, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--precision", default="auto", help="as the training setting of that name")
    parser.add_argument("--memory-format", default="auto", help="the same")
    parser.add_argument("--compile", default="auto", help="the same")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--latency", action="store_true", help="measure latencies only")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        data = load_data(arguments.data, mean=MEAN, std=STD)
        jobs = product(arguments.seeds, arguments.networks, arguments.keeps, arguments.methods)
        for seed, network, keep, method in jobs:
            if arguments.latency:
                time_one(arguments, data, network, method, keep)
            else:
                run_one(arguments, data, network, method, keep, seed)
    print(table(arguments.out))


def dense_network(arguments: argparse.Namespace, network: str) -> torch.nn.Module:
    model = build(f"secateur:{network}", classes=10)
    files = sorted(arguments.weights.glob(f"{network}-*.th"))
    load_weights(model, files[0])
    return model


def run_one(arguments: argparse.Namespace, data: Data, network: str, method: str, keep: float, seed: int) -> None:
    """Prune, fine-tune and measure once; write what came out."""
    file = arguments.out / f"{network}-{method}-{keep}-{arguments.epochs}ep-seed{seed}.json"
    if file.exists():
        return
    settings = Settings(
        epochs=arguments.epochs,
        lr=arguments.lr,
        augment="crop_flip",
        precision=arguments.precision,
        memory_format=arguments.memory_format,
        compile=arguments.compile,
    )
    start = time.perf_counter()
    result = prune(
        dense_network(arguments, network),
        None,
        method,
        Target(keep),
        data,
        train=settings,
        limits=ANY_WIDTH,
        repair=(),  # what the methods themselves leave
        seed=seed,
        latency=False,
        work=file.with_suffix(".work"),
    )
    assert result.before.quality
    assert result.middle
    assert result.middle.quality
    assert result.after.quality
    row = {
        "network": network,
        "method": method,
        "keep": keep,
        "seed": seed,
        "epochs": arguments.epochs,
        "dense": result.before.quality.value,
        "pruned": result.middle.quality.value,
        "tuned": result.after.quality.value,
        "params": [result.before.counts.params, result.after.counts.params],
        "macs": [result.before.counts.macs, result.after.counts.macs],
        "verification": result.verification,
        "settings": settings.to_dict(),
        "history": result.histories[0].to_dict() if result.histories else None,
        "seconds": time.perf_counter() - start,
        "machine": machine(),
    }
    file.write_text(json.dumps(row, indent=1))
    for left in file.with_suffix(".work").glob("*"):
        left.unlink()
    file.with_suffix(".work").rmdir()
    print(f"{file.stem}: {row['dense']:.4f} -> {row['pruned']:.4f} -> {row['tuned']:.4f}", flush=True)


def time_one(arguments: argparse.Namespace, data: Data, network: str, method: str, keep: float) -> None:
    """Time dense and pruned in turns, batch 1 and one thread; write the medians."""
    file = arguments.out / f"latency-{network}-{method}-{keep}.json"
    if file.exists():
        return
    dense = dense_network(arguments, network)
    thin = prune(dense, data.example(), method, Target(keep), limits=ANY_WIDTH, latency=False).model
    timed = SpeedUp.of(side_by_side({"dense": dense, "pruned": thin}, data.example(), threads=1, seconds=2.5))
    row = {
        "network": network,
        "method": method,
        "keep": keep,
        "dense_ms": timed.milliseconds[0],
        "pruned_ms": timed.milliseconds[1],
        "speedup": timed.ratio,
        "interval": [timed.low, timed.high],
        "machine": machine(),
    }
    file.write_text(json.dumps(row, indent=1))


def machine() -> dict[str, str | int]:
    """Return on what it was measured; a processor's name alone may not say how fast it computes."""
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(folder: Path) -> str:
    """Return the Markdown table of all results in a folder."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("resnet*.json"))]
    times = {
        (row["network"], row["method"], row["keep"]): row
        for row in (json.loads(path.read_text()) for path in folder.glob("latency-*.json"))
    }
    lines = [
        "| network | method | keep | params | MACs | dense % | pruned % | tuned % (epochs, seeds) | latency |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs: dict[tuple[str, float, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["network"], -row["keep"], row["method"], row["epochs"]), []).append(row)
    for (network, keep, method, epochs), same in sorted(runs.items()):
        first = same[0]
        timed = times.get((network, method, -keep))
        speed = f"{timed['pruned_ms']:.2f} ms ({timed['speedup']:.2f}x)" if timed else ""
        cells = [
            network,
            method,
            f"{-keep}",
            f"{first['params'][1]:,} ({first['params'][1] / first['params'][0]:.1%})",
            f"{first['macs'][1] / 1e6:.1f} M ({first['macs'][1] / first['macs'][0]:.1%})",
            f"{100 * first['dense']:.2f}",
            spread([r["pruned"] for r in same]),
            f"{spread([r['tuned'] for r in same])} ({epochs}, {len(same)})",
            speed,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 and len(set(values)) > 1 else mean


if __name__ == "__main__":
    main()
