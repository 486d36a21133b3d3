"""Random masks against a single mask, magnitude and training from scratch, before and after retraining.

    python benchmarks/random_masks.py --data fashion_mnist:DIR --networks anwar_mnist2 --seeds 0 1 2
    python benchmarks/random_masks.py --data cifar10:DIR --networks resnet20 --weights resnet20.th --ratios 0.4 ...
    python benchmarks/random_masks.py --table

For each ratio (share of the weights of all convolutions but the first) and granularity, four ways to choose what goes:
the best of N random masks on the validation images, the first of these masks alone, the smallest weights of each
layer, and the best mask on new weights that are trained from scratch for as many epochs as the dense network and its
retraining together. ``combine`` removes maps first, retrains, then kernels, for as many epochs in total. A strided
pattern says by itself how much goes; those nearest to the ratios are taken. Masks are chosen on validation images,
errors are of test images, after the last epoch.

Every run is one JSON file in ``--out``; those that exist are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, tensor_of
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, hold
from secateur.core.trace import trace
from secateur.core.zeros.patterns import input_maps, maskable, strided_mask
from secateur.data import Data, from_arrays, load_data
from secateur.measure import quality
from secateur.measure.machine import processor
from secateur.methods.random_masks import RandomMasks
from secateur.models import build, load_weights
from secateur.run import Step, prune
from secateur.search import HeldOut, best_of
from secateur.training import Settings, fit

STRIDES = {0.2: (5, "drop"), 0.4: (3, "drop"), 0.6: (3, "keep"), 0.8: (5, "keep")}
WAYS = ("best", "single", "magnitude", "scratch")
TOTALS = (0.6, 0.8)  # of combine, whose maps go by MAPS_FIRST
MAPS_FIRST = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--weights", type=Path, help="trained weights; without them the dense network is trained")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "random_masks")
    parser.add_argument("--work", type=Path, default=Path("out/random_masks"), help="where dense networks are kept")
    parser.add_argument("--networks", nargs="+", default=["anwar_mnist2"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.4, 0.6, 0.8])
    parser.add_argument("--granularities", nargs="+", default=["maps", "kernels", "strided"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--images", nargs=3, type=int, default=[10000, 2000, 10000], help="of each split")
    parser.add_argument("--epochs", nargs=2, type=int, default=[5, 2], help="dense and retraining; 0 for none")
    parser.add_argument("--rates", nargs=2, type=float, default=[0.05, 0.02], help="learning rates of both")
    parser.add_argument("--mean-std", nargs=6, type=float, help="normalisation that the weights were trained with")
    parser.add_argument("--augment", default="none")
    parser.add_argument("--no-combine", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.table:
        print(table(arguments.out))
        return
    for seed in arguments.seeds:
        data = subset(arguments, seed)
        for network in arguments.networks:
            Bench(arguments, network, seed, data).run()


def subset(arguments: argparse.Namespace, seed: int) -> Data:
    """Return the first training and validation images in the data set's mixed order, and all test images."""
    given = arguments.mean_std
    own = {} if given is None else {"mean": tuple(given[:3]), "std": tuple(given[3:])}
    whole = load_data(arguments.data, seed=seed, **own)

    def first(split: Any, number: int) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, Tensor]] = []
        for x, y in whole.batches(split, 500):
            found.append((x, y))
            if sum(len(labels) for _, labels in found) >= number:
                break
        return torch.cat([x for x, _ in found])[:number], torch.cat([y for _, y in found])[:number]

    train, val, test = arguments.images
    zero, one = [0.0] * whole.shape[0], [1.0] * whole.shape[0]  # the images are normalised already
    parts = first("train", train), first("test", test), first("val", val)
    return from_arrays(*parts, name=whole.name, classes=whole.classes, mean=zero, std=one, layout="NCHW")


