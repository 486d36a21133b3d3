"""Half of the MACs, and how much faster? Fifteen networks, every runtime, beside Torch-Pruning in the same run.

    pip install torch-pruning==1.6.1 torchvision
    python benchmarks/real_speed.py --batches 1 --threads 1      # the main table
    python benchmarks/real_speed.py                              # everything; what is in the file is not repeated
    python benchmarks/real_speed.py --table
    python benchmarks/real_speed.py --check                      # fails and says what does not hold

Random weights, batch norms with the statistics of random images. Of each network: dense; ours with the default limits;
ours at any width (``multiple=1``); Torch-Pruning with widths of any size and in multiples of 16, at the width ratio
that comes closest to half of the MACs without exceeding it. All of them take turns in one process. One line of the
file is one network in one runtime with one batch size and number of threads; the last line of a kind counts.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from row_files import append, read
from secateur.measure import RUNTIMES, SideBySide, count, side_by_side
from secateur.measure.machine import processor
from speed_networks import NETWORKS, Variant, dense, first_line, variants, versions
from speed_possible import Possible
from speed_tables import CIFAR, Row, compact, failures, key, tables

FILE = Path(__file__).parent / "results" / "real_speed.jsonl"
BRIEF = 0.01  # seconds for a network that only shows whether it runs


def main() -> None:
    arguments = parsed()
    if arguments.compact:
        print(compact(read(arguments.out, key)))
    elif arguments.table:
        print(tables(read(arguments.out, key)))
    elif arguments.check:
        missed = failures(read(arguments.out, key))
        print("\n".join(missed) or "everything holds")
        sys.exit(1 if missed else 0)
    elif len(arguments.networks) == 1:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        study(arguments.networks[0], arguments)
    else:
        apart(arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each variant, at least")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--retry", action="store_true", help="repeat what failed")
    parser.add_argument("--table", action="store_true", help="print the tables of what is in the file")
    parser.add_argument("--compact", action="store_true", help="print one small table")
    parser.add_argument("--check", action="store_true", help="fail where the file says that half is not fast enough")
    return parser.parse_args()


def apart(arguments: argparse.Namespace) -> None:
    """Give each network a process: a runtime that brings one down, or keeps its memory, harms no other."""
    options = ["--seconds", str(arguments.seconds), "--out", str(arguments.out), *(["--retry"] * arguments.retry)]
    for name in ("runtimes", "batches", "threads"):
        options += [f"--{name}", *map(str, getattr(arguments, name))]
    for network in arguments.networks:
        done = subprocess.run([sys.executable, __file__, "--networks", network, *options], check=False)
        if done.returncode:
            print(f"{network}: the process ended with {done.returncode}", flush=True)


def study(name: str, arguments: argparse.Namespace) -> None:
    there = {key(row) for row in read(arguments.out, key) if not (arguments.retry and "failed" in row) and whole(row)}
    # one thread and one image first: that is the main table
    conditions = [
        (t, b, r) for t in sorted(arguments.threads) for b in sorted(arguments.batches) for r in arguments.runtimes
    ]
    due = [(r, b, t) for t, b, r in conditions if (name, r, b, t) not in there]
    if not due:
        return
    model, image = dense(name)
    made = variants(name, model, image)
    for variant, it in made.items():
        print(f"{name}: {variant}: {it.macs / 1e6:.1f} M MACs {it.note}", flush=True)
    reach = functools.cache(lambda: Possible.of(model, image))
    for runtime, batch, threads in due:
        row: Row = {
            "network": name,
            "runtime": runtime,
            "batch": batch,
            "threads": threads,
            "seconds": arguments.seconds,
        }
        row |= cell(model, made, image, runtime, batch, threads, arguments.seconds)
        if weighed(row):
            row["possible"] = reach().by_table(runtime, row["dense"]["ms"])
            best = {"best": reach().best(row)}
            timed = cell(model, best, image, runtime, batch, threads, arguments.seconds)
            row["possible"]["attained"] = timed["variants"]["best"]
        append(arguments.out, row | {"machine": machine()})
        print(said(row), flush=True)


def weighed(row: Row) -> bool:
    """Say whether a cell is held against what the table of layers says is possible."""
    main = (row["batch"], row["threads"]) == (1, 1)
    return row["network"] in CIFAR and main and row["runtime"] != "compile" and "failed" not in row


def whole(row: Row) -> bool:
    """Say whether a cell has everything that is measured for it."""
    return not weighed(row) or "attained" in row.get("possible", {})


def cell(
    model: nn.Module,
    made: Mapping[str, Variant],
    image: Tensor,
    runtime: Any,
    batch: int,
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the times of the variants that run, and the reasons of the others."""
    torch.manual_seed(0)
    inputs = torch.randn(batch, *image.shape[1:])
    networks = {"dense": model} | {name: it.model for name, it in made.items() if it.model is not None}
    reasons = {name: it.note for name, it in made.items() if it.model is None}
    try:
        timed = side_by_side(networks, inputs, runtime, threads=threads, seconds=seconds)
    except Exception:  # converters and compilers raise anything; who was it?
        for name, network in list(networks.items()):
            try:
                side_by_side({name: network}, inputs, runtime, threads=threads, seconds=BRIEF)
            except Exception as error:
                reasons[name] = f"{type(error).__name__}: {first_line(error)}"
                del networks[name]
        if "dense" in reasons:
            return {"failed": reasons["dense"]}
        try:
            timed = side_by_side(networks, inputs, runtime, threads=threads, seconds=seconds)
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {first_line(error)}"}
    macs = count(model, image).macs
    found = {name: numbers(timed, name, macs / it.macs, it.note) for name, it in made.items() if name in networks}
    failed = {name: {"failed": reason} for name, reason in reasons.items()}
    return {
        "clock": timed.clock,
        "dense": {"macs": macs, "ms": rounded(timed.latencies["dense"].milliseconds)},
        "variants": {name: (found | failed)[name] for name in made},
    }


def numbers(timed: SideBySide, name: str, macs: float, note: str) -> dict[str, Any]:
    """Return how many times faster a variant is than the dense network, by both clocks; the first one counts."""
    ratio = timed.ratio("dense", name)
    clocks = {clock: timed.by(clock) for clock in ("processor", "wall")}
    return {
        "macs": rounded(macs),
        "time": rounded(ratio),
        "interval": [rounded(end) for end in timed.interval("dense", name)],
        "share": rounded(ratio / macs),
        "ms": rounded(timed.latencies[name].milliseconds),
        **{clock: rounded(by.ratio("dense", name)) for clock, by in clocks.items() if by is not None},
        **({"made": note} if note else {}),
    }


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


@functools.cache
def machine() -> dict[str, Any]:
    """Return what the times depend on beside the networks."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    except OSError:
        flags = []
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "avx512": "avx512f" in flags,
        "bf16": "avx512_bf16" in flags or "amx_bf16" in flags,
        **versions(),
    }


def said(row: Row) -> str:
    where = f"{row['network']} {row['runtime']}, batch {row['batch']}, threads {row['threads']}"
    if "failed" in row:
        return f"{where}: {row['failed']}"
    each = [
        f"{name} {it['time']:.2f} of {it['macs']:.2f}" for name, it in row["variants"].items() if "failed" not in it
    ]
    return f"{where}: {row['dense']['ms']:.3g} ms; {', '.join(each)}"


if __name__ == "__main__":
    main()
