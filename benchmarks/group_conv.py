"""How fast is a self-grouped network, next to the dense one, to naive masking, and to what the MACs promise?

On Linux, keep the allocator from giving memory back between passes, or page faults drown the small layers:

    export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

    python benchmarks/group_conv.py          # the 3x3 and 1x1 layers of ResNet-50, then the whole network
    python benchmarks/group_conv.py --sparsities 80 --batches 8 --out result.json

Times are of the evaluation forward, one thread: processor time of the shortest of many passes, the variants taking
turns, so that other work on the machine falls out (wall-clock time with several threads).
``ideal`` is the dense time times the share of MACs left;
``of ideal`` is the share of the ideal speed-up that is reached. Weights have as many planted groups as are asked
for, so that clusters come out about as balanced as filters that learned to share inputs.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, masked
from secateur.core.trace import trace
from secateur.core.zeros.blocks import BlockLayer
from secateur.measure import fastest
from secateur.methods.self_grouping import SelfGrouping

LAYERS = ((64, 56, 3), (128, 28, 3), (256, 14, 3), (512, 7, 3), (256, 56, 1), (1024, 14, 1))
SPARSITIES = (60, 70, 80, 90)
GROUPINGS = ((0, (1, 1)), (32, (32, 1)), (32, (32, 16)))  # the paper's 16 groups, then groups of 32 filters
Row = dict[str, Any]


def milliseconds(models: dict[str, nn.Module], x: Tensor, seconds: float) -> dict[str, float]:
    """Return the shortest pass of each model; they take turns."""
    times = dict.fromkeys(models, float("inf"))
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    with torch.inference_mode():
        for model in models.values():
            model(x)
        end = time.perf_counter() + seconds * len(models)
        while time.perf_counter() < end:
            for name, model in models.items():
                start = clock()
                model(x)
                times[name] = min(times[name], clock() - start)
    return {name: value * 1e3 for name, value in times.items()}


def plant(weight: Tensor, groups: int, generator: torch.Generator) -> None:
    """Give each of ``groups`` equal parts of the filters, shuffled, inputs of their own that it values."""
    rows, columns = weight.shape[:2]
    valued = torch.rand(groups, columns, generator=generator)
    member = (torch.arange(rows) % groups)[torch.randperm(rows, generator=generator)]
    weight *= valued[member].reshape(rows, columns, *[1] * (weight.dim() - 2))


def one_layer(
    channels: int, side: int, kernel: int, batch: int, groups: int, align: tuple[int, int], percent: int, seconds: float
) -> Row:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).eval()
    plant(layer.weight.data, groups, generator)
    model = nn.Sequential(layer)
    x = torch.randn(batch, channels, side, side)
    outs, ins = align
    method = SelfGrouping(percent, percent, groups, "once", stem=True, align=outs, align_inputs=ins, restarts=2)
    row = compare(model, x, method, seconds)
    return {
        "align": list(align),
        "layer": f"{kernel}x{kernel} {channels} @ {side}",
        "batch": batch,
        "groups": groups,
        **row,
    }


def compare(model: nn.Module, x: Tensor, method: SelfGrouping, seconds: float) -> Row:
    graph = trace(model, x[:1])
    plan = method.plan(Problem(model, graph, limits=Limits(multiple=1)))
    thin = apply(model, graph, plan)
    left = size(graph, plan).macs / size(graph).macs
    with masked(model, graph, plan):
        naive = copy.deepcopy(model)
    blocks, best = copy.deepcopy(thin), thin
    chosen = fastest(best, x, seconds=seconds / 4)
    models = {"dense": model, "masked": naive, "blocks": blocks, "chosen": best}
    times = milliseconds(models, x, seconds)
    ideal = times["dense"] * left
    return {
        "dropped": method.conv,
        "macs": left,
        **times,
        "in blocks": sum(execution == "blocks" for execution in chosen.values()) / max(1, len(chosen)),
        "ideal": ideal,
        "of ideal": ideal / times["chosen"],
    }


def whole_network(percent: int, groups: int, align: tuple[int, int], batch: int, seconds: float) -> Row:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model, generator = resnet50().eval(), torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            plant(module.weight.data, min(groups, module.out_channels // align[0]), generator)
    x = torch.randn(batch, 3, 224, 224)
    row = compare(
        model, x, SelfGrouping(percent, 60, groups, "once", align=align[0], align_inputs=align[1], restarts=1), seconds
    )
    return {"layer": "ResNet-50", "batch": batch, "groups": groups, "align": list(align), **row}


def where_time_goes(channels: int, side: int, groups: int, percent: int, batch: int) -> dict[str, float]:
    """Return the share of a block layer's time for each operator."""
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False).eval()
    plant(layer.weight.data, groups, torch.Generator().manual_seed(0))
    model, x = nn.Sequential(layer), torch.randn(batch, channels, side, side)
    graph = trace(model, x[:1])
    method = SelfGrouping(percent, percent, groups, "once", stem=True, restarts=2)
    thin = apply(model, graph, method.plan(Problem(model, graph, limits=Limits(multiple=1))))
    assert any(isinstance(module, BlockLayer) for module in thin.modules())
    with torch.inference_mode():
        thin(x)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(10):
                thin(x)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return {key: value / sum(times.values()) for key, value in sorted(times.items(), key=lambda i: -i[1])[:5]}


