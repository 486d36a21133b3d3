"""Accuracy against measured time: ours and Torch-Pruning's networks, without training and after some.

    pip install torch-pruning==1.6.1
    python benchmarks/accuracy_and_time.py --data cifar10:DIR --weights DIR [DIR ...]   # what is not in the file yet
    python benchmarks/accuracy_and_time.py --table
    python benchmarks/accuracy_and_time.py --figure                  # draws docs/figures/accuracy_and_time.svg

Ours are what ``prune`` makes by default of trained weights and 1,000 unlabelled images for a runtime:
``reconstruction``, widths that run fast there, layers fitted anew. Torch-Pruning's are by magnitude, at the width ratio
that comes closest to the same share of the MACs without exceeding it, in widths of any number as it does by default
(multiples of 8 leave the widths 8 and 16 alone to choose from in a layer of 16), with the statistics of the batch norms
estimated anew on the same images. All networks of a kind are timed in turns, one image at a time on one
thread. Both are then fine-tuned alike. Choices, widths and repairs differ between the two, so that the figure compares
what users of either get, not criteria; ``post_training.py`` takes these apart.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_and_time_figure import figure, table
from post_training import found, source, tested
from post_training_arms import ARMS, IMAGES, Subject
from provenance import machine, versions
from row_files import append, read
from secateur import Settings, fit, prune
from secateur.measure import SideBySide, count, side_by_side

FILE = Path(__file__).parent / "results" / "accuracy_and_time.jsonl"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "accuracy_and_time.svg"
KEEPS = (0.8, 0.65, 0.5, 0.35)
NETWORKS = ("resnet20_projection", "resnet56_projection")
RUNTIME = "onnxruntime"
WIDTHS = 1
DENSE, OURS, THEIRS = "dense", "Secateur", "Torch-Pruning"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], help="cifar10:DIR")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], help="folders with the weights")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0 for none")
    parser.add_argument("--seconds", type=float, default=2.0, help="to time each network for, at least")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="print what is in the file")
    parser.add_argument("--figure", action="store_true", help="draw what is in the file")
    arguments = parser.parse_args()
    if arguments.figure:
        FIGURE.write_text(figure(read(arguments.out, key)), "utf-8")
    elif arguments.table:
        print(table(read(arguments.out, key)))
    elif not (arguments.data and arguments.weights):
        parser.error("give --data and --weights, or --table or --figure")
    elif len(arguments.networks) > 1:  # each in a process, so that memory is given back
        for name in arguments.networks:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--networks", name], check=False)
    else:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        study(arguments.networks[0], arguments)


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "by", "keep", "epochs"))


def study(name: str, arguments: argparse.Namespace) -> None:
    """Cut and time all networks of a kind, then fine-tune those that are not in the file yet."""
    file, data = found(name, arguments.weights), source(name, arguments.data)
    if file is None or data is None:
        print(f"{name}: left out, no weights or no data")
        return
    there = {key(row) for row in read(arguments.out, key)}
    wanted = [(name, DENSE, 1.0, 0)]
    wanted += [(name, by, keep, n) for n in sorted({0, arguments.epochs}) for keep in KEEPS for by in (OURS, THEIRS)]
    if there.issuperset(wanted):
        return
    subject = Subject(name, data, file)
    made: dict[tuple[str, float], nn.Module] = {(DENSE, 1.0): subject.model}
    for keep in KEEPS:
        made[OURS, keep] = ours(subject, keep)
        made[THEIRS, keep] = subject.cut(ARMS["torch_pruning, recalibrate"], keep, WIDTHS, 0).model
        print(f"{name}: cut to {keep}", flush=True)
    timed = side_by_side(
        {f"{by} {keep}": model for (by, keep), model in made.items()},
        subject.data.example(),
        RUNTIME,
        threads=1,
        seconds=arguments.seconds,
    )
    for _, by, keep, epochs in wanted:
        if (name, by, keep, epochs) in there:
            continue
        model = copy.deepcopy(made[by, keep])
        row: Row = {"network": name, "by": by, "keep": keep, "epochs": epochs, "runtime": RUNTIME}
        if epochs:
            row["seconds"] = round(trained(model, subject, epochs, arguments.out, key(row)), 1)
        row |= {"macs": round(count(model, subject.data.example()).macs / subject.macs, 5)}
        row |= times(timed, f"{by} {keep}") | {"top1": tested(subject, model)}
        append(arguments.out, row | {"machine": machine(), "versions": versions("torch-pruning", "onnxruntime")})
        print(json.dumps(row), flush=True)


def ours(subject: Subject, keep: float) -> nn.Module:
    """Return what ``prune`` makes by default for the runtime."""
    images = subject.images(0, IMAGES)
    made = prune(subject.model, subject.data.example(), target=keep, calibrate=images, runtime=RUNTIME, threads=1)
    return made.model.eval()


def times(timed: SideBySide, name: str) -> Row:
    """Return the milliseconds of a network and its share of the dense network's time, with an interval."""
    dense = f"{DENSE} 1.0"
    low, high = timed.interval(name, dense) if name != dense else (1.0, 1.0)
    share = timed.ratio(name, dense)
    return {"ms": round(timed.latencies[name].milliseconds, 4), "share": round(share, 4),
            "interval": [round(low, 4), round(high, 4)]}  # fmt: skip


def trained(model: nn.Module, subject: Subject, epochs: int, out: Path, job: tuple[Any, ...]) -> float:
    """Fine-tune in place; a training that was killed goes on after its last epoch. Return processor seconds."""
    settings = Settings(epochs=epochs, lr=0.01, precision="bf16", memory_format="channels_last", compile="off")
    checkpoint = out.with_name(f"{out.stem}-{'-'.join(map(str, job))}.work")
    started = time.process_time()
    fit(model, subject.data, settings, checkpoint=checkpoint, seed=0)
    checkpoint.unlink(missing_ok=True)
    return time.process_time() - started


if __name__ == "__main__":
    main()
