"""Prune every network of a large zoo to half of its MACs and judge what is left, known and unseen networks apart.

    pip install torch-pruning==1.6.1 torchvision timm
    python benchmarks/zoo.py                     # the known networks; resumable: those in the file are not repeated
    pip install ultralytics segmentation-models-pytorch pytorchcv monai einops transformers diffusers
    python benchmarks/zoo.py --sources           # the unseen networks of all these libraries, or of those named
    python benchmarks/zoo.py --table             # the totals of what is there; with --sources, of the unseen
    python benchmarks/zoo.py --sources ultralytics --networks yolo11n yolov8n-seg --export --out FILE

Known are networks of torchvision and timm (``zoo.toml``), which the reading of networks was written on, and unseen
those of other libraries (``zoo_unseen.toml``), whatever their code does. Weights are random, batch-norm statistics are
drawn around those of the activations. Each network runs in a process of its own with one thread and a time limit;
seconds are those of the processor.

Secateur: trace, plan (L1 norm, the same share of every group), apply; read again where the cut fails, as in a run.
Where half is out of reach, half of what can go is asked for, and counted apart. What is left is judged by the values of
its weights alone (``zoo_judge.py``), whatever the library itself says of it: exact; undecided, where only the library
says so; or wrong. An unseen thin network must also be loaded by a process that has pruned nothing, train, be traced by
torch.fx and fused by Ultralytics, where the dense one can be. Torch-Pruning (known networks): half of every width, its
own way, with the layers that make the outputs left alone; exactness is decided by zeroing in the dense network the
weights that it removed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from row_files import append, read
from secateur.artifact.commit import commit
from secateur.measure.machine import processor
from zoo_checks import loaded
from zoo_networks import Missing, known, load, unseen
from zoo_pruning import secateur
from zoo_tables import line, tables
from zoo_torch_pruning import torch_pruning

RESULTS = Path(__file__).parent / "results"
IDLE = 20  # times the limit that a process may wait for the processor
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of rows; default: results/zoo.jsonl or results/zoo_unseen.jsonl")
    parser.add_argument("--kinds", nargs="*", help="classification, segmentation, detection, video, cnn, hybrid, flow")
    parser.add_argument("--sources", nargs="*", help="unseen networks of these libraries; none named: of all")
    parser.add_argument("--networks", nargs="*", help="names as in the files of networks; default: all")
    parser.add_argument("--limit", type=float, default=120, help="seconds of the processor for a network and a library")
    parser.add_argument("--alone", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--export", action="store_true", help="also export and train by Ultralytics, which is slow")
    parser.add_argument("--table", action="store_true", help="print the totals of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    new = arguments.sources is not None
    out = arguments.out or RESULTS / ("zoo_unseen.jsonl" if new else "zoo.jsonl")
    if not arguments.table:
        rows = {key(row): row for row in read(out, key)}
        for kind, name in wanted(arguments):
            row = rows.get((kind, name), {"network": name, "kind": kind})
            if complete(row, arguments):
                append(out, row | about(kind))
    print(tables(read(out, key)))


def key(row: Row) -> tuple[str, str]:
    return row["kind"], row["network"]


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield kinds and names of the networks that are asked for; say which libraries are missing."""
    if arguments.sources is None:
        zoo: dict[str, Any] = known()
        kinds = arguments.kinds or list(zoo)
    else:
        zoo = unseen()
        kinds = arguments.sources or list(zoo)
    for kind in kinds:
        if kind not in zoo:
            raise SystemExit(f"there are no networks of {kind!r}; choose among {', '.join(zoo)}")
        names = [name for name in zoo[kind] if not arguments.networks or name in arguments.networks]
        if arguments.sources is not None and names:
            try:
                load(kind, zoo[kind])
            except Missing as missing:
                print(missing)
                continue
        yield from ((kind, name) for name in names)


def complete(row: Row, arguments: argparse.Namespace) -> bool:
    """Run what is missing of a row; False if nothing was."""
    new, before = arguments.sources is not None, set(row)
    kind, name = key(row)
    if "secateur" not in row:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "thin.pt"
            work = partial(secateur, kind, name, file, arguments.export) if new else partial(secateur, kind, name)
            found = row["secateur"] = apart(work, arguments.limit)
            if found.get("checks", {}).get("loaded") == "":
                again = apart(lambda: {"loaded": loaded(file)}, arguments.limit)
                found["checks"]["loaded"] = again.get("loaded") or again["error"]
        print(f"{kind:15s} {name:42s} secateur      {line(found)}", flush=True)
    if not new and not arguments.alone and "torch_pruning" not in row:
        row["torch_pruning"] = apart(lambda: torch_pruning(kind, name), arguments.limit)
        print(f"{kind:15s} {name:42s} torch_pruning {line(row['torch_pruning'])}", flush=True)
    return set(row) != before


def apart(work: Callable[[], Row], limit: float) -> Row:
    """Run in a process of its own, so that a crash, a hang or a leak stays there."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=answer, args=(work, sending))
    process.start()
    sending.close()
    found: Row = {"outcome": "time", "error": f"over {limit:.0f} s of the processor"}
    end = time.monotonic() + IDLE * limit
    try:
        while processor_seconds(process.pid) < limit and time.monotonic() < end:
            if receiving.poll(1.0):
                found = receiving.recv()
                break
    except EOFError:
        found = {"outcome": "error", "error": "the process died"}
    process.kill()
    process.join()
    return found


def processor_seconds(process: int | None) -> float:
    """Return how long a process has computed, so that one that waits for a busy machine is not given up."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(work: Callable[[], Row], sending: Connection) -> None:
    try:
        sending.send(work())
    except Exception as error:
        sending.send({"outcome": "error", "error": f"{type(error).__name__}: {error}"[:400]})


def about(kind: str) -> Row:
    """Return what the numbers of a row depend on beside the code."""
    found = {name: metadata.version(name) for name in ("secateur", "torch")}
    found["secateur"] += f"+{(commit(Path(__file__).parent) or '')[:7]}"
    libraries = unseen()
    packages = next(iter(libraries[kind].values()))["install"].split() if kind in libraries else ["torchvision", "timm"]
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return {"machine": processor(), "versions": found}


if __name__ == "__main__":
    main()
