"""How many evaluations a search for pruning rates needs on a problem whose optimum is known.

    python benchmarks/allocation_search.py --json benchmarks/results/allocation_search.json
    python benchmarks/allocation_search.py --table benchmarks/results/allocation_search.json

The problem: layers of n weights and sensitivity s, both spread over two orders of magnitude, lose accuracy by
``s (1 - keep)^2``, and at most a share C of all weights may stay. The optimum follows from Lagrange's condition by
bisection. Every seed draws another problem. Counted are the evaluations until the loss of a choice that respects the
constraint has closed 90 % and 95 % of the gap between equal rates everywhere and the optimum; who has not got there
at the end counts as having needed all. The first trial is equal rates, the random starts are the same for all arms.

Arms: ``random`` search, Optuna's Gaussian process, and BoTorch's (both Matern 5/2 with one length scale per number, log
expected improvement, and with a constraint the chance that it holds). The size is known before a trial, so there is
more than one way to meet the constraint: ``learned`` leaves it to the Gaussian process, which may propose what is not
allowed; ``scaled`` tries what was proposed after scaling it to just the size allowed, and models no constraint.
``in fours`` proposes four points at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from secateur.search.bayesian.bayesian_optimization import (
    Box,
    Outcome,
    Point,
    Tried,
    gaussian_process,
    minimise,
    random_points,
)

GAPS = (0.90, 0.95)
KEEP = 0.3
LOW = 0.02


class Problem:
    """Layers that mind pruning differently."""

    def __init__(self, seed: int, layers: int) -> None:
        rng = np.random.default_rng([seed, layers])
        self.sizes = 10.0 ** rng.uniform(0, 2, layers)
        self.sizes /= self.sizes.sum()
        self.sensitivity = 10.0 ** rng.uniform(-2, 0, layers)
        self.equal = self.loss((KEEP,) * layers)
        self.best = self.loss(self.optimum())

    def loss(self, point: Sequence[float]) -> float:
        """Return what is lost."""
        return float((self.sensitivity * (1.0 - np.array(point)) ** 2).sum())

    def size(self, point: Sequence[float]) -> float:
        """Return the share of weights that stays."""
        return float((self.sizes * np.array(point)).sum())

    def optimum(self) -> Point:
        """Return the point with the smallest loss of the size allowed."""
        low, high = 0.0, 1e6
        for _ in range(200):
            price = (low + high) / 2
            keep = np.clip(1.0 - price * self.sizes / (2 * self.sensitivity), LOW, 1.0)
            low, high = (price, high) if self.size(keep) > KEEP else (low, price)
        return tuple(float(k) for k in keep)

    def fitted(self, point: Point) -> Point:
        """Scale a point to just the size allowed."""
        low, high = 0.0, 1.0 / min(point)
        for _ in range(60):
            middle = (low + high) / 2
            fits = self.size([min(1.0, middle * x) for x in point]) <= KEEP
            low, high = (middle, high) if fits else (low, middle)
        return tuple(min(1.0, low * x) for x in point)


def botorch(tried: Sequence[Tried], box: Box, seeds: Sequence[int], count: int) -> list[Point]:
    from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Normalize, Standardize
    from botorch.optim import optimize_acqf
    from botorch.utils.sampling import manual_seed
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    bounds = torch.tensor(list(box), dtype=torch.float64).T
    x = torch.tensor([t.point for t in tried], dtype=torch.float64)
    y = -torch.tensor([[t.outcome.value] for t in tried], dtype=torch.float64)

    def fitted(values: torch.Tensor) -> SingleTaskGP:
        dims = x.shape[1]
        model = SingleTaskGP(
            x,
            values,
            covar_module=ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=dims)),
            input_transform=Normalize(dims, bounds=bounds),
            outcome_transform=Standardize(1),
        )
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model

    with warnings.catch_warnings(), manual_seed(int(np.random.default_rng(list(seeds)).integers(2**31))):
        warnings.simplefilter("ignore")
        if tried[0].outcome.excess is None:
            wanted = LogExpectedImprovement(fitted(y), y.max())
        else:
            excess = torch.tensor([[t.outcome.excess] for t in tried], dtype=torch.float64)
            models = ModelListGP(fitted(y), fitted(excess))
            best = y[excess <= 0].max()
            wanted = LogConstrainedExpectedImprovement(models, best, 0, {1: (None, 0.0)})
        points, _ = optimize_acqf(wanted, bounds, q=1, num_restarts=10, raw_samples=512)
    return [tuple(float(v) for v in row) for row in points]


ARMS: dict[str, tuple[Callable[..., list[Point]], str, int]] = {
    "random, learned": (random_points, "learned", 1),
    "random, scaled": (random_points, "scaled", 1),
    "Optuna, learned": (gaussian_process, "learned", 1),
    "Optuna, scaled": (gaussian_process, "scaled", 1),
    "Optuna, scaled, in fours": (gaussian_process, "scaled", 4),
    "BoTorch, learned": (botorch, "learned", 1),
    "BoTorch, scaled": (botorch, "scaled", 1),
}


def run(arm: str, seed: int, layers: int, trials: int, starts: int) -> dict[str, object]:
    propose, way, batch = ARMS[arm]
    problem = Problem(seed, layers)

    def evaluate(points: Sequence[Point]) -> Iterator[Outcome]:
        for point in points:
            meant = problem.fitted(point) if way == "scaled" else point
            excess = problem.size(meant) - KEEP - 1e-9 if way == "learned" else None
            yield Outcome(problem.loss(meant), excess)

    cpu = time.process_time()
    tried = minimise(
        evaluate, [(LOW, 1.0)] * layers, trials=trials, starts=starts, batch=batch, seed=seed, propose=propose,
        first=[(KEEP,) * layers],
    )  # fmt: skip
    closed = [
        (problem.equal - t.outcome.value) / (problem.equal - problem.best) if t.feasible else float("-inf")
        for t in tried
    ]
    needed = {f"{gap:.0%}": next((i for i, c in enumerate(closed, 1) if c >= gap), None) for gap in GAPS}
    return {
        "arm": arm, "seed": seed, "layers": layers, "trials": trials, "starts": starts, "needed": needed,
        "closed": max(closed), "cpu_seconds": round(time.process_time() - cpu, 2),
    }  # fmt: skip


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    yield "| layers | arm | evaluations to 90 % | to 95 % (median) | seeds that got to 95 % | CPU s a proposal |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for layers in sorted({row["layers"] for row in rows}):  # type: ignore[type-var]
        for arm in ARMS:
            own = [row for row in rows if row["arm"] == arm and row["layers"] == layers]
            if not own:
                continue
            cells = [str(layers), arm]
            for gap in ("90%", "95%"):
                needed = [row["needed"][gap] or row["trials"] + 1 for row in own]  # type: ignore[index, operator]
                middle, most = statistics.median(needed), own[0]["trials"]
                cells.append(f"> {most}" if middle > most else f"{middle:g}")  # type: ignore[operator]
            there = sum(row["needed"]["95%"] is not None for row in own)  # type: ignore[index]
            cells.append(f"{there} of {len(own)}")
            asked = [row["cpu_seconds"] / (row["trials"] - row["starts"]) for row in own]  # type: ignore[operator]
            cells.append(f"{statistics.median(asked):.2g}")
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--layers", type=int, nargs="*", default=[6])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--json", type=Path, help="results; runs that are there already are not repeated")
    parser.add_argument("--table", type=Path, help="only print the table of these results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path: Path | None = arguments.table or arguments.json
    rows = json.loads(path.read_text()) if path and path.is_file() else []
    known = {(row["arm"], row["seed"], row["layers"]) for row in rows}
    for layers in [] if arguments.table else arguments.layers:
        for seed in range(arguments.seeds):
            for arm in arguments.arms:
                if (arm, seed, layers) in known:
                    continue
                rows.append(run(arm, seed, layers, arguments.trials, arguments.starts))
                print(rows[-1], flush=True)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    arguments.json.write_text(json.dumps(rows, indent=0))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
