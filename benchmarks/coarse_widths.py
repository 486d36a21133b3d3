"""What do widths in multiples cost? Accuracy before any training, and how closely a target is met.

    python benchmarks/coarse_widths.py --data cifar10:DIR --weights DIR --out benchmarks/results
    python benchmarks/coarse_widths.py --table --out benchmarks/results

Published ResNet-20 and ResNet-56 for CIFAR-10, cut once by two methods that need weights alone, with widths of any
number (``multiple=1``) and with the default (``multiple="auto"``, by the static rule, since nothing is timed): accuracy
on all test images right after the cut, and with the batch norms recalibrated on 512 training images. Both get the same
target and may keep no more than that. Then the share of the MACs that is left of ten networks with random weights, for
five targets each: how far below the target it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.data import load_calibration, load_data
from secateur.measure import quality
from secateur.methods import METHODS
from secateur.models import build, give_weights
from secateur.repair import take

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINED = ("resnet20", "resnet56")
CRITERIA = ("magnitude", "filter_std")
KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5)
NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "shufflenet_v2_x1_0", "regnet_x_400mf",
)  # fmt: skip
SMALL = ("resnet20", "resnet56", "lenet5")
TARGETS = (0.9, 0.7, 0.5, 0.3, 0.1)
IMAGES = 512
MULTIPLES: tuple[Any, ...] = (1, "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="cifar10:DIR")
    parser.add_argument("--weights", type=Path, help="folder of akamaster's resnet20-*.th and resnet56-*.th")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the tables of what was measured")
    arguments = parser.parse_args()
    file = arguments.out / "coarse_widths.json"
    if not arguments.table:
        if arguments.data is None or arguments.weights is None:
            parser.error("give --data and --weights, or --table")
        torch.set_num_threads(1)
        found = {"accuracy": accuracies(arguments.data, arguments.weights), "closeness": closeness()}
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(json.loads(file.read_text())))


def planned(name: str, model: nn.Module, graph: Graph, keep: float, multiple: Any) -> Plan:
    return METHODS[name]().plan(Problem(model, graph, Target(keep), limits=Limits(multiple=multiple)))


def accuracies(source: str, weights: Path) -> list[dict[str, Any]]:
    data = load_data(source, mean=MEAN, std=STD)
    images = load_calibration(data, count=IMAGES).batches
    rows: list[dict[str, Any]] = []
    for network in TRAINED:
        model = build(network, classes=10, channels=3).eval()
        give_weights(model, str(next(weights.glob(f"{network}-*.th"))), data.example(), name=network)
        graph = trace(model, data.example())
        dense = quality(model, data.batches("test")).value
        for name in CRITERIA:
            for keep in KEEPS:
                row: dict[str, Any] = {"network": network, "dense": dense, "method": name, "keep": keep}
                for multiple in MULTIPLES:
                    plan = planned(name, model, graph, keep, multiple)
                    row[f"macs {multiple}"] = size(graph, plan).macs / size(graph).macs
                    thin = apply(model, graph, plan)
                    row[f"top1 {multiple}"] = quality(thin, data.batches("test")).value
                    take("recalibrate", model, thin, graph, plan, images, 0)
                    row[f"norms {multiple}"] = quality(thin, data.batches("test")).value
                print(row, flush=True)
                rows.append(row)
    return rows


def closeness() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in (*SMALL, *NETWORKS):
        model, image = network_of(name)
        graph = trace(model, image)
        for keep in TARGETS:
            row: dict[str, Any] = {"network": name, "keep": keep}
            for multiple in MULTIPLES:
                plan = planned("magnitude", model, graph, keep, multiple)
                row[f"macs {multiple}"] = size(graph, plan).macs / size(graph).macs
            rows.append(row)
    return rows


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name in SMALL:
        channels, side = (1, 28) if name == "lenet5" else (3, 32)
        return build(name, classes=10, channels=channels).eval(), torch.randn(1, channels, side, side)
    return getattr(torchvision.models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224)


def tables(found: dict[str, Any]) -> str:
    lines = ["| network | method | keep | any width: MACs | cut | recalibrated | auto: MACs | cut | recalibrated |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in found["accuracy"]:
        cells = [f"{100 * row[f'{what} {m}']:.1f}" for m in MULTIPLES for what in ("macs", "top1", "norms")]
        lines.append(f"| {row['network']} | {row['method']} | {row['keep']} | {' | '.join(cells)} |")
    lines += ["", "How far below the target, in points of the dense network's MACs:"]
    for multiple in MULTIPLES:
        gaps = [100 * (row["keep"] - row[f"macs {multiple}"]) for row in found["closeness"]]
        middle, worst = statistics.median(gaps), max(gaps)
        lines.append(f"- multiple={multiple}: median {middle:.2f}, mean {statistics.mean(gaps):.2f}, most {worst:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
