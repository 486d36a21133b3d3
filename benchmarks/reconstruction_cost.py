"""What choosing and fitting without training costs: processor time and memory by width, images and depth.

    python benchmarks/reconstruction_cost.py                 # what is not in the file yet
    python benchmarks/reconstruction_cost.py --kinds resnet50
    python benchmarks/reconstruction_cost.py --table

Each row is ``prune(model, method="reconstruction", target=0.5, calibrate=images)`` on a network with random weights and
random images, in a process of its own with one thread: seconds of processor time, and the most memory that the process
ever had, of which torch and its libraries take what ``at first`` says. For the width it is a chain of six convolutions
of 3 x 3 with 1, 1, 2, 2, 4, 4 times so many channels, for images and depth CIFAR-10's ResNets, all on 32 x 32 pixels;
ResNet-50 is torchvision's, at 224 x 224.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from row_files import append, read
from secateur import prune
from secateur.measure.machine import processor
from secateur.models import build
from secateur.models.resnet import ResNet

FILE = Path(__file__).parent / "results" / "reconstruction_cost.jsonl"
GIB = 2**20  # of the kibibytes that the system counts in


@dataclass(frozen=True)
class Case:
    """A network and images.

    Attributes:
        kind: what varies.
        depth: of the ResNet, or of the chain.
        width: channels of the first layers.
        images: how many.
        size: pixels of a side.
    """

    kind: str
    depth: int = 20
    width: int = 16
    images: int = 1000
    size: int = 32

    def model(self) -> nn.Module:
        """Return the network with random weights."""
        torch.manual_seed(0)
        if self.kind == "resnet50":
            return build("torchvision:resnet50")
        return chain(self.width) if self.kind == "width" else ResNet(self.depth)


def chain(width: int) -> nn.Module:
    """Return six convolutions and a linear layer."""
    layers, inputs = list[nn.Module](), 3
    for factor, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
        outputs = factor * width
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


CASES = [
    *[Case("width", depth=6, width=width) for width in (8, 16, 32, 64, 128)],
    *[Case("images", images=images) for images in (64, 250, 1000, 4000)],
    *[Case("depth", depth=depth) for depth in (32, 44, 56)],
    Case("resnet50", 50, 64, 256, 224),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=sorted({case.kind for case in CASES}))
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--again", action="store_true", help="repeat what is in the file")
    parser.add_argument("--table", action="store_true", help="print what is in the file")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read(arguments.out, key)))
    elif arguments.alone is not None:
        print(json.dumps(measured(CASES[arguments.alone])))
    else:
        there = {} if arguments.again else {key(row) for row in read(arguments.out, key)}
        for number, case in enumerate(CASES):
            if key(vars(case)) not in there and case.kind in (arguments.kinds or [case.kind]):
                command = [sys.executable, __file__, "--alone", str(number)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                row = vars(case) | json.loads(done.stdout.splitlines()[-1])
                append(arguments.out, row)
                print(row, flush=True)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("kind", "depth", "width", "images", "size"))


def measured(case: Case) -> dict[str, Any]:
    """Prune, and return what that took."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = case.model().eval()
    images = torch.randn(case.images, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    first, started = peak(), time.process_time()
    result = prune(model, images[:1], method="reconstruction", target=0.5, calibrate=images, latency=False,
                   calibrate_images=case.images)  # fmt: skip
    return {
        "seconds": round(time.process_time() - started, 1),
        "gib": round(peak(), 2),
        "first": round(first, 2),
        "kept": round(result.after.counts.macs / result.before.counts.macs, 4),
        "parameters": sum(it.numel() for it in model.parameters()),
        "machine": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


def peak() -> float:
    """Return the most memory that this process ever had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown."""
    lines = ["| network | width | images | seconds | memory, GiB | at first, GiB |", "| --- " * 6 + "|"]
    order = [key(vars(case)) for case in CASES]
    for row in sorted(rows, key=lambda row: order.index(key(row))):
        name = "chain of six" if row["kind"] == "width" else f"ResNet-{row['depth']}"
        name += f", {row['size']} x {row['size']}"
        numbers = (f"{row['width']}", f"{row['images']:,}", f"{row['seconds']:.0f}", f"{row['gib']:.1f}")
        lines.append("| " + " | ".join((name, *numbers, f"{row['first']:.1f}")) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
