"""Accuracy against size for the methods of Guo et al., weak_subnetwork and self_grouping, beside two plain ones.

All methods are asked for the same share of the MACs, on the same trained network, and fine-tuned alike; accuracy is
taken before and after. Digits and clothes, LeNet trained here for each seed:

    python benchmarks/guo.py --data mnist5k --network lenet5 --percents 95 97 99
    python benchmarks/guo.py --data fashion_mnist:DIR --network lenet5 --dense-epochs 3 --epochs 1 --keeps 0.5 0.2

CIFAR-10, the published ResNets (files of akamaster/pytorch_resnet_cifar10 in DIR); --epochs 0 does not fine-tune:

    python benchmarks/guo.py --data cifar10:DIR --weights DIR --network resnet20 --epochs 1 --keeps 0.5
    python benchmarks/guo.py --data cifar10:DIR --weights DIR --network resnet56 --epochs 0 --keeps 0.9 0.7 0.5

The residual streams of these networks are the groups that several layers put out and add up. ``weak_subnetwork`` leaves
them alone, ``magnitude`` does not, so the first four methods differ in more than their scores; with the same groups:

    python benchmarks/guo.py --data cifar10:DIR --weights DIR --network resnet20 --epochs 0 --keeps 0.9 0.7 0.5 \
        --methods magnitude filter_std random_units --groups "all" "inside blocks"
    python benchmarks/guo.py --data cifar10:DIR --weights DIR --network resnet56 --epochs 0 --keeps 0.7 \
        --methods magnitude filter_std --groups "all" "inside blocks" --seeds 0

Every run is one JSON file in ``--out``; those that exist are not repeated. ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from torch import nn

from secateur.core.graph import INSIDE, Groups
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.data import Data, load_data
from secateur.errors import TargetError
from secateur.measure import count, quality
from secateur.measure.machine import processor
from secateur.methods import find
from secateur.models import build, load_weights
from secateur.run import prune
from secateur.training import Settings, fit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those the ResNets were trained with
ANY_WIDTH = Limits(multiple=1)  # as in the papers; for speed widths would be multiples
METHODS = ("magnitude", "random_units", "weak_subnetwork", "self_grouping")
OPTIONS = {"self_grouping": {"fc": 100.0, "restarts": 3}}
DRAWN = ("random_units", "self_grouping")  # decide differently with another seed
KNOWN: dict[int, float] = {}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="mnist5k, fashion_mnist:DIR or cifar10:DIR")
    parser.add_argument("--weights", type=Path, help="folder with trained weights; none: train the network here")
    parser.add_argument("--network", default="lenet5")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--keeps", nargs="*", type=float, default=[0.5, 0.3, 0.2, 0.15], help="shares of the MACs")
    parser.add_argument("--groups", nargs="+", default=["all"], choices=get_args(Groups), help="that may lose units")
    parser.add_argument("--percents", nargs="*", type=float, default=[], help="of self_grouping, as the paper has them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dense-epochs", type=int, default=30)
    parser.add_argument("--dense-lr", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning")
    parser.add_argument("--lr", type=float, default=0.01, help="of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "guo")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    arguments = parser.parse_args()
    if not arguments.table:
        arguments.out.mkdir(parents=True, exist_ok=True)
        colour = {"mean": MEAN, "std": STD} if arguments.weights else {}
        data = load_data(arguments.data, **colour)
        for seed in arguments.seeds:
            asked: list[tuple[str, dict[str, float], Groups]] = [
                (method, {"keep": keep}, groups)
                for keep, method, groups in itertools.product(arguments.keeps, arguments.methods, arguments.groups)
            ]
            asked += [("self_grouping", {"percent": percent}, "all") for percent in arguments.percents]
            for method, goal, groups in asked:
                run_one(arguments, data, method, goal, groups, seed)
    print(table(arguments.out))


def dense_network(arguments: argparse.Namespace, data: Data, seed: int) -> nn.Module:
    """Return the trained dense network: a published one, or LeNet trained with this seed, once."""
    torch.manual_seed(seed)
    model = build(f"secateur:{arguments.network}", classes=data.classes, channels=data.shape[0], image=data.shape[1])
    if arguments.weights:
        load_weights(model, sorted(arguments.weights.glob(f"{arguments.network}-*.th"))[0])
        return model
    file = arguments.out / "dense" / f"{arguments.network}-{data.name}-seed{seed}.safetensors"
    if file.exists():
        load_weights(model, file)
        return model
    fit(model, data, settings(arguments.dense_epochs, arguments.dense_lr, "none", 64), seed=seed)
    file.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(model.state_dict(), file)
    return model


def settings(epochs: int, lr: float, augment: str, batch_size: int) -> Settings:
    return Settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        augment=augment,
        precision="float32",
        memory_format="channels_last",
        compile="off",
    )


def run_one(
    arguments: argparse.Namespace, data: Data, method: str, goal: dict[str, float], groups: Groups, seed: int
) -> None:
    """Prune, measure, fine-tune and measure once; write what came out."""
    epochs = arguments.epochs
    if not epochs and method not in DRAWN and seed != arguments.seeds[0] and arguments.weights:
        return  # the same network and the same decision again
    (kind, level), *_ = goal.items()
    where = "-inside" if groups == INSIDE else ""
    name = f"{arguments.network}-{data.name}-{method}{where}-{kind}{level:g}-{epochs}ep-seed{seed}"
    file = arguments.out / f"{name}.json"
    if file.exists():
        return
    options = {
        **OPTIONS.get(method, {}),
        **({"conv": level, "fc": level} if kind == "percent" else {}),
    }
    dense, start = dense_network(arguments, data, seed), time.perf_counter()
    target = Target(level) if kind == "keep" else None
    row: Row = {
        "network": arguments.network,
        "data": data.name,
        "method": method,
        "goal": goal,
        "groups": groups,
        "options": options,
        "seed": seed,
        "epochs": epochs,
        "machine": machine(),
    }
    try:
        thin = prune(
            dense, data.example(), find(method)(**options), target,
            limits=ANY_WIDTH, groups=groups, seed=seed, latency=False, repair=(),
        )  # fmt: skip
    except TargetError as error:
        file.write_text(json.dumps({**row, "refused": str(error)}, indent=1))
        return
    row |= {
        "params": [thin.before.counts.params, thin.after.counts.params],
        "macs": [thin.before.counts.macs, thin.after.counts.macs],
        "verification": thin.verification,
        "dense": dense_top1(arguments, data, dense, seed),
        "pruned": top1(thin.model, data),
    }
    if epochs:
        asked = settings(epochs, arguments.lr, *(("crop_flip", 128) if arguments.weights else ("none", 64)))
        fit(thin.model, data, asked, seed=seed)
        row |= {"tuned": top1(thin.model, data), "settings": asked.to_dict()}
        assert count(thin.model, data.example()).macs == row["macs"][1]
    row["seconds"] = time.perf_counter() - start
    file.write_text(json.dumps(row, indent=1))
    print(f"{file.stem}: {row['dense']:.4f} -> {row['pruned']:.4f} -> {row.get('tuned', float('nan')):.4f}", flush=True)


def top1(model: nn.Module, data: Data) -> float:
    return quality(model, data.batches("test", 250)).value


def dense_top1(arguments: argparse.Namespace, data: Data, dense: nn.Module, seed: int) -> float:
    """Measure each dense network once."""
    key = 0 if arguments.weights else seed
    if key not in KNOWN:
        KNOWN[key] = top1(dense, data)
    return KNOWN[key]


def machine() -> dict[str, str | int]:
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(folder: Path) -> str:
    """Return the Markdown tables of all results in a folder, one for each network and data set."""
    runs: dict[tuple[str, str, int], dict[tuple[float, str], list[Row]]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text())
        goal = row["goal"]
        level = -goal["keep"] if "keep" in goal else goal["percent"]
        where = row["method"] + (f", {INSIDE}" if row.get("groups") == INSIDE else "")
        runs.setdefault((row["network"], row["data"], row["epochs"]), {}).setdefault((level, where), []).append(row)
    parts = [_one_table(*key, rows) for key, rows in sorted(runs.items())]
    return "\n\n".join(parts)


def _one_table(network: str, data: str, epochs: int, runs: dict[tuple[float, str], list[Row]]) -> str:
    first = next(row for rows in runs.values() for row in rows if "dense" in row)
    kept = [
        row["dense"] for rows in runs.values() for row in rows if "dense" in row and row["method"] == "self_grouping"
    ]
    lines = [
        f"{network} on {data}, dense {spread(sorted(set(kept)) or [first['dense']])} %, "
        f"{first['macs'][0] / 1e6:.3g} M MACs, {first['params'][0]:,} parameters; fine-tuned for {epochs} epochs",
        "",
        "| asked | method | MACs kept % | parameters kept % | before % | after % | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (level, method), rows in sorted(runs.items()):
        asked = f"MACs {-level:g}" if level < 0 else f"{level:g} % of the kernels"
        done = [row for row in rows if "refused" not in row]
        if not done:
            lines.append(f"| {asked} | {method} | {rows[0]['refused']} | | | | |")
            continue
        cells = [
            asked,
            method,
            f"{100 * statistics.mean(r['macs'][1] / r['macs'][0] for r in done):.1f}",
            f"{100 * statistics.mean(r['params'][1] / r['params'][0] for r in done):.1f}",
            spread([r["pruned"] for r in done]),
            spread([r["tuned"] for r in done]) if epochs else "",
            str(len(done)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
