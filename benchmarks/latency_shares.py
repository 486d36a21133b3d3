"""What do latency-aware shares keep, at equal measured latency, against the shares of the method itself?

Each network is pruned to a share of the dense network's latency with the shares of the method (the same of every group
for ``magnitude``, one threshold for ``bn_scale``), and then to the latency that came of it with those that lose the
least importance for the time saved; each on that of three grids of widths on which it keeps the most. Both networks and
the dense one are then timed again, in turns, with one thread. What is left of a difference in time is in the table.

ResNet-18 and MobileNetV2 have weights drawn at random: their times are real, what they keep of the importance of random
filters says how many channels stay and nothing about accuracy. The published CIFAR-10 ResNets have an accuracy: right
after the cut, with batch norms estimated anew, and with readers reconstructed from 512 training images. No network is
fine-tuned.

    python benchmarks/latency_shares.py --data cifar10:DIR --weights DIR --out benchmarks/results

DIR with the weights holds the files of akamaster/pytorch_resnet_cifar10 (``resnet20-12fca82f.th``, ...).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision

from secateur.budget import Budget
from secateur.core.graph import Graph
from secateur.core.method import ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.latency_knapsack import kept_importance
from secateur.core.sizes.size import size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.data import Data, load_calibration, load_data
from secateur.measure import quality
from secateur.measure.forecast import Forecast
from secateur.measure.machine import processor
from secateur.methods import find
from secateur.models import build, load_weights
from secateur.repair import take
from secateur.run.budget_terms import Bargain, Decide, Test
from secateur.run.latency_search import WithinLatency, in_turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those the weights were trained with
CASES = (
    ("resnet20", "magnitude", 0.8),
    ("resnet56", "magnitude", 0.7),
    ("resnet18", "magnitude", 0.5),
    ("mobilenet_v2", "magnitude", 0.5),
    ("resnet20", "magnitude", 0.65),
    ("resnet56", "magnitude", 0.55),
    ("resnet20", "bn_scale", 0.7),
)
IMAGES = 500
GRIDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10:DIR")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--seconds", type=float, default=1.2, help="to time two networks for, each time")
    parser.add_argument("--networks", nargs="+", default=sorted({name for name, *_ in CASES}))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(arguments.data, mean=MEAN, std=STD)
    file = arguments.out / "latency_shares.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name, method, asked in CASES:
        case = f"{name} {method} {asked}"
        if name not in arguments.networks or case in done:
            continue
        done[case] = study(arguments, data, name, find(method)(), asked)
        print(case, json.dumps(done[case], indent=1), flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(done, indent=1) + "\n")
    print(table(done))


def study(arguments: argparse.Namespace, data: Data, name: str, method: Any, asked: float) -> dict[str, Any]:
    model, inputs, known = network(arguments.weights, name)
    graph = trace(model, inputs)
    scores = method.scores(Problem(model, graph))
    started = time.perf_counter()
    usual = searching(arguments, model, inputs, graph, asked, deciding(model, graph, method))
    own = best_of_grids(usual, lambda plan: kept_importance(graph, scores, method.scope, plan))
    decide = deciding(model, graph, replace(method, allocate="latency"), usual.forecast)
    other = searching(arguments, model, inputs, graph, own.share, decide)
    aware = best_of_grids(other, lambda plan: kept_importance(graph, scores, method.scope, plan))
    took = time.perf_counter() - started
    cut = {"own": usual.plan(own.keep, own.limits), "aware": other.plan(aware.keep, aware.limits)}
    thin = {shares: apply(model, graph, plan) for shares, plan in cut.items()}
    time_of = {
        shares: in_turns(model, it, inputs, arguments.runtime, 1, seconds=arguments.seconds)[0]
        for shares, it in thin.items()
    }
    row: dict[str, Any] = {
        "asked": asked,
        "multiple": {"own": own.limits.multiple, "aware": aware.limits.multiple},
        "latency": time_of,
        "aware_over_own": in_turns(thin["own"], thin["aware"], inputs, arguments.runtime, 1, seconds=arguments.seconds)[
            0
        ],
        "macs": {shares: usual.bargain.share(plan) for shares, plan in cut.items()},
        "units": {shares: size(graph, plan).units / graph.units for shares, plan in cut.items()},
        "kept_importance": {s: kept_importance(graph, scores, method.scope, plan) for s, plan in cut.items()},
        "seconds_to_settle": round(took, 1),
        "conditions": {
            "processor": processor(),
            "runtime": arguments.runtime,
            "threads": 1,
            "batch": 1,
            "torch": str(torch.__version__),
        },
    }
    if known:
        row["images"] = IMAGES
        row["accuracy"] = {"dense": tested(model, data)} | {
            shares: accuracies(model, graph, plan, data) for shares, plan in cut.items()
        }
    return row


def searching(
    arguments: argparse.Namespace,
    model: torch.nn.Module,
    inputs: torch.Tensor,
    graph: Graph,
    asked: float,
    decide: Decide,
) -> WithinLatency:
    bargain = Bargain(model, graph, inputs, decide, seconds=arguments.seconds)
    return WithinLatency(bargain, Budget(max_latency=min(1.0, asked), runtime=arguments.runtime, threads=1))


def best_of_grids(within: WithinLatency, worth: Test) -> Any:
    """Return the network of the right latency that keeps the most importance, of those on the likeliest grids."""
    tried = [each for limits, keep in within.grids()[:GRIDS] for each in within.corrected(limits, keep)]
    fast = [each for each in tried if each.share <= 1.015 * within.asked] or within.met(tried)
    near = [each for each in fast if each.share >= 0.96 * within.asked]
    return max(near or fast, key=lambda each: worth(within.plan(each.keep, each.limits)))


def network(weights: Path, name: str) -> tuple[torch.nn.Module, torch.Tensor, bool]:
    """Return a network, an image for it, and whether its weights are known."""
    torch.manual_seed(0)
    if name not in ("resnet20", "resnet56"):
        return getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224), False
    model = build(f"secateur:{name}", classes=10).eval()
    load_weights(model, sorted(weights.glob(f"{name}-*.th"))[0])
    return model, torch.randn(1, 3, 32, 32), True


def deciding(model: torch.nn.Module, graph: Graph, method: ScoreMethod, forecast: Forecast | None = None) -> Decide:
    clock = None if forecast is None else lambda: forecast.times
    return lambda target, limits: method.plan(Problem(model, graph, target, limits=limits, time=clock))


def accuracies(model: torch.nn.Module, graph: Graph, plan: Plan, data: Data) -> dict[str, float]:
    found = {"cut": tested(apply(model, graph, plan), data)}
    some = load_calibration(data, count=512).batches
    for step in ("recalibrate", "reconstruct"):
        thin = apply(model, graph, plan)
        take(step, model, thin, graph, plan, some, 0)
        found[step] = tested(thin, data)
    return found


def tested(model: torch.nn.Module, data: Data) -> float:
    """Return the accuracy on the first test images."""
    batches, left = [], IMAGES
    for images, labels in data.batches("test", 250):
        batches.append((images[:left], labels[:left]))
        left -= len(images)
        if left <= 0:
            break
    return quality(model, batches).value


def table(done: dict[str, Any]) -> str:
    lines = [
        "| network, method | latency own / aware | MACs | kept importance | cut % | recalibrated % | reconstructed % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, row in done.items():
        pairs = [
            " / ".join(f"{row[key][shares]:.3f}" for shares in ("own", "aware"))
            for key in ("latency", "macs", "kept_importance")
        ]
        for step in ("cut", "recalibrate", "reconstruct"):
            found = row.get("accuracy")
            pairs.append(" / ".join(f"{100 * found[s][step]:.1f}" for s in ("own", "aware")) if found else "")
        lines.append(f"| {case} | {' | '.join(pairs)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
