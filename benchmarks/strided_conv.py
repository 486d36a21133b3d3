"""Which zeros make a convolution faster on this machine: regular positions, and whole kernels in any pattern.

    python benchmarks/strided_conv.py --json benchmarks/results/strided_conv.json

One thread, medians of repeats in turns, in processor time, so that a busy machine disturbs little.

*Strided*: positions of the kernels are dropped, the same ones for all kernels that leave an input map, and
``StridedConv2d`` multiplies what is left; beside it the framework's own convolution, which zeros do not make faster.

*Free kernels*: any kernels are zero, and the weight is multiplied as a sparse matrix (CSR, of torch and of scipy) with
the patches of the input; the break-even is the share of zero kernels at which the fastest of these routes takes as
long as the framework's own convolution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.core.zeros.patterns import stride_mask
from secateur.core.zeros.strided import StridedConv2d
from secateur.measure.machine import processor

SHAPES = ((16, 32, 3), (64, 16, 3), (128, 16, 3), (256, 8, 3), (64, 16, 5), (128, 16, 5))
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse CSR")
    rows: list[dict[str, Any]] = []
    print("batch maps side kernel  zeros      share  dense ms  other ways ms           gain")
    for batch in arguments.batches:
        for maps, side, kernel in SHAPES:
            x = torch.randn(batch, maps, side, side, generator=torch.Generator().manual_seed(1))
            about = {"batch": batch, "maps": maps, "side": side, "kernel": kernel}
            rows += [about | strided(x, kernel, stride, arguments.repeats) for stride in (2, 3, kernel * kernel)]
            found = [about | free(x, kernel, share, arguments.repeats) for share in SHARES]
            rows += [*found, about | {"zeros": "kernels", "break_even": break_even(found)}]
            for row in rows[-len(SHARES) - 4 :]:
                show(row)
            if arguments.json:
                machine = {"processor": processor(), "threads": 1, "torch": torch.__version__}
                arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def strided(x: Tensor, kernel: int, stride: int, repeats: int) -> dict[str, Any]:
    """Time the dense and the smaller product of a strided pattern; 1 of every ``stride`` positions is kept."""
    maps = x.shape[1]
    dense = nn.Conv2d(maps, maps, kernel, padding=kernel // 2, bias=False).eval()
    offsets = torch.randint(stride, (maps,), generator=torch.Generator().manual_seed(0)).tolist()
    mask = torch.stack([stride_mask((kernel, kernel), stride, offset) for offset in offsets])
    with torch.inference_mode():
        dense.weight.data.mul_(mask)
    thin = nn.Conv2d(maps, maps, kernel, padding=kernel // 2, bias=False).eval()
    thin.load_state_dict(dense.state_dict())
    StridedConv2d.take(thin)
    thin.execution = "strided"  # type: ignore[assignment]
    one, two = timed([lambda: dense(x), lambda: thin(x)], repeats)
    return {
        "zeros": "strided",
        "share": 1.0 - float(mask.float().mean()),
        "dense_ms": one,
        "strided_ms": two,
        "gain": one / two,
    }


def free(x: Tensor, kernel: int, share: float, repeats: int) -> dict[str, Any]:
    """Time the dense convolution and sparse products, with a share of the kernels zero in any pattern."""
    maps = x.shape[1]
    rng = torch.Generator().manual_seed(0)
    keep = torch.rand(maps, maps, generator=rng) >= share
    weight = torch.randn(maps, maps, kernel, kernel, generator=rng) * keep[:, :, None, None]
    flat = weight.flatten(1)
    csr, scipy_csr = flat.to_sparse_csr(), sp.csr_matrix(flat.numpy())

    def patches() -> Tensor:
        return F.unfold(x, kernel, padding=kernel // 2).transpose(0, 1).flatten(1)

    ways: list[Callable[[], object]] = [
        lambda: F.conv2d(x, weight, padding=kernel // 2),
        lambda: csr @ patches(),
        lambda: scipy_csr @ patches().numpy(),
    ]
    one, two, three = timed(ways, repeats)
    return {
        "zeros": "kernels",
        "share": share,
        "dense_ms": one,
        "torch_csr_ms": two,
        "scipy_csr_ms": three,
        "gain": one / min(two, three),
    }


def break_even(rows: list[dict[str, Any]]) -> float | None:
    """Return the share of zeros at which the gain reaches 1, between the measured ones; None if none does."""
    for before, after in zip([None, *rows], rows, strict=False):
        if after["gain"] >= 1.0:
            if before is None:
                return float(after["share"])
            part = (1.0 - before["gain"]) / (after["gain"] - before["gain"])
            return float(before["share"] + part * (after["share"] - before["share"]))
    return None


def timed(ways: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median processor time of each way in milliseconds, in turns."""
    times: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        for _ in range(repeats + 2):
            for way, taken in zip(ways, times, strict=True):
                start = time.process_time()
                way()
                taken.append(1e3 * (time.process_time() - start))
    return [statistics.median(taken[2:]) for taken in times]


def show(row: dict[str, Any]) -> None:
    """Print one measurement."""
    place = f"{row['batch']:5d} {row['maps']:4d} {row['side']:4d} {row['kernel']:6d}  {row['zeros']:8s}"
    if "break_even" in row:
        text = "none below 98 %" if row["break_even"] is None else f"{row['break_even']:.0%}"
        print(f"{place} break-even {text}", flush=True)
        return
    others = "  ".join(f"{row[name]:.2f}" for name in ("strided_ms", "torch_csr_ms", "scipy_csr_ms") if name in row)
    print(f"{place} {row['share']:7.0%} {row['dense_ms']:9.2f}  {others:22s} {row['gain']:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
