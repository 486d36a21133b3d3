"""Is a latency target met, and is it worth more than a MACs target? ResNet-18 and MobileNetV2 in ONNX Runtime.

For each network: settle the budget; time the network that it comes to in turns with the dense one; and look for the
network of the plain MACs family (widths of any size) that takes as long. Weights are drawn at random, which changes no
time: the method takes the same share of every group.

    python benchmarks/latency_target.py --out benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

from secateur.budget import Budget
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.measure import side_by_side
from secateur.measure.machine import processor
from secateur.methods.magnitude import Magnitude
from secateur.run.budget_search import settle
from secateur.run.budget_terms import Bargain
from secateur.run.latency_search import WithinLatency

NETWORKS = (("resnet18", 0.5), ("mobilenet_v2", 0.6))
REPEATS = 5
MOST = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each network and repeat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.out / "latency_target.json"
    done: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name, asked in NETWORKS:
        if name in done:
            continue
        done[name] = study(name, asked, arguments.runtime, arguments.seconds)
        print(name, json.dumps(done[name], indent=1), flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(done, indent=1) + "\n")


def study(name: str, asked: float, runtime: str, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    inputs = torch.randn(1, 3, 224, 224)
    graph, method = trace(model, inputs), Magnitude()

    def decide(target: Target, limits: Limits) -> Any:
        return method.plan(Problem(model=model, graph=graph, target=target, limits=limits))

    bargain = Bargain(model, graph, inputs, decide, seconds=3.0)
    started = time.perf_counter()
    settled = settle(bargain, Budget(max_latency=asked, runtime=runtime, threads=1))
    took = time.perf_counter() - started
    plan = decide(settled.target, settled.limits)
    thin = apply(model, graph, plan)
    share = settled.found["latency"]["measured"]

    plain = WithinLatency(bargain, Budget(max_latency=min(1.0, share), runtime=runtime, threads=1))
    tried = [plain.measured(plain.largest(share, Limits(multiple=1)) or 0.5, Limits(multiple=1))]
    while tried[-1].share > share and len(tried) < MOST:
        tried.append(plain.measured(tried[-1].keep * max(0.8, 0.98 * share / tried[-1].share), Limits(multiple=1)))
    # times do not fall steadily with odd widths: the largest network that was fast enough stands for the family
    chosen = max((each for each in tried if each.share <= 1.02 * share), key=lambda it: it.macs, default=tried[-1])
    macs = apply(model, graph, plain.plan(chosen.keep, Limits(multiple=1)))
    networks = {"dense": model, "latency": thin, "macs": macs}
    names = {"computing": "processor", "wall": "wall"}
    shares = {clock: {it: list[float]() for it in networks if it != "dense"} for clock in names}
    for _ in range(REPEATS):
        timed = side_by_side(networks, inputs, runtime, threads=1, seconds=seconds)
        for clock, found in shares.items():
            for it in found:
                found[it].append(round(timed.by(names[clock]).ratio(it, "dense"), 4))
    return {
        "asked": asked,
        "found": dict(settled.found["latency"]),
        "seconds_to_settle": round(took, 1),
        "share_of_dense_latency": shares,
        "macs_kept": {
            "latency target": bargain.share(plan),
            "macs target of equal latency": chosen.macs,
        },
        "macs_family_tried": [{"share": each.share, "macs": each.macs} for each in tried],
        "conditions": {
            "processor": processor(),
            "threads": 1,
            "batch": 1,
            "runtime": runtime,
            "torch": str(torch.__version__),
        },
    }


if __name__ == "__main__":
    main()
