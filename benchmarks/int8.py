"""Pruned and int8: how much faster than dense and float32, and what int8 costs in accuracy.

    python benchmarks/int8.py                                     # speed, of networks at 224x224
    python benchmarks/int8.py --networks mobilenet_v2 --of latency
    python benchmarks/int8.py --data cifar10:DIR --weights FILE [FILE ...]      # accuracy, of CIFAR-10 ResNet-20/56
    python benchmarks/int8.py --table
    python benchmarks/int8.py --figure                            # draws docs/figures/int8.svg of what is in the file

Speed: random weights, for time does not depend on them; half of the MACs, or of the latency in int8, by ``magnitude``,
widths chosen by layers that are timed in int8; one image, one thread, processor time, all four corners in turns. The
int8 files are calibrated on random images and compared with their networks on these: ``error`` is the root mean square
of the differences, relative to that of the outputs. Accuracy: published weights, 0.7 of the MACs by ``reconstruction``,
no training; the files are tested on all 10,000 test images in ONNX Runtime. One line of the file is one network; the
last of a kind counts.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from int8_figure import figure
from post_training_arms import NETWORKS, Subject
from provenance import machine, versions
from row_files import append, read
from secateur import Budget, prune
from secateur.data import load_calibration
from secateur.export.corners import Corners, corners
from secateur.measure import count
from speed_networks import dense

FILE = Path(__file__).parent / "results" / "int8.jsonl"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "int8.svg"
SPEED = ("resnet18", "resnet50", "mobilenet_v2")
KEEP, KEEP_TESTED = 0.5, 0.7
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=SPEED)
    parser.add_argument("--of", choices=("macs", "latency"), default="macs", help="what is halved; latency is in int8")
    parser.add_argument("--data", help="such as cifar10:DIR, for accuracy")
    parser.add_argument("--weights", nargs="*", type=Path, default=[], help="files of CIFAR-10 ResNets")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each corner in each runtime, at least")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--table", action="store_true", help="print the tables of what is in the file")
    parser.add_argument("--figure", action="store_true", help="draw the speeds that are in the file")
    arguments = parser.parse_args()
    rows = read(arguments.out, lambda row: (row["what"], row["network"], row.get("of")))
    if arguments.table:
        print(tables(rows))
    if arguments.figure:
        FIGURE.write_text(figure(rows), "utf-8")
    if arguments.table or arguments.figure:
        return
    torch.set_num_threads(1)
    if arguments.weights:
        for file in arguments.weights:
            add(arguments.out, tested(file, arguments.data))
    else:
        for name in arguments.networks:
            add(arguments.out, timed(name, arguments.of, arguments.seconds))


def timed(name: str, of: str, seconds: float) -> dict[str, Any]:
    """Return the times of the four corners of a network."""
    model, image = dense(name)
    limit = {"target": KEEP} if of == "macs" else {"budget": Budget(max_latency=KEEP)}
    result = prune(model, image, method="magnitude", runtime="onnxruntime_int8", threads=1, **limit)
    torch.manual_seed(1)
    images = torch.randn(32, *image.shape[1:])
    networks, noise = {"dense": model, "pruned": result.model}, load_calibration(images)
    found = corners(networks, image, calibrate=noise, max_drop=0.99, threads=1, seconds=seconds)
    macs = {"dense": count(model, image).macs, "pruned": count(result.model, image).macs}
    return {"what": "speed", "network": name, "of": of, "macs": macs, "multiples": dict(result.multiples), **cut(found)}


def tested(file: Path, data: str) -> dict[str, Any]:
    """Return the accuracies of the four corners of a network with published weights."""
    name = next(name for name, network in NETWORKS.items() if fnmatch(file.name, network.files))
    subject = Subject(name, data, file)
    result = prune(
        subject.model,
        subject.data.example(),
        method="reconstruction",
        target=KEEP_TESTED,
        data=subject.data,
        latency=False,
    )
    networks = {"dense": subject.model, "pruned": result.model}
    found = corners(networks, subject.data.example(), data=subject.data, threads=1, seconds=1.0)
    return {"what": "accuracy", "network": name, "weights": file.name, "keep": KEEP_TESTED, **cut(found)}


def cut(found: Corners) -> dict[str, Any]:
    """Return the corners with as many digits as mean something."""
    return rounded(found.to_dict())


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def add(file: Path, row: dict[str, Any]) -> None:
    """Keep and print a row."""
    row |= {"machine": machine() | {"features": features()}, "versions": versions("onnx", "onnxruntime", "openvino")}
    append(file, row)
    print(tables([row]), flush=True)


def features() -> list[str]:
    """Return what the processor computes int8 and bfloat16 with."""
    known = Path("/proc/cpuinfo").read_text("utf-8").partition("flags")[2].partition("\n")[0].split()
    return [flag for flag in FLAGS if flag in known]


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the speeds and the accuracies as Markdown."""
    lines: list[str] = []
    for row in rows:
        lines += [
            "",
            f"{row['network']}, {row['what']}, {row['machine']['processor']} ({', '.join(row['machine']['features'])})",
        ]
        lines += ["", "| network | MB | ONNX Runtime, ms | OpenVINO, ms | accuracy, % | error |", "| --- " * 6 + "|"]
        lines += [line(corner) for corner in row["corners"]]
        lines += [f"left out: {reason}" for reason in row["left_out"]]
    return "\n".join(lines)


def line(corner: dict[str, Any]) -> str:
    def time(engine: str) -> str:
        found = corner["times"].get(engine)
        return f"{found['milliseconds']:.3g} ({found['speedup']:.2f})" if found else "-"

    accuracy = f"{100 * corner['quality']['metrics'][0]['value']:.2f}" if corner["quality"] else "-"
    error = f"{corner['int8']['error']:.3f}" if corner["int8"] else "-"
    name = f"{corner['network']} {corner['precision']}"
    cells = (name, f"{corner['bytes'] / 1e6:.2f}", time("onnxruntime"), time("openvino"), accuracy, error)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