def show(row: Row) -> None:
    times = "  ".join(f"{name} {row[name]:8.2f}" for name in ("dense", "masked", "blocks", "chosen", "ideal"))
    groups = f"G={row['groups']:<3} of {row['align'][0]:>2}s reading {row['align'][1]:>2}s"
    print(
        f"{row['layer']:>16} x{row['batch']:<2} {groups} -{row['dropped']:.0f} %  MACs {row['macs']:5.1%}  {times} ms  "
        f"of ideal {row['of ideal']:5.1%}  layers in blocks {row['in blocks']:4.0%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsities", nargs="+", type=int, default=list(SPARSITIES), help="%% of the kernels dropped")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="images in a pass through a layer")
    parser.add_argument("--no-network", action="store_true", help="layers only")
    parser.add_argument("--seconds", type=float, default=0.5, help="to time each variant for, at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write; what is in it already is not repeated")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = json.loads(options.out.read_text("utf-8"))["rows"] if options.out and options.out.exists() else []
    there = {(row["layer"], row["batch"], tuple(row["align"]), row["dropped"]) for row in rows}
    for channels, side, kernel in LAYERS:
        for batch in options.batches:
            for width, align in GROUPINGS:
                groups = channels // width if width else 16
                for percent in options.sparsities:
                    if (f"{kernel}x{kernel} {channels} @ {side}", batch, align, percent) in there:
                        continue
                    rows.append(one_layer(channels, side, kernel, batch, groups, align, percent, options.seconds))
                    keep(options.out, rows, {})
    if not options.no_network:
        for percent in options.sparsities:
            for align in ((1, 1), (32, 16)):
                if ("ResNet-50", 1, align, percent) in there:
                    continue
                rows.append(whole_network(percent, 16, align, 1, options.seconds))
                keep(options.out, rows, {})
    profiles = {f"3x3 64 @ 56, G={groups}": where_time_goes(64, 56, groups, 80, 8) for groups in (2, 16)}
    for name, shares in profiles.items():
        print(f"{name}: " + ", ".join(f"{key} {share:.0%}" for key, share in shares.items()))
    keep(options.out, rows, profiles)


def keep(out: Path | None, rows: list[Row], profiles: dict[str, dict[str, float]]) -> None:
    """Show the last row and write what there is so far."""
    if not profiles:
        show(rows[-1])
    if out:
        text = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows, "profiles": profiles}
        out.write_text(json.dumps(text, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
