"""Check the claim of Batch Bridgeout: a network trained with it loses filters without losing accuracy.

    python benchmarks/batch_bridgeout.py --data fashion_mnist:DIR --epochs 4
    python benchmarks/batch_bridgeout.py --table --figure

A narrow VGG is trained from scratch in three ways that differ in nothing but their noise: Batch Bridgeout, targeted
activation dropout with the same probability, and weight decay alone, which the other two have as well. Then the same
share of the filters of every convolution goes, smallest L2 norm first, without fine-tuning, and the test accuracy is
measured four times: with the filters set to zero in place, as in the paper (batch norms go on emitting constants),
with the units removed for good, removed with what they emitted on average folded into the next batch norm, and removed
with the batch norms' statistics estimated afresh, both on training images.

The paper trains for 230 epochs with a weight decay of 5e-4; what a filter without use has left of its length then is
exp(-sum of the learning rates * weight decay), practically nothing. The default weight decay here is larger, in all
arms, since the training is short; ``--weight-decay 5e-4`` is the paper's.

Nothing is chosen by test accuracy: the last epoch counts. Every run is one JSON file in ``--out``; those that exist
are not repeated, and a killed run goes on from its last epoch. ``--figure`` draws what is there, beside the numbers
of the paper's own figure for VGG-16 on CIFAR-10.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph
from secateur.core.method import Method
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.data import Data, load_data
from secateur.events import Event
from secateur.measure import count, quality
from secateur.methods.batch_bridgeout import BatchBridgeout
from secateur.repair import compensate
from secateur.training import Settings, fit, recalibrate

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
NOISE = {"bridgeout": "bridgeout", "dropout": "dropout", "weight_decay": "bridgeout"}
LABELS = {"bridgeout": "Batch Bridgeout", "dropout": "targeted dropout", "weight_decay": "weight decay"}
COLOURS = {"bridgeout": "#1b6ca8", "dropout": "#d1495b", "weight_decay": "#5c6b73"}
WAYS = ("zeroed", "removed", "compensated", "recalibrated")
PAPER: dict[str, tuple[float, ...]] = {  # VGG-16 on CIFAR-10, read off the authors' vector figure
    "bridgeout": (92.67, 92.67, 92.65, 90.79, 87.53, 70.32, 41.07, 15.13),
    "dropout": (92.90, 82.43, 42.60, 15.73, 11.91, 10.06, 9.52, 10.06),
    "weight_decay": (93.81, 89.14, 64.41, 29.03, 11.26, 10.75, 11.34, 10.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="for instance fashion_mnist:DIR or cifar10:DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "batch_bridgeout")
    parser.add_argument("--arms", nargs="+", default=list(NOISE), choices=list(NOISE))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--widths", nargs="+", type=int, default=[16, 32, 64, 128, 128], help="of the stages of the VGG"
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 1, 2, 2, 2], help="convolutions of each stage")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--weight-decay", type=float, default=3e-3, help="of all arms")
    parser.add_argument("--q", type=float, default=BatchBridgeout.q)
    parser.add_argument("--p", type=float, default=BatchBridgeout.p)
    parser.add_argument("--fraction", type=float, default=BatchBridgeout.fraction)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    parser.add_argument("--figure", action="store_true", help="draw what is there into --out/figure.svg and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not (arguments.table or arguments.figure):
        if not arguments.data:
            parser.error("--data is needed for training")
        data = load_data(arguments.data)
        for seed, arm in itertools.product(arguments.seeds, arguments.arms):
            run_one(arguments, data, arm, seed)
    if arguments.figure:
        figure(arguments.out)
    print(table(arguments.out))


class NarrowVGG(nn.Module):
    """Stages of 3x3 convolutions, each with batch norm and ReLU, pooled by 2 between the stages; one linear layer."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as in the authors' code
                nn.init.xavier_uniform_(module.weight, gain=2**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


def method_of(arguments: argparse.Namespace, arm: str) -> BatchBridgeout:
    p = 0.0 if arm == "weight_decay" else arguments.p
    return BatchBridgeout(q=arguments.q, p=p, fraction=arguments.fraction, noise=NOISE[arm])


def run_one(arguments: argparse.Namespace, data: Data, arm: str, seed: int) -> None:
    """Train one network and measure its curves; write what came out."""
    name = f"{data.name.replace('/', '-')}-{arm}-{arguments.epochs}ep-wd{arguments.weight_decay:g}-seed{seed}"
    file = arguments.out / f"{name}.json"
    if file.exists():
        return
    settings = Settings(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        weight_decay=arguments.weight_decay,
        warmup_epochs=1,
        augment="crop_flip" if data.name == "cifar10" else "crop",
        precision="float32",
        memory_format="channels_last",
        compile="off",
    )
    torch.manual_seed(seed)
    model = NarrowVGG(arguments.widths, arguments.depths, data.shape[0], data.classes)
    method = method_of(arguments, arm)
    started = time.perf_counter()
    checkpoint = file.with_suffix(".ckpt")
    with method.training(model) as shaper:
        history = fit(model, data, settings, shaper=shaper, checkpoint=checkpoint, seed=seed, tell=tell)
    seconds = time.perf_counter() - started
    row = {
        "data": data.name,
        "arm": arm,
        "seed": seed,
        "network": {"widths": arguments.widths, "depths": arguments.depths},
        "method": {"q": method.q, "p": method.p, "fraction": method.fraction, "noise": method.noise},
        "settings": settings.to_dict(),
        "history": history.to_dict(),
        "seconds": seconds,
        "fractions": FRACTIONS,
        **curves(model, data, method),
    }
    file.write_text(json.dumps(row, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(f"{name}: " + " ".join(f"{100 * value:.1f}" for value in row["zeroed"]), flush=True)


def curves(model: nn.Module, data: Data, method: Method) -> dict[str, list[float]]:
    """Return test accuracies in [0, 1] by share of filters, three ways, and the share of MACs that is left."""
    graph = trace(model, data.example())
    whole = count(model, data.example()).macs
    found: dict[str, list[float]] = {way: [] for way in (*WAYS, "macs")}
    for fraction in FRACTIONS:
        plan = lowest(model, graph, method, fraction)
        thin = apply(model, graph, plan)
        found["zeroed"].append(test(zeroed(model, plan), data))
        found["removed"].append(test(thin, data))
        found["macs"].append(count(thin, data.example()).macs / whole)
        mended = copy.deepcopy(thin)
        compensate(model, mended, graph, plan, [x for x, _ in itertools.islice(data.batches("train", 128), 2)])
        found["compensated"].append(test(mended, data))
        recalibrate(thin, itertools.islice(data.batches("train", 128, shuffle=True, seed=0), 50))
        found["recalibrated"].append(test(thin, data))
    return found


def lowest(model: nn.Module, graph: Graph, method: Any, fraction: float) -> Plan:
    """Drop ``int(filters * fraction)`` of every convolution, as the authors' code counts."""
    problem = Problem(model, graph)
    edits = [
        DropUnits(group.name, tuple(sorted(torch.argsort(method.score(group, problem), stable=True)[:gone].tolist())))
        for group in graph.free
        if (gone := int(group.size * fraction + 1e-9))
    ]
    return Plan(tuple(edits))


def zeroed(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy with the filters of the plan set to zero; batch norms and biases stay."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, units in plan.dropped().items():
            twin.get_parameter(f"{name}.weight")[list(units)] = 0.0
    return twin


def test(model: nn.Module, data: Data) -> float:
    return quality(model, data.batches("test", 500)).value


def tell(event: Event) -> None:
    if event.text:
        print(event.text, flush=True)


def rows_of(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the results by data set (with weight decay) and arm."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        where = f"{row['data']}, decay {row['settings']['weight_decay']:g}"
        found.setdefault((where, row["arm"]), []).append(row)
    return found


def table(folder: Path) -> str:
    """Return the Markdown table of all results in a folder."""
    lines = [
        f"| data | arm | way | {' | '.join(f'{100 * f:.0f} %' for f in FRACTIONS)} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in FRACTIONS)} |",
    ]
    for (data, arm), rows in rows_of(folder).items():
        for way in WAYS:
            cells = [spread([row[way][place] for row in rows]) for place in range(len(FRACTIONS))]
            lines.append(f"| {data} | {LABELS[arm]} ({len(rows)}) | {way} | {' | '.join(cells)} |")
    for arm, values in PAPER.items():
        lines.append(
            f"| CIFAR-10 (paper, VGG-16) | {LABELS[arm]} | zeroed | {' | '.join(f'{v:.1f}' for v in values)} |"
        )
    return "\n".join([*lines, "", *flatness(folder)])


def flatness(folder: Path) -> list[str]:
    """Say for every run up to which share of filters it stays within five points of its own start."""
    lines = ["Largest share of filters within 5 points of the unpruned network, seed by seed:"]
    for (data, arm), rows in rows_of(folder).items():
        for way in WAYS:
            lines.append(
                f"- {data}, {LABELS[arm]}, {way}: {', '.join(f'{100 * flat(row[way]):.0f} %' for row in rows)}"
            )
    lines += [f"- paper, {LABELS[arm]}: {100 * flat([v / 100 for v in values]):.0f} %" for arm, values in PAPER.items()]
    return lines


def flat(values: Sequence[float], loss: float = 0.05) -> float:
    """Return the last share before the curve first falls by more than ``loss``, linear between the points."""
    level = values[0] - loss
    for place in range(1, len(values)):
        if values[place] < level:
            step = (values[place - 1] - level) / (values[place - 1] - values[place])
            return FRACTIONS[place - 1] + step * (FRACTIONS[place] - FRACTIONS[place - 1])
    return FRACTIONS[-1]


def spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def figure(folder: Path) -> None:
    """Draw two panels for every data set and the paper's beside them, as an SVG without any other library."""
    found = rows_of(folder)
    panels = [(data, "zeroed") for data in dict.fromkeys(key[0] for key in found)]
    panels += [(data, "removed") for data, _ in panels]
    width, height = 330, 300
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * (len(panels) + 1)} {height + 30}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width * (len(panels) + 1)}" height="{height + 30}" fill="white"/>',
    ]
    for place, (data, way) in enumerate(panels):
        series = {
            arm: [[100 * value for value in row[way]] for row in rows] for (d, arm), rows in found.items() if d == data
        }
        title = f"{data}, filters {'set to zero' if way == 'zeroed' else 'removed'}"
        parts += panel(place * width, title, series)
    parts += panel(
        len(panels) * width, "paper: VGG-16, CIFAR-10, set to zero", {a: [list(v)] for a, v in PAPER.items()}
    )
    for place, arm in enumerate(NOISE):
        x = 60 + 170 * place
        parts.append(f'<line x1="{x}" y1="{height + 14}" x2="{x + 24}" y2="{height + 14}" stroke="{COLOURS[arm]}" ')
        parts.append(f'stroke-width="2.5"/><text x="{x + 30}" y="{height + 18}">{LABELS[arm]}</text>')
    (folder / "figure.svg").write_text("\n".join([*parts, "</svg>"]) + "\n")


def panel(left: float, title: str, series: dict[str, list[list[float]]]) -> list[str]:
    """Return the SVG of one set of axes: lines are means, bars reach from the lowest to the highest seed."""

    def x(share: float) -> float:
        return left + 45 + share / 0.7 * 265

    def y(value: float) -> float:
        return 262 - value / 100 * 230

    parts = [f'<text x="{left + 178}" y="20" text-anchor="middle" font-size="12">{title}</text>']
    for value in (0, 20, 40, 60, 80, 100):
        parts.append(f'<line x1="{x(0)}" y1="{y(value)}" x2="{x(0.7)}" y2="{y(value)}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(0) - 6}" y="{y(value) + 4}" text-anchor="end">{value}</text>')
    for share in FRACTIONS:
        parts.append(f'<text x="{x(share)}" y="277" text-anchor="middle">{100 * share:.0f}</text>')
    parts.append(f'<text x="{x(0.35)}" y="292" text-anchor="middle">% of the filters of every layer</text>')
    middle = f"{left + 12} {y(50)}"
    parts.append(
        f'<text x="{left + 12}" y="{y(50)}" text-anchor="middle" transform="rotate(-90 {middle})">accuracy %</text>'
    )
    for arm, runs in series.items():
        points = [(x(share), [run[place] for run in runs]) for place, share in enumerate(FRACTIONS)]
        line = " ".join(f"{across:.1f},{y(statistics.mean(values)):.1f}" for across, values in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[arm]}" stroke-width="2.5"/>')
        for across, values in points:
            if len(values) > 1:
                parts.append(
                    f'<line x1="{across:.1f}" y1="{y(min(values)):.1f}" x2="{across:.1f}" y2="{y(max(values)):.1f}" '
                    f'stroke="{COLOURS[arm]}" stroke-opacity="0.45" stroke-width="4"/>'
                )
    return parts


if __name__ == "__main__":
    main()
