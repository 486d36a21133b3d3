"""How near is a forecast to what is measured in the end? Five networks in two runtimes.

    python benchmarks/forecast.py --json benchmarks/results/forecast.json

What ``prune`` does around a training, without the training: a stand-in of the planned widths is timed beside the dense
network, then the pruned network itself is, in a measurement of its own (one image of 224x224, one thread, processor
time, random weights, half of the MACs by ``magnitude``). Beside it stands what the table of layers would have foretold:
the sum of the times of single layers, scaled to the dense network's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from secateur import prune
from secateur.core.graph import Graph
from secateur.core.trace import trace
from secateur.measure import Runtime, SpeedUp, side_by_side
from secateur.measure.forecast import Forecast
from secateur.measure.layer_table import LayerTable
from secateur.measure.machine import processor
from secateur.measure.speed_up import DENSE, PRUNED
from secateur.run.speed_forecast import foretell

NETWORKS = ("resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "channels_last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | runtime | foretold | measured | off by | by the table of layers | off by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        torch.manual_seed(0)
        model, image = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
        graph = trace(model, image)
        result = prune(model, image, method="magnitude", target=0.5, latency=False)
        for runtime in RUNTIMES:
            foretold = foretell(model, graph, result.plans[0], image, runtime, threads=1).speed
            found = side_by_side({DENSE: model, PRUNED: result.model}, image, runtime, threads=1, seconds=1.0)
            measured = SpeedUp.of(found)
            summed = by_layers(model, graph, result.plans[0], image, runtime, found.latencies[DENSE].milliseconds)
            row = {
                "network": name,
                "runtime": runtime,
                "foretold": None if foretold is None else foretold.ratio,
                "measured": measured.ratio,
                "layers": summed,
                "processor": processor(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "torch": str(torch.__version__),
            }
            rows.append(row)
            print(line(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def by_layers(model: nn.Module, graph: Graph, plan: Any, image: Tensor, runtime: Runtime, whole: float) -> float:
    table = LayerTable.here(runtime, 1, image.device)
    forecast = Forecast.of(model, graph, image, table, whole)
    found = whole / forecast.milliseconds(graph.kept(plan))
    table.save()
    return found


def line(row: dict[str, Any]) -> str:
    cells = [row["network"], row["runtime"]]
    for name in ("foretold", "layers"):
        off = "-" if row[name] is None else f"{100 * (row[name] / row['measured'] - 1):+.0f} %"
        value = "cannot be foretold" if row[name] is None else f"{row[name]:.2f}"
        cells += [value, f"{row['measured']:.2f}", off] if name == "foretold" else [value, off]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