class Bench:
    """All runs of one network and seed."""

    def __init__(self, arguments: argparse.Namespace, network: str, seed: int, data: Data) -> None:
        self.arguments, self.network, self.seed, self.data = arguments, network, seed, data
        self.graph_of: Callable[[nn.Module], Graph] = lambda model: trace(model, data.example())
        self.dense: nn.Module | None = None

    def run(self) -> None:
        """Do all runs that are not there yet."""
        for granularity in self.arguments.granularities:
            for ratio in self.arguments.ratios:
                self.compare(granularity, ratio)
        if not self.arguments.no_combine:
            for total in TOTALS:
                self.combine(total)

    def compare(self, granularity: str, ratio: float) -> None:
        """Do the runs of one granularity and ratio."""
        files = {way: self.file(f"{granularity}-{ratio}-{way}") for way in self.arguments.ways}
        if all(file.exists() for file in files.values()):
            return
        dense = self.trained()
        graph = self.graph_of(dense)
        problem = Problem(dense, graph, limits=Limits(multiple=1), rng=torch.Generator().manual_seed(self.seed))
        plans = self.method(granularity, ratio).draw(problem)
        search: Search | None = None
        for way, file in files.items():
            if file.exists():
                continue
            if way in ("best", "scratch") and search is None:
                held = HeldOut.of(self.data.batches("val", 500), dense)
                search = best_of(dense, graph, plans, held, complete=True)
            match way:
                case "single":
                    plan = plans[0]
                case "magnitude":
                    plan = smallest(dense, graph, plans[0], self.method(granularity, ratio))
                case _:
                    assert search is not None
                    plan = plans[search.best]
            row = self.retrained(self.fresh() if way == "scratch" else dense, graph, plan, way)
            row |= {"granularity": granularity, "ratio": ratio, "way": way}
            if way == "best":
                assert search is not None
                row["scores"] = [trial.errors / trial.images for trial in search.trials]
            self.write(file, row)

    def method(self, granularity: str, ratio: float) -> RandomMasks:
        """Return the method that draws masks of a granularity."""
        number = self.arguments.candidates
        if granularity == "strided":
            stride, polarity = STRIDES[ratio]
            return RandomMasks(granularity="strided", stride=stride, polarity=polarity, candidates=number)
        if granularity == "maps":
            return RandomMasks(ratio=ratio, ratio_of="weights", candidates=number)
        return RandomMasks(granularity="kernels", ratio=ratio, candidates=number)

    def retrained(self, model: nn.Module, graph: Graph, plan: Plan, way: str) -> dict[str, Any]:
        """Cut, retrain with zeros held, and test before and after."""
        dense, tuned = self.arguments.epochs
        thin = apply(model, graph, plan)
        before = None if way == "scratch" else self.error(thin)
        settings = self.settings(*((dense + tuned, 0) if way == "scratch" else (tuned, 1)))
        start = time.process_time()
        if settings.epochs:
            fit(thin, self.data, settings, shaper=hold(thin, graph, plan), seed=self.seed)
        return {
            "before": None if before is None else round(before, 6),
            "after": round(self.error(thin), 6) if settings.epochs else None,
            "cpu_s": time.process_time() - start,
            "epochs": settings.epochs,
            **self.sizes(graph, plan),
        }

    def combine(self, total: float) -> None:
        """Maps first, then kernels: as much in total, and as many epochs of retraining, as either alone."""
        file = self.file(f"combine-{total}-best")
        if file.exists() or self.arguments.epochs[1] < 2:
            return
        dense = self.trained()
        left = (1.0 - total) / (1.0 - MAPS_FIRST)
        settings = self.settings(self.arguments.epochs[1] // 2, 1)
        maps, kernels = self.method("maps", MAPS_FIRST), self.method("kernels", 1.0 - left)
        result = prune(
            dense,
            None,
            maps,
            None,
            self.data,
            train=settings,
            then=[Step(kernels)],
            limits=Limits(multiple=1),
            repair=(),
            seed=self.seed,
            latency=False,
        )
        assert result.middle
        assert result.middle.quality
        assert result.after.quality
        graph = self.graph_of(dense)
        first = self.sizes(graph, result.plans[0])
        inner = self.sizes(trace(apply(dense, graph, result.plans[0]), self.data.example()), result.plans[1])
        row = {
            "granularity": "combine",
            "ratio": total,
            "way": "best",
            "before": round(1.0 - result.middle.quality.value, 6),
            "after": round(1.0 - result.after.quality.value, 6),
            "epochs": 2 * settings.epochs,
            **inner,
            "macs": first["macs"],
            "sparsity": 1.0 - (1.0 - first["sparsity"]) * (1.0 - inner["sparsity"]),
        }
        self.write(file, row)

    def trained(self) -> nn.Module:
        """Return the dense network, trained once for each seed and kept beside the results."""
        if self.dense is None:
            self.dense = self.fresh()
            if self.arguments.weights:
                load_weights(self.dense, self.arguments.weights)
            else:
                self.arguments.work.mkdir(parents=True, exist_ok=True)
                place = self.arguments.work / f"{self.network}-seed{self.seed}.ckpt"
                fit(self.dense, self.data, self.settings(self.arguments.epochs[0], 0), checkpoint=place, seed=self.seed)
            self.dense.eval()
            self.dense_error = self.error(self.dense)
            print(f"{self.network} seed {self.seed}: dense error {self.dense_error:.4f}", flush=True)
        return self.dense

    def fresh(self) -> nn.Module:
        """Return the network with new weights, the same for the same seed."""
        torch.manual_seed(self.seed)
        channels, image, _ = self.data.shape
        more = {"channels": channels, "image": image} if self.network.startswith("anwar_mnist") else {}
        return build(self.network, classes=self.data.classes, **more)

    def settings(self, epochs: int, which: int) -> Settings:
        """Return the settings of the training of the dense network (0) or of retraining (1)."""
        return Settings(
            epochs=epochs,
            lr=self.arguments.rates[which],
            augment=self.arguments.augment,
            precision="float32",
            memory_format="channels_last",
            compile="off",
            device="cpu",
        )

    def error(self, model: nn.Module) -> float:
        """Return the share of wrong test images."""
        return 1.0 - quality(model, self.data.batches("test", 250)).value

    def sizes(self, graph: Graph, plan: Plan) -> dict[str, Any]:
        """Return what is left, and which share of the weights of all convolutions but the first has gone."""
        left, whole = size(graph, plan), size(graph)
        keep = graph.kept(plan)
        names = maskable(graph)
        zeros = {e.tensor: float((~e.mask()).float().mean()) for e in plan.edits if isinstance(e, ZeroWeights)}
        total = sum(torch.Size(graph.tensors[name][0]).numel() for name in names)
        kept = 0.0
        for name in names:
            shape, dims = graph.tensors[name]
            stays = [n if units is None else int(keep[units[units >= 0]].sum() + (units < 0).sum())
                     for n, units in zip(shape, dims, strict=True)]  # fmt: skip
            kept += torch.Size(stays).numel() * (1.0 - zeros.get(name, 0.0))
        return {"macs": left.macs / whole.macs, "nonzero": left.nonzero / whole.nonzero, "sparsity": 1.0 - kept / total}

    def file(self, name: str) -> Path:
        """Return the file of a run."""
        return self.arguments.out / f"{self.network}-{name}-seed{self.seed}.json"

    def write(self, file: Path, row: dict[str, Any]) -> None:
        """Write a run down."""
        train, val, _ = self.arguments.images
        row |= {
            "network": self.network,
            "data": self.data.name,
            "seed": self.seed,
            "dense": self.dense_error,
            "candidates": self.arguments.candidates,
            "images": {"train": train, "val": val, "test": self.data.size("test")},
            "dense_epochs": 0 if self.arguments.weights else self.arguments.epochs[0],
            "machine": {"processor": processor(), "torch": torch.__version__},
        }
        file.write_text(json.dumps(row, indent=1))
        print(f"{file.stem}: {row['before']} -> {row['after']}", flush=True)


def smallest(dense: nn.Module, graph: Graph, like: Plan, method: RandomMasks) -> Plan:
    """Return the plan that takes as much from each layer as ``like`` does, by the sum of absolute weights.

    Maps count with the kernels that make and those that read them, as in the paper's comparison; of the strided
    patterns of each input map the one with the largest weights stays.
    """
    return Plan(tuple(_smallest(dense, graph, edit, method) for edit in like.edits))


def _smallest(dense: nn.Module, graph: Graph, edit: Any, method: RandomMasks) -> Any:
    if isinstance(edit, DropUnits):
        group = graph.group(edit.group)
        total = torch.zeros(group.size)
        for role in ("makes", "reads"):
            for rows in group.rows(dense, role):
                total += rows.abs().sum(1)
        return DropUnits(group.name, tuple(sorted(total.argsort()[: len(edit.units)].tolist())))
    weight = tensor_of(dense, edit.tensor).detach()
    if method.granularity == "kernels":
        total = weight.abs().flatten(2).sum(2).flatten()
        gone = int((~edit.mask()).flatten(2).all(2).sum())
        keep = torch.ones(len(total), dtype=torch.bool)
        keep[total.argsort()[:gone]] = False
        return ZeroWeights.of(edit.tensor, keep.reshape(*weight.shape[:2], 1, 1).expand(weight.shape))
    maps = input_maps(graph, edit.tensor)
    choices = [
        strided_mask(graph, edit.tensor, method.stride, torch.full((maps,), offset), method.polarity)
        for offset in range(method.stride)
    ]
    left = torch.stack([(weight * mask).abs().sum((0, 2, 3)) for mask in choices])
    return ZeroWeights.of(edit.tensor, strided_mask(graph, edit.tensor, method.stride, left.argmax(0), method.polarity))


def table(folder: Path) -> str:
    """Return Markdown tables: error before and after retraining, and the error of the best of the first N masks."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    parts: list[str] = []
    for network in sorted({row["network"] for row in rows}):
        own = [row for row in rows if row["network"] == network]
        dense = {row["seed"]: row["dense"] for row in own}
        first = own[0]
        parts.append(
            f"{network} on {first['data']}: dense error {spread(dense.values())} %, seeds {len(dense)}, "
            f"{first['images']['train']} training images\n"
        )
        parts += [errors(own), "", so_far(own), ""]
    return "\n".join(parts)


def errors(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| what goes | asked | weights gone | MACs kept | chosen by | before % | after % | after - dense |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        way = WAYS.index(row["way"])
        runs.setdefault((row["granularity"], row["ratio"], way, row["epochs"]), []).append(row)
    for (granularity, ratio, way, epochs), same in sorted(runs.items()):
        before = [row["before"] for row in same if row["before"] is not None]
        after = [row["after"] for row in same if row["after"] is not None]
        cells = [
            granularity,
            f"{ratio:g}",
            f"{statistics.mean(row['sparsity'] for row in same):.1%}",
            f"{statistics.mean(row['macs'] for row in same):.1%}",
            f"{WAYS[way]} ({epochs} epochs)",
            spread(before) if before else "",
            spread(after) if after else "",
            spread(row["after"] - row["dense"] for row in same) if after else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def so_far(rows: list[dict[str, Any]], numbers: Iterable[int] = (1, 5, 10, 20, 30, 40, 50)) -> str:
    """Return the validation error of the best of the first N masks, without retraining."""
    found = [row for row in rows if "scores" in row]
    lines = [f"| best of N | {' | '.join(map(str, numbers))} |", "| --- |" + " --- |" * len(list(numbers))]
    runs: dict[tuple[str, float], list[list[float]]] = {}
    for row in found:
        runs.setdefault((row["granularity"], row["ratio"]), []).append(row["scores"])
    for (granularity, ratio), curves in sorted(runs.items()):
        cells = [spread(min(curve[:n]) for curve in curves) for n in numbers]
        lines.append(f"| {granularity} {ratio:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Iterable[float]) -> str:
    values = list(values)
    mean = f"{100 * statistics.mean(values):.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
