"""What pruning without any training leaves of trained networks: ours, its own ablations, and others.

    python benchmarks/post_training.py --data cifar10:DIR --weights DIR [DIR ...]        # what is not in the file yet
    python benchmarks/post_training.py --data ... --weights ... --tiers must             # what must hold, first
    python benchmarks/post_training.py --data ... --weights ... --epochs 1 10            # the same, then fine-tuned
    python benchmarks/post_training.py --table
    python benchmarks/post_training.py --check                     # fails and says what does not hold
    python benchmarks/post_training.py --figure                    # draws docs/figures/post_training.svg

Each row is one network, pruned once by one way (an arm) with unlabelled training images of one draw, 1,000 unless the
arm says otherwise, and its accuracy on all test images. What does not look at images is measured once. ``--weights``
names the folders in which the files of ``NETWORKS`` are looked for; networks without a file, or without their data, are
left out. One process for each network, on one thread; a run that was killed goes on where it stopped. The last row of a
kind counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from post_training_arms import ARMS, IMAGES, NETWORKS, OURS, Cut, Subject
from post_training_figure import figure
from post_training_tables import KEEPS, MUST, SEEDS, Job, Row, failures, key, tables
from provenance import machine, versions
from row_files import append, read
from secateur.measure import quality
from secateur.training import Settings, fit

FILE = Path(__file__).parent / "results" / "post_training.jsonl"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "post_training.svg"
TIERS = ("must", "arms", "rest")
FIRST = (0.7, 0.5)
TUNED = ("magnitude", "magnitude, refit", OURS)
RATE = 0.01


def main() -> None:
    arguments = parsed()
    if arguments.figure:
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        FIGURE.write_text(figure(read(arguments.out, key)), "utf-8")
    elif arguments.table:
        print(tables(read(arguments.out, key), list(ARMS), {name: it.said for name, it in NETWORKS.items()}))
    elif arguments.check:
        missed = failures(read(arguments.out, key))
        print("\n".join(missed) or "everything holds")
        sys.exit(1 if missed else 0)
    elif arguments.alone:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        study(arguments.networks[0], arguments)
    else:
        apart(arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], help="cifar10:DIR, imagefolder:DIR")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], help="folders with the weights")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--tiers", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS))
    parser.add_argument("--multiples", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", nargs="+", type=int, help="fine-tune for so long, each from the start")
    parser.add_argument("--batches", type=int, help="of an epoch, to try out --epochs; nothing is written")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--retry", action="store_true", help="repeat what failed")
    parser.add_argument("--again", action="store_true", help="repeat what other versions of the code measured")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="print the tables of what is in the file")
    parser.add_argument("--check", action="store_true", help="fail where what must hold does not")
    parser.add_argument("--figure", action="store_true", help="draw what is in the file")
    arguments = parser.parse_args()
    if not (arguments.table or arguments.check or arguments.figure) and not (arguments.data and arguments.weights):
        parser.error("give --data and --weights, or --table, --check or --figure")
    if arguments.networks is None:
        arguments.networks = ["resnet20"] if arguments.epochs else list(NETWORKS)
    return arguments


def apart(arguments: argparse.Namespace) -> None:
    """Give each network a process, so that memory is given back; what must hold comes first, for all networks."""
    options = [option for option in sys.argv[1:] if option != "--alone"]
    for tier in arguments.tiers[:1] if arguments.epochs else arguments.tiers:
        for network in arguments.networks:
            if not found(network, arguments.weights) or not source(network, arguments.data):
                print(f"{network}: left out, no weights or no data", flush=True)
            elif due(network, arguments, tier):
                command = [sys.executable, __file__, *options, "--networks", network, "--tiers", tier, "--alone"]
                done = subprocess.run(command, check=False)
                if done.returncode:
                    print(f"{network}: the process ended with {done.returncode}", flush=True)


def found(network: str, folders: Sequence[Path]) -> Path | None:
    """Return the file with the weights of a network."""
    return next((file for folder in folders for file in sorted(folder.glob(NETWORKS[network].files))), None)


def source(network: str, named: Sequence[str]) -> str | None:
    """Return the data of a network."""
    return next((name for name in named if name.startswith(f"{NETWORKS[network].source}:")), None)


def due(network: str, arguments: argparse.Namespace, tier: str) -> list[Job]:
    """Return what is asked for and not in the file yet, in the order in which to measure it."""
    there = {
        key(row)
        for row in read(arguments.out, key)
        if not (arguments.retry and "failed" in row)
        and not (arguments.again and row["versions"]["secateur"] != versions("torch-pruning")["secateur"])
    }
    wanted = tuned(network, arguments) if arguments.epochs else jobs(network, arguments, tier)
    return [job for job in dict.fromkeys(wanted) if job not in there]


def jobs(network: str, arguments: argparse.Namespace, tier: str) -> Iterator[Job]:
    """Yield the rows of a tier; within it all of one draw before the next."""
    yield Job(network, 1.0, 1, "dense", 0)
    for seed, multiple, keep, arm in product(arguments.seeds, arguments.multiples, KEEPS, arguments.arms):
        must = arm == OURS and (network, keep) in MUST
        mine = "must" if must else "arms" if keep in FIRST else "rest"
        if mine == tier and keep in arguments.keeps and (ARMS[arm].seeded or seed == min(SEEDS)):
            yield Job(network, keep, multiple, arm, seed)


def tuned(network: str, arguments: argparse.Namespace) -> Iterator[Job]:
    keeps = [keep for keep in FIRST if keep in arguments.keeps]
    for seed, epochs, keep, arm in product(arguments.seeds, arguments.epochs, keeps, TUNED):
        if arm in arguments.arms:
            yield Job(network, keep, 1, arm, seed, epochs)


def study(network: str, arguments: argparse.Namespace) -> None:
    file, data = found(network, arguments.weights), source(network, arguments.data)
    assert file is not None
    assert data is not None
    subject = Subject(network, data, file)
    for job in due(network, arguments, arguments.tiers[0]):
        row: Row = {**job._asdict(), "images": images_of(job, subject), **measured(subject, job, arguments)}
        if not arguments.batches:
            append(arguments.out, row | {"machine": machine(), "versions": versions("torch-pruning")})
        print(json.dumps(row), flush=True)


def images_of(job: Job, subject: Subject) -> int:
    return min(ARMS[job.arm].images if job.arm in ARMS else IMAGES, subject.data.size("train"))


def measured(subject: Subject, job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what came of one arm, or why nothing did."""
    if job.arm == "dense":
        return {"macs": 1.0, "top1": tested(subject, subject.model), "seconds": 0.0}
    try:
        cut = subject.cut(ARMS[job.arm], job.keep, job.multiple, job.seed)
    except Exception as error:  # methods may not reach the target, and a library not under test raises anything
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"}
    numbers: dict[str, Any] = {"macs": round(cut.macs, 5)}
    if job.epochs:
        numbers |= trained(subject, cut, job, arguments)
    numbers |= {"top1": tested(subject, cut.model), "seconds": round(cut.seconds, 1)}
    return numbers | ({"note": cut.note} if cut.note else {})


def trained(subject: Subject, cut: Cut, job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune in place; a training that was killed goes on after its last epoch."""
    settings = Settings(epochs=job.epochs, lr=RATE, precision="float32", memory_format="channels_last", compile="off")
    some = arguments.batches and arguments.batches * settings.batch_size
    data = subject.part(some) if some else subject.data
    name = "-".join(str(part).replace(", ", "+").replace(" ", "_") for part in job)
    checkpoint = arguments.out.with_name(f"{arguments.out.stem}-{name}.work")
    before, started = tested(subject, cut.model), time.process_time()
    fit(cut.model, data, settings, checkpoint=checkpoint, seed=job.seed)
    seconds = time.process_time() - started
    checkpoint.unlink(missing_ok=True)
    return {"before": before, "training": round(seconds, 1)}


def tested(subject: Subject, model: torch.nn.Module) -> float:
    return round(quality(model, subject.data.batches("test")).value, 6)


if __name__ == "__main__":
    main()
