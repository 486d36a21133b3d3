"""Processor time of pruning in two versions of the library, network by network and in turns.

    git worktree add ../before COMMIT
    python benchmarks/versions.py ../before/src src --out versions.jsonl    # goes on where it was stopped
    python benchmarks/versions.py ../before/src src --out versions.jsonl --table

The networks are the known ones of ``zoo.py``. Each version stands in a process of its own with one thread, prunes a
small network once to be warm, and then each network to half of its MACs with ``prune``: reading it, deciding, cutting
and comparing with the silenced network. Whoever begins changes from one network to the next; quick ones are pruned
twice, and the quicker time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from row_files import append, read

QUICK = 5  # seconds below which a second try is made
Row = dict[str, Any]
WORKER = """
import json, sys, time, warnings
import torch
from secateur import Limits, prune
warnings.simplefilter("ignore")
torch.set_num_threads(1)
limits = Limits(multiple=1)
for line in sys.stdin:
    model, inputs = torch.load(line.strip(), weights_only=False)
    start, found = time.process_time(), {}
    try:
        result = prune(model, inputs, "magnitude", 0.5, limits=limits, latency=False, repair=())
        found["macs"] = result.after.counts.macs / result.before.counts.macs
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"[:300]
    answer = found | {"seconds": time.process_time() - start}
    print("answer", json.dumps(answer), flush=True)
"""


class Version:
    """The library in a process of its own."""

    def __init__(self, source: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def prune(self, file: Path) -> Row:
        """Prune the network in a file; return what came of it.

        Raises:
            RuntimeError: if the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the process of a version ended with {self._process.wait()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs=2, help="folders that hold the package: of before, and of now")
    parser.add_argument("--out", type=Path, required=True, help="file of rows")
    parser.add_argument("--networks", nargs="*", help="names as in zoo.toml; default: all")
    parser.add_argument("--table", action="store_true", help="print what is there and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments)
    print(table(read(arguments.out, name_of)))


def run(arguments: argparse.Namespace) -> None:
    import torch

    from zoo_networks import known, network

    there = {name_of(row) for row in read(arguments.out, name_of)}
    versions = [Version(source) for source in arguments.sources]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt"
        torch.save(
            (torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)), torch.randn(1, 3, 8, 8)), file
        )
        for version in versions:
            version.prune(file)
        wanted = [(kind, name) for kind, names in known().items() for name in names]
        for number, (kind, name) in enumerate(wanted):
            if name in there or (arguments.networks and name not in arguments.networks):
                continue
            torch.save(network(kind, name), file)
            rows = in_turns(versions, file, first=number % 2)
            append(arguments.out, {"network": name, "before": rows[0], "now": rows[1]})
            print(name, *(f"{row['seconds']:.2f} s {row.get('error', '')}" for row in rows), flush=True)


def in_turns(versions: list[Version], file: Path, *, first: int) -> list[Row]:
    """Return what came of a network in each version."""
    order = (first, 1 - first)
    rows = {place: versions[place].prune(file) for place in order}
    if max(row["seconds"] for row in rows.values()) < QUICK:
        again = {place: versions[place].prune(file) for place in reversed(order)}
        rows = {place: min(rows[place], again[place], key=lambda row: row["seconds"]) for place in order}
    return [rows[0], rows[1]]


def name_of(row: Row) -> str:
    return row["network"]


def table(rows: list[Row]) -> str:
    """Return the ratios of the networks that both versions prune, and their quantiles."""
    both = [row for row in rows if not {"error"} & {*row["before"], *row["now"]}]
    if not both:
        return f"no network was pruned by both versions, of {len(rows)}"
    ratios = sorted((row["now"]["seconds"] / row["before"]["seconds"], row["network"]) for row in both)
    only = [row["network"] for row in rows if "error" in row["now"] and "error" not in row["before"]]
    new = [row["network"] for row in rows if "error" in row["before"] and "error" not in row["now"]]
    quantiles = (
        statistics.quantiles([ratio for ratio, _ in ratios], n=10, method="inclusive") if len(ratios) > 1 else []
    )
    seconds = {which: [row[which]["seconds"] for row in both] for which in ("before", "now")}
    medians, sums = (
        " and ".join(f"{summary(seconds[which]):.2f} {which}" for which in seconds)
        for summary in (statistics.median, sum)
    )
    tenths = " ".join(f"{quantile:.2f}" for quantile in quantiles)
    lines = [
        f"{len(both)} networks pruned by both versions, processor time of now over that of before: "
        f"median {statistics.median(ratio for ratio, _ in ratios):.2f}, tenths {tenths}",
        f"median seconds {medians}; in all {sums}",
        f"most: {', '.join(f'{name} {ratio:.2f}' for ratio, name in ratios[:-6:-1])}",
        f"pruned before alone: {', '.join(only) or 'none'}; now alone: {', '.join(new) or 'none'}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
