"""Weak sub-network pruning at the paper's percentages: the share of units that really goes, and the MACs left.

    pip install "secateur[vision]"
    python benchmarks/wsp_sizes.py --out wsp_sizes.json
    python benchmarks/wsp_sizes.py --weights vgg16=vgg16.pth resnet50=resnet50.pth    # trained ImageNet weights

Forward and backward saliency of random weights are independent, so that at percentage p about p^2 of the units go;
the saliencies of trained weights agree to some degree, and the share lies between p^2 and p. Both ends are shown
(``p^2`` as measured on the given weights, ``p`` with the backward saliency made to rank as the forward one does),
beside the paper's numbers. ResNet-50 differs by more: the paper pairs the last convolution of a block with the
first of the next one and counts a kernel as saved on either side, although the stream between them carries a sum
and no thin network can leave it out; ``safe`` prunes the channels inside the blocks alone, ``tied`` the streams as a
whole too, projections included, which the paper leaves dense. ``counted`` repeats that count: rows and columns of
consecutive convolutions masked and the zeros counted, without asking whether a thin network could leave them out.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.trace import trace
from secateur.methods.weak_subnetwork import Streams, WeakSubnetwork, shares

PAPER = {  # percentage -> (million parameters, GMACs), as published with the code
    "vgg16": {20: (112.06, 11.74), 30: (96.62, 9.56), 40: (82.06, 7.61), 50: (67.70, 5.76)},
    "resnet50": {40: (17.12, 2.51), 50: (14.29, 2.02), 60: (11.60, 1.55), 70: (9.07, 1.12)},
}
DENSE = {"vgg16": (138.37, 15.47), "resnet50": (25.55, 4.09)}


def agreeing(model: nn.Module, graph: Graph) -> None:
    """Scale what reads each unit so that the backward saliency ranks all units as the forward one does."""
    for group in graph.groups:
        forward = torch.zeros(group.size)
        for rows in group.rows(model, "makes"):
            forward += rows.abs().sum(1)
        backward = torch.zeros(group.size)
        for rows in group.rows(model, "reads"):
            backward += rows.abs().sum(1)
        rank = torch.argsort(torch.argsort(forward)).double() + 1
        for member in group.members:
            if member.role == "reads":
                weight = model.get_parameter(member.tensor).data
                inside = member.unit >= 0
                factor = torch.ones(len(member.unit), dtype=weight.dtype)
                factor[inside] = (rank / backward)[member.unit[inside]].to(weight.dtype)
                weight *= factor.reshape([-1 if d == member.dim else 1 for d in range(weight.dim())])


def rows(name: str, model: nn.Module, graph: Graph, ranks: str, streams: Streams) -> list[dict[str, Any]]:
    dense, out = size(graph), list[dict[str, Any]]()
    for percent, (params, macs) in PAPER[name].items():
        method = WeakSubnetwork(percent, percent, percent, streams=streams)
        plan = method.plan(Problem(model, graph, limits=Limits(multiple=1)))
        found = size(graph, plan)
        row = {
            "network": name,
            "percent": percent,
            "streams": streams,
            "ranks": ranks,
            "shares": dict(shares(graph, plan, method)),
            "params": found.params / 1e6,
            "macs": found.macs / 1e9,
            "paper": {"params": params, "macs": macs},
            "keep macs": found.macs / dense.macs,
            "paper keep macs": macs / DENSE[name][1],
        }
        out.append(row)
        print(
            f"{name:>9} {percent} % {streams:>4} {ranks:>9}: units gone {row['shares']['all']:6.1%}  "
            f"params {row['params']:7.2f} M (paper {params:7.2f})  MACs {row['macs']:6.2f} G (paper {macs:5.2f})",
            flush=True,
        )
    return out


def counted(name: str, model: nn.Module, graph: Graph, ranks: str) -> list[dict[str, Any]]:
    """Count as the released code does: mask rows and columns of consecutive layers, and take zeros for savings."""
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers = [(n, m.weight.detach()) for n, m in modules if "downsample" not in n]
    costs = {cost.layer: cost.scale for cost in graph.costs}
    for cost in graph.costs:
        for axis in cost.axes:
            costs[cost.layer] *= axis.fixed + len(axis.units)
    dense, out = size(graph), list[dict[str, Any]]()
    for percent, paper in PAPER[name].items():
        keep = {n: [torch.ones(d, dtype=torch.bool) for d in w.shape[:2]] for n, w in layers}
        for (one, w), (other, reader) in itertools.pairwise(layers):
            forward = w.abs().flatten(1).sum(1)
            columns = reader.abs().transpose(0, 1).reshape(len(forward), -1)  # a channel's part of a flattened map
            backward = forward if ranks == "agreeing" else columns.sum(1)
            weak = [s < torch.quantile(s, percent / 100) for s in (forward, backward)]
            gone = weak[0] & weak[1]
            keep[one][0] &= ~gone
            keep[other][1] &= ~gone.repeat_interleave(reader.shape[1] // len(forward))
        saved, lost = 0.0, 0.0
        for n, w in layers:
            share = 1 - keep[n][0].float().mean().item() * keep[n][1].float().mean().item()
            saved, lost = saved + share * costs[n], lost + share * w.numel()
        out.append(
            {
                "network": name,
                "percent": percent,
                "streams": "counted",
                "ranks": ranks,
                "params": (dense.params - lost) / 1e6,
                "macs": (dense.macs - saved) / 1e9,
                "paper": {"params": paper[0], "macs": paper[1]},
                "keep macs": 1 - saved / dense.macs,
                "paper keep macs": paper[1] / DENSE[name][1],
            }
        )
        print(
            f"{name:>9} {percent} % counted {ranks:>9}: params {out[-1]['params']:7.2f} M (paper {paper[0]:7.2f})  "
            f"MACs {out[-1]['macs']:6.2f} G (paper {paper[1]:5.2f})",
            flush=True,
        )
    return out


def main() -> None:
    from torchvision.models import resnet50, vgg16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="NAME=FILE", help="state dicts, read without pickle"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    files = dict(entry.split("=", 1) for entry in options.weights)
    torch.manual_seed(0)
    found: list[dict[str, Any]] = []
    for name, build in (("vgg16", vgg16), ("resnet50", resnet50)):
        model = build().eval()
        if name in files:
            model.load_state_dict(torch.load(files[name], weights_only=True))
        graph = trace(model, torch.zeros(1, 3, 224, 224))
        choices: tuple[Streams, ...] = ("safe",) if name == "vgg16" else ("safe", "tied")
        for streams in choices:
            found += rows(name, model, graph, "given" if name in files else "random", streams)
        found += counted(name, model, graph, "given" if name in files else "random")
        found += counted(name, model, graph, "agreeing")
        agreeing(model, graph)
        for streams in choices:
            found += rows(name, model, graph, "agreeing", streams)
    if options.out:
        options.out.write_text(json.dumps({"torch": torch.__version__, "rows": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
