"""Time a strided convolution, computed as a smaller matrix product, beside the dense one in the same run.

    python benchmarks/strided_conv.py

One thread, medians of interleaved repeats. ``dense`` is the framework's own convolution, which zeros do not make
faster; ``lowered`` is a dense convolution computed in the same way as the strided one, from all positions.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from secateur.core.patterns import stride_mask
from secateur.core.strided import StridedConv2d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("maps  side kernel stride  kept   dense ms  lowered ms  strided ms  to dense  to lowered")
    for maps, side, kernel in ((16, 32, 3), (64, 16, 3), (128, 16, 3), (256, 8, 3), (64, 16, 5), (128, 16, 5)):
        for stride in (2, 3):
            measure(maps, side, kernel, stride, arguments.repeats)


def measure(maps: int, side: int, kernel: int, stride: int, repeats: int) -> None:
    dense = nn.Conv2d(maps, maps, kernel, padding=kernel // 2, bias=False)
    offsets = torch.randint(stride, (maps,), generator=torch.Generator().manual_seed(0)).tolist()
    mask = torch.stack([stride_mask((kernel, kernel), stride, offset) for offset in offsets])
    mask = mask.expand(maps, maps, kernel, kernel)
    ways = [dense, StridedConv2d(dense, torch.ones_like(mask)), StridedConv2d(dense, mask)]
    x = torch.randn(16, maps, side, side)
    times: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        for _ in range(repeats + 2):
            for way, taken in zip(ways, times, strict=True):
                start = time.perf_counter()
                way(x)
                taken.append(time.perf_counter() - start)
    one, two, three = (1e3 * statistics.median(taken[2:]) for taken in times)
    kept = float(mask.float().mean())
    print(f"{maps:4d} {side:5d} {kernel:6d} {stride:6d} {kept:5.2f} {one:10.2f} {two:11.2f} {three:11.2f} "
          f"{one / three:8.2f}x {two / three:9.2f}x", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
