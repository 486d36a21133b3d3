"""Time from a trained network to a thinner one: trace, plan, apply, beside Torch-Pruning in the same run.

    pip install torch-pruning==1.6.1 torchvision
    python benchmarks/overhead.py --networks resnet50 densenet121 --json overhead.json

One thread, random weights, 224x224, medians of interleaved repeats. Both remove the filters with the smallest L1 norm
until half of the MACs are left (Torch-Pruning: the width ratio that comes closest, found beforehand and not timed,
because it has no target in MACs).
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.methods.magnitude import Magnitude


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [compare(name, arguments.repeats) for name in arguments.networks]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def compare(name: str, repeats: int) -> dict[str, object]:
    import torchvision

    model = torchvision.models.get_model(name, weights=None).eval()
    inputs = torch.randn(1, 3, 224, 224)
    ratio = matching_ratio(model, inputs)
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    for _ in range(repeats):
        ours.append(secateur(model, inputs))
        theirs.append(torch_pruning(model, inputs, ratio)[0])
    row: dict[str, object] = {
        "network": name,
        "repeats": repeats,
        **{
            stage: statistics.median(run[stage] for run in ours)
            for stage in ("trace", "plan", "apply", "total", "keep")
        },
        "torch_pruning": statistics.median(theirs),
        "torch_pruning_version": importlib.metadata.version("torch-pruning"),
        "ratio": statistics.median(b / a["total"] for a, b in zip(ours, theirs, strict=True)),
    }
    print(
        f"{name}: secateur {row['total']:.2f} s (trace {row['trace']:.2f}, plan {row['plan']:.2f}, apply "
        f"{row['apply']:.2f}; keeps {row['keep']:.3f} of the MACs); Torch-Pruning {row['torch_pruning_version']} "
        f"{row['torch_pruning']:.2f} s; ratio {row['ratio']:.2f}",
        flush=True,
    )
    return row


def secateur(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    start = time.perf_counter()
    graph = trace(model, inputs)
    traced = time.perf_counter()
    plan = Magnitude().plan(Problem(model, graph, Target(0.5), limits=Limits(multiple=1)))
    planned = time.perf_counter()
    apply(model, graph, plan)
    done = time.perf_counter()
    return {
        "trace": traced - start,
        "plan": planned - traced,
        "apply": done - planned,
        "total": done - start,
        "keep": size(graph, plan).macs / size(graph).macs,
    }


def torch_pruning(model: nn.Module, inputs: Tensor, ratio: float) -> tuple[float, nn.Module]:
    """Return the seconds that Torch-Pruning needs, its copy of the model included, and what came out."""
    import torch_pruning as tp

    start = time.perf_counter()
    thin = copy.deepcopy(model)
    classifier = [m for m in thin.modules() if isinstance(m, nn.Linear)][-1:]
    pruner = tp.pruner.MagnitudePruner(
        thin, inputs, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=ratio, ignored_layers=classifier
    )
    pruner.step()
    return time.perf_counter() - start, thin


def matching_ratio(model: nn.Module, inputs: Tensor) -> float:
    """Return the width ratio, in steps of 1 %, at which Torch-Pruning keeps nearly half of the MACs."""
    from torch.utils.flop_counter import FlopCounterMode

    def macs(network: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(inputs)
        return counter.get_total_flops() // 2

    dense = macs(model)
    low, high = 0.1, 0.6
    while high - low > 0.01:
        middle = (low + high) / 2
        if macs(torch_pruning(model, inputs, middle)[1]) > dense / 2:
            low = middle
        else:
            high = middle
    return high


if __name__ == "__main__":
    main()
