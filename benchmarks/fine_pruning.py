"""Move a CIFAR-10 network to Fashion-MNIST and prune it: jointly, or after fine-tuning by rates set by hand.

    python benchmarks/fine_pruning.py --data fashion_mnist:DIR --weights DIR/resnet20-12fca82f.th --keeps 0.3 0.2 0.1
    python benchmarks/fine_pruning.py --table

ResNet-20 with the published CIFAR-10 weights gets a new classifier and a grey input; ``--images`` training images of
Fashion-MNIST are all it sees. Every arm takes the same number of optimizer steps on the same batches and ends with
the same share of nonzero weights (single weights; biases and norms always stay). These four also train for as many of
the steps at the final size, which all of them reach after five sixths of the part with pruning:

- ``joint``: ``fine_pruning`` as it is: three rounds of fine-tuning, Bayesian optimisation of the rate of each stage,
  and dynamic pruning, then fine-tuning with fixed masks.
- ``joint, equal``: the same with equal rates everywhere instead of the search. Beside ``joint``: what the search does.
- ``late dynamic``: fine-tuning, then dynamic pruning with equal rates and no rounds, then fine-tuning with fixed masks.
  Beside ``joint, equal``: what the rounds do.
- ``late once``: fine-tuning, then one cut with equal rates, then fine-tuning with fixed masks. Beside ``late dynamic``:
  what it does that weights may return.

Two more reach the final size at other times, so that beside the others they differ in the steps at that size as well:

- ``then, dynamic``: as ``late dynamic``, but after half of the part with pruning.
- ``then, once``: as ``late once``, but at its end, and at the same threshold mean + c * deviation in every layer.

Every run is one JSON file in ``--out``; those that exist are not repeated, and a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import hold
from secateur.core.trace import trace
from secateur.data import Data, from_arrays, load_data
from secateur.events import Event
from secateur.measure import count
from secateur.measure import quality as tested
from secateur.methods.fine_pruning import FinePruning
from secateur.models import build, transfer_weights
from secateur.run import prune
from secateur.training import Settings, fit

LAST = 0.999999  # of a part of the training: before its last step
LATE = 5 / 6  # when the last of three rounds chooses, if half of it is fine-tuning
ARMS: dict[str, dict[str, Any]] = {
    "joint": {},
    "joint, equal": {"trials": 1},
    "late dynamic": {"trials": 1, "adaptations": 1, "tune": LATE},
    "late once": {"trials": 1, "adaptations": 1, "tune": LAST},
    "then, dynamic": {"trials": 1, "adaptations": 1},
    "then, once": {"trials": 1, "adaptations": 1, "tune": LAST, "by": "deviation"},
}
EQUAL = ("joint", "joint, equal", "late dynamic", "late once")
TEST = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="fashion_mnist:DIR")
    parser.add_argument("--weights", type=Path, help="resnet20-12fca82f.th of akamaster/pytorch_resnet_cifar10")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fine_pruning")
    parser.add_argument("--arms", nargs="+", default=list(EQUAL), choices=list(ARMS))
    parser.add_argument("--keeps", nargs="+", type=float, default=[0.05])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=3400)
    parser.add_argument("--epochs", type=int, default=6, help="of the part with pruning, by six; half as many follow")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--judge", type=int, default=400, help="images that judge a candidate")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        if arguments.epochs % 6:
            parser.error("--epochs must be a multiple of 6, so that all arms come to their size at the end of an epoch")
        for keep in arguments.keeps:
            for seed in arguments.seeds:
                for arm in arguments.arms:
                    run(arguments, arm, keep, seed)
    print("\n".join(table(arguments.out)))


def small(spec: str, images: int, seed: int) -> Data:
    """Return a few images of a data set, drawn by the seed, and a fixed part of its test split."""
    whole = load_data(spec, seed=seed)
    parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for split, number in (("train", images), ("test", TEST)):
        x, y = zip(*itertools.islice(whole.batches(split, 200), number // 200), strict=True)
        parts[split] = torch.cat(x), torch.cat(y)
    return from_arrays(
        parts["train"], parts["test"], name=f"{whole.name}-{images}", mean=(0.0,), std=(1.0,), seed=seed,
        classes=whole.classes,
    )  # fmt: skip


def run(arguments: argparse.Namespace, arm: str, keep: float, seed: int) -> None:
    name = f"{arm.replace(', ', '-').replace(' ', '-')}-{keep:g}-{seed}"
    path, work = arguments.out / f"{name}.json", arguments.out / f".{name}"
    if path.exists():
        return
    data = small(arguments.data, arguments.images, seed)
    torch.manual_seed(seed)
    model = build("resnet20", classes=data.classes, channels=1)
    transfer_weights(model, arguments.weights, data.example())
    options = {"granularity": "weights", "per": "stage", "adaptations": 3, "trials": arguments.trials} | ARMS[arm]
    method = FinePruning(images=arguments.judge, **options)
    common = Settings(
        batch_size=64, lr=0.02, weight_decay=1e-4, augment="none", precision="float32", memory_format="channels_last",
        compile="off", schedule="constant",
    )  # fmt: skip
    shape = dataclasses.replace(common, epochs=arguments.epochs)
    train = dataclasses.replace(common, epochs=arguments.epochs // 2, schedule="cosine")
    started, cpu = time.perf_counter(), time.process_time()
    last = train
    if arm == "late once":  # the rest of the part with pruning is trained with fixed masks, at the same rate
        shape = dataclasses.replace(common, epochs=round(LATE * arguments.epochs))
        train = dataclasses.replace(common, epochs=arguments.epochs - shape.epochs)
    result = prune(
        model, None, method, Target(keep, "nonzero"), data, shape=shape, train=train, seed=seed, latency=False,
        limits=Limits(multiple=1), repair=(), work=work, tell=tell,
    )  # fmt: skip
    assert result.middle is not None
    cut, after = accuracy(result.middle.quality), accuracy(result.after.quality)
    if arm == "late once":
        graph = trace(result.model, data.example())  # no unit is gone, so the plan is of this network too
        fixed = hold(result.model, graph, result.plans[-1])
        fit(result.model, data, last, shaper=fixed, checkpoint=work / "last.ckpt", seed=seed + 1, tell=tell)
        cut, after = after, accuracy(tested(result.model, data.batches("test")))
        assert count(result.model, data.example()).nonzero == result.after.counts.nonzero
    row = {
        "arm": arm, "keep": keep, "seed": seed, "images": data.size("train"), "judge": arguments.judge,
        "epochs": [arguments.epochs, last.epochs], "method": dataclasses.asdict(method),
        "nonzero": result.after.counts.nonzero, "params": result.after.counts.params,
        "cut": cut, "after": after,
        "searches": [search.to_dict() for search in result.searches],
        "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu, "torch": torch.__version__,
    }  # fmt: skip
    path.write_text(json.dumps(row) + "\n")
    shutil.rmtree(work, ignore_errors=True)


def tell(event: Event) -> None:
    if event.stage == "train" and event.text:
        print(event.text, flush=True)


def accuracy(found: Any) -> float:
    return float(found.value)


def table(out: Path) -> Iterator[str]:
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    yield "| nonzero weights kept | arm | seeds | accuracy before the last fine-tuning | accuracy | CPU s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for keep in sorted({row["keep"] for row in rows}):
        for arm in ARMS:
            own = [row for row in rows if row["arm"] == arm and row["keep"] == keep]
            if not own:
                continue
            share = statistics.mean(row["nonzero"] / row["params"] for row in own)
            seconds = statistics.mean(row["cpu_seconds"] for row in own)
            cells = [f"{share:.2%}", arm, str(len(own)), spread(own, "cut"), spread(own, "after"), f"{seconds:.0f}"]
            yield "| " + " | ".join(cells) + " |"


def spread(rows: list[dict[str, Any]], name: str) -> str:
    values = [100 * row[name] for row in rows]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


if __name__ == "__main__":
    main()
