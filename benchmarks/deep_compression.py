"""Pruned networks on real digits encoded in few bytes, and accuracy against operations on bits.

    python benchmarks/deep_compression.py
    python benchmarks/deep_compression.py --table

``encoded``: LeNet-5 and LeNet-300-100 on mnist5k are trained, pruned by ``weight_magnitude`` in three rounds, tuned and
written by ``secateur.encoding``; accuracies are of test images, bytes those of the file. ``quantised``: the network of
Hawks et al. (16-64-32-32-5) on a table of 16 features, drawn as their jets cannot be had, and LeNet-300-100 on the
digits, are pruned by ``quantised_pruning`` to a fifth with 32, 8, 6 and 4 bits in all layers; accuracies are of test
examples with weights and inputs of layers rounded.

Every run is a row of ``--out``; those that are there are not repeated. One thread, a few minutes in all.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import make_classification
from torch import nn

from row_files import append, read
from secateur import Problem, Settings, Target, build, fit, from_arrays, load_data, prune, trace
from secateur.data import Data
from secateur.encoding import Encoding, decode, encode
from secateur.measure import quality
from secateur.measure.bit_operations import bit_operations
from secateur.measure.machine import processor
from secateur.methods.quantised_pruning import QuantisedPruning
from secateur.methods.weight_magnitude import WeightMagnitude

KEEPS = {"lenet5": 0.075, "lenet300": 0.09}
QUALITIES = {"lenet5": (("conv2", 0.8), ("fc2", 0.6)), "lenet300": (("3", 0.9), ("5", 0.5))}
BITS = (32, 8, 6, 4)


def lenet300() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def jet() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 5),
    )  # fmt: skip


def jets(seed: int) -> Data:
    x, y = make_classification(
        9000, 16, n_informative=12, n_redundant=4, n_classes=5, n_clusters_per_class=2, class_sep=1.5, random_state=seed
    )
    x = ((x - x.mean(0)) / x.std(0)).astype("float32").reshape(-1, 1, 4, 4)
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 5000), (7000, 9000), (5000, 7000))]
    return from_arrays(*parts, name="jets", classes=5, mean=(0.0,), std=(1.0,), layout="NCHW")


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return {"lenet5": lambda: build("lenet5", classes=10, channels=1), "lenet300": lenet300, "jet": jet}[name]()


def settings(epochs: int, lr: float, **more: Any) -> Settings:
    return Settings(**{"epochs": epochs, "lr": lr, "batch_size": 64, "optimizer": "adamw", "augment": "none",
                       "precision": "float32", "memory_format": "contiguous", "compile": "off", **more})  # fmt: skip


def accuracy(model: nn.Module, data: Data) -> float:
    return quality(model, data.batches("test"), data.task).value


def encoded(name: str, seed: int) -> dict[str, Any]:
    start, data = time.process_time(), load_data("mnist5k", seed=seed)
    dense = network(name, seed)
    fit(dense, data, settings(8, 1e-3), seed=seed)
    keep = KEEPS[name]
    method = WeightMagnitude(qualities=QUALITIES[name])
    result = prune(
        dense, None, method, Target(keep, "nonzero"), data, repair=(), latency=False, answers=False,
        shape=settings(15, 1e-3, schedule="constant"), train=settings(10, 1e-3), seed=seed, progress=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        coding = Encoding()
        made = encode(result.model, path, coding, data=data, train=settings(1, 1e-4, schedule="constant"), seed=seed)
        again = decode(path, network(name, seed))
        exact = all(torch.equal(one, made.model.state_dict()[key]) for key, one in again.state_dict().items())
    row = {
        "dense": accuracy(dense, data), "pruned": accuracy(result.model, data), "encoded": accuracy(again, data),
        "keep": keep, "float32_bytes": made.dense_size, "bytes": made.size, "rate": made.rate,
        "rate_before_huffman": made.shared_rate, "exact": exact,
        "layers": {layer.name: [layer.left / layer.weights, layer.bits, layer.written] for layer in made.layers},
    }  # fmt: skip
    return {"what": "encoded", "network": name, "seed": seed, **row, "cpu_s": time.process_time() - start}


def quantised(name: str, seed: int, bits: int, regime: Any, keep: float) -> dict[str, Any]:
    start = time.process_time()
    data = jets(seed) if name == "jet" else load_data("mnist5k", seed=seed)
    model = network(name, seed)
    method = QuantisedPruning(bits=bits, ends=bits, regime=regime, rounds=4)
    asked = Problem(copy.deepcopy(model), trace(model, data.example()), Target(keep, "nonzero"))
    epochs = 20 if name == "jet" else 10
    if keep < 1.0:
        with method.shaping(asked) as shaper:
            fit(asked.model, data, settings(epochs, 2e-3, schedule="constant"), shaper=shaper, seed=seed)
            found = accuracy(asked.model, data)
    else:
        fit(asked.model, data, settings(epochs, 2e-3, schedule="constant"), seed=seed)
        found = accuracy(asked.model, data)
    operations = bit_operations(asked.model, data.example(), bits, bits)
    row = {"bits": bits, "regime": regime, "keep": keep, "accuracy": found, "after": accuracy(asked.model, data)}
    return {"what": "quantised", "network": name, "seed": seed, **row, "bit_operations": operations,
            "cpu_s": time.process_time() - start}  # fmt: skip


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("what", "network", "seed", "bits", "regime", "keep"))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| network | dense % | pruned % | encoded % | bytes | of float32 | rate | before Huffman |",
        "|" + " --- |" * 8,
    ]
    for row in rows:
        if row["what"] == "encoded":
            shares = [f"{100 * row[each]:.1f}" for each in ("dense", "pruned", "encoded")]
            numbers = [f"{row['bytes']:,}", f"{row['float32_bytes']:,}", f"{row['rate']:.1f}x"]
            lines.append(f"| {' | '.join([row['network'], *shares, *numbers])} | {row['rate_before_huffman']:.1f}x |")
    lines += ["", "| network | bits | kept | regime | accuracy % | bit operations |", "|" + " --- |" * 6]
    for row in rows:
        if row["what"] == "quantised":
            lines.append(
                f"| {row['network']} | {row['bits']} | {row['keep']} | {row['regime']} | {100 * row['accuracy']:.1f} | "
                f"{row['bit_operations'] / 1e3:,.0f} k |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deep_compression.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the tables of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        seed, done = arguments.seed, {key(row) for row in read(arguments.out, key)}
        for name, keep in KEEPS.items():
            if ("encoded", name, seed, None, None, keep) not in done:
                append(arguments.out, {**encoded(name, seed), "processor": processor()})
        cases = [(bits, "tune", 0.2) for bits in BITS] + [(6, "lottery", 0.2), (32, "tune", 1.0)]
        for name in ("jet", "lenet300"):
            for bits, regime, keep in cases:
                if ("quantised", name, seed, bits, regime, keep) not in done:
                    append(arguments.out, {**quantised(name, seed, bits, regime, keep), "processor": processor()})
    print(table(read(arguments.out, key)))


if __name__ == "__main__":
    main()
