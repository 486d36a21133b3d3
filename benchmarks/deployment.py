"""What folding batch norms and laying kernels out channels last are worth in PyTorch eager.

    python benchmarks/deployment.py --json benchmarks/results/deployment.json

One image of 224x224, one thread, processor time, random weights; the four networks in turns. The images are laid out as
they come, contiguous, since that is how a deployed network is given them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torchvision

from secateur.measure import deploy, side_by_side
from secateur.measure.deployment import laid_out
from secateur.measure.machine import processor

NETWORKS = ("resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each network")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [study(name, arguments.seconds) for name in arguments.networks]
    print("| ms a pass | as trained | folded | channels last | folded, channels last | gain |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            "| "
            + " | ".join([row["network"], *(f"{ms:.3g}" for ms in row["ms"].values()), f"{row['gain']:.2f}"])
            + " |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def study(name: str, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model, image = torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    folded = deploy(model, image, time=False).model
    networks = {
        "trained": model,
        "folded": folded,
        "channels last": laid_out(model, "channels_last"),
        "both": laid_out(folded, "channels_last"),
    }
    found = side_by_side(networks, image, "eager", threads=1, seconds=seconds)
    return {
        "network": name,
        "ms": {it: latency.milliseconds for it, latency in found.latencies.items()},
        "gain": found.ratio("trained", "both"),
        "interval": found.interval("trained", "both"),
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


if __name__ == "__main__":
    main()
