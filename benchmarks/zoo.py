"""Prune every network of a large zoo to half of its MACs and check the result, beside Torch-Pruning in the same run.

    pip install torch-pruning==1.6.1 torchvision timm
    python benchmarks/zoo.py --out zoo.jsonl            # resumable: networks that are in the file are not repeated
    python benchmarks/zoo.py --out zoo.jsonl --table    # the totals of what is there

The networks stand in ``zoo.toml``; weights are random, batch-norm statistics are drawn around those of the activations.
Each network runs in a process of its own with one thread and a time limit; seconds are those of the processor.
Secateur: trace, plan (L1 norm, the same share of every group), apply, and the largest relative difference between the
thin and the silenced network. Torch-Pruning: half of every width, its own way, with the layers that make the outputs
left alone; exactness is decided by zeroing in the dense network the weights that it removed.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import multiprocessing
import statistics
import time
import tomllib
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.limits import Limits
from secateur.core.problem import Problem
from secateur.core.size import Target, size
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import trace
from secateur.methods.magnitude import Magnitude

KEEP, WITHIN, EXACT = 0.5, 0.01, 1e-4
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "zoo.jsonl")
    parser.add_argument("--kinds", nargs="*", help="classification, segmentation, detection, video, cnn, hybrid, flow")
    parser.add_argument("--networks", nargs="*", help="names as in zoo.toml; default: all")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a network and a library")
    parser.add_argument("--alone", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--table", action="store_true", help="print the totals of what is there and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows = read(arguments.out)
    if not arguments.table:
        zoo = tomllib.loads((Path(__file__).parent / "zoo.toml").read_text())
        for kind in arguments.kinds or zoo:
            for name in zoo[kind]:
                row = rows.get(name, {"network": name, "kind": kind})
                if arguments.networks and name not in arguments.networks:
                    continue
                if complete(row, arguments.limit, arguments.alone):
                    rows[name] = row
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print(table(list(rows.values())))


def read(file: Path) -> dict[str, Row]:
    """Return what was written; the last line of a network counts."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {row["network"]: row for row in map(json.loads, lines)}


def complete(row: Row, limit: float, alone: bool) -> bool:
    """Run what is missing of a row; False if nothing was."""
    missing = [
        (who, work)
        for who, work in (("secateur", secateur), ("torch_pruning", torch_pruning))
        if who not in row and not (alone and who == "torch_pruning")
    ]
    for who, work in missing:
        row[who] = apart(work, row["kind"], row["network"], limit)
        print(f"{row['kind']:14s} {row['network']:42s} {who:13s} {line(row[who])}", flush=True)
    return bool(missing)


def line(found: Row) -> str:
    if "seconds" not in found:
        return f"{found.get('outcome', '')} {found.get('error', '')[:150]}"
    return (
        f"{found['outcome']:8s} keep {found.get('keep', 0):.3f} diff {found.get('difference', 0):.0e} "
        f"{found['seconds']:.2f} s {found['peak']:.0f} of {found['forward']:.0f} MiB"
    )


def apart(work: Callable[[str, str], Row], kind: str, name: str, limit: float) -> Row:
    """Run in a process of its own, so that a crash, a hang or a leak stays there."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=answer, args=(work, kind, name, sending))
    process.start()
    sending.close()
    try:
        found: Row = receiving.recv() if receiving.poll(limit) else {"outcome": "time", "error": f"over {limit:.0f} s"}
    except EOFError:
        found = {"outcome": "error", "error": "the process died"}
    process.kill()
    process.join()
    return found


def answer(work: Callable[[str, str], Row], kind: str, name: str, sending: Connection) -> None:
    try:
        sending.send(work(kind, name))
    except Exception as error:
        sending.send({"outcome": "error", "error": f"{type(error).__name__}: {error}"[:400]})


# -- the networks ----------------------------------------------------------------------------------------------


def network(kind: str, name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Build a network with lived-in batch-norm statistics, and inputs for it."""
    torch.manual_seed(0)
    source, _, short = name.partition(":")
    if source == "timm":
        import timm

        model = timm.create_model(short, pretrained=False)
        config = model.default_cfg
        fixed = config.get("fixed_input_size") or short.startswith(("bat_", "lambda_"))
        whole = kind == "hybrid" or fixed
        side = config["input_size"][1] if whole else 128
    else:
        import torchvision

        side = {"hybrid": 224, "detection": 320}.get(kind, 128)
        bare: dict[str, Any] = {"weights_backbone": None} if kind in ("segmentation", "detection") else {}
        if kind == "detection":  # or nothing would be left to compare
            bare |= {"box_score_thresh" if "rcnn" in short else "score_thresh": 0.0}
            bare |= {"box_detections_per_img": 20} if "rcnn" in short else {}
            bare |= {} if short.startswith("ssd") else {"min_size": side, "max_size": side}
        model = torchvision.models.get_model(short, weights=None, **bare)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and tiny constants of the initialisation would hide errors
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.copy_(parameter.clamp(min=0.1) + 0.1 * torch.randn_like(parameter))
    inputs = example(kind, short, side)
    live_in(model.eval(), inputs)
    return model, inputs


def live_in(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Give every batch norm statistics near those of the activations, but not theirs, so that none collapses."""

    def draw(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].transpose(0, 1).flatten(1)
        module.running_mean.copy_(x.mean(1) + 0.1 * x.std(1, correction=0) * torch.randn(len(x)))
        variance = x.var(1, correction=0).clamp(min=1e-6) if x.shape[1] > 1 else torch.ones(len(x))
        module.running_var.copy_(variance * torch.empty(len(x)).uniform_(0.5, 2))

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(draw) for norm in norms]
    run(model, inputs)
    for hook in hooks:
        hook.remove()


def example(kind: str, short: str, side: int) -> tuple[Any, ...]:
    if kind == "detection":
        return ([torch.rand(3, side, side)],)
    if kind == "flow":
        return (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
    if kind == "video" or short.startswith(("swin3d", "mvit_v")):
        frames, side = {"s3d": (16, 224), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}.get(short, (8, 64))
        return (torch.randn(1, 3, frames, side, side),)
    return (torch.randn(1, 3, side, side),)


# -- what is compared ------------------------------------------------------------------------------------------


def secateur(kind: str, name: str) -> Row:
    model, inputs = network(kind, name)
    warm_up()
    forward = peak_of(lambda: run(model, inputs))
    times: dict[str, float] = {}
    found: Row = {"forward": forward[1], "model": mebibytes(model)}

    def prune() -> tuple[Any, Any, nn.Module]:
        start = time.process_time()
        graph = trace(model, inputs)
        times["trace"] = time.process_time() - start
        found["reachable"] = graph.explain().reachable
        found["groups"], found["units"] = len(graph.groups), graph.units
        start = time.process_time()
        plan = Magnitude().plan(Problem(model, graph, Target(KEEP), limits=Limits(multiple=1)))
        times["plan"] = time.process_time() - start
        start = time.process_time()
        thin = apply(model, graph, plan)
        times["apply"] = time.process_time() - start
        return graph, plan, thin

    try:
        (graph, plan, thin), peak = peak_of(prune)
    except Exception as error:
        return {**found, **times, "outcome": "refused", "error": f"{type(error).__name__}: {error}"[:400]}
    result = verify(model, graph, plan, thin, inputs)
    keep = size(graph, plan).macs / size(graph).macs
    good = result.difference <= EXACT and KEEP - WITHIN <= keep <= KEEP
    outcome = "exact" if good else "size" if result.difference <= EXACT else "WRONG"
    return {
        **found, **times, "seconds": sum(times.values()), "peak": peak, "keep": keep,
        "difference": result.difference, "layer": result.layer, "outcome": outcome,
    }  # fmt: skip


def warm_up() -> None:
    """Load what the first pruning in a process loads: its memory belongs to no network."""
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Unflatten(1, (4, 36)), nn.Flatten(), nn.Linear(144, 2))
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(tiny, x)
    apply(tiny, graph, Magnitude().plan(Problem(tiny, graph, Target(KEEP), limits=Limits(multiple=1))))


def torch_pruning(kind: str, name: str) -> Row:
    import torch_pruning as tp

    model, inputs = network(kind, name)
    model, inputs = (
        model.double(),
        tuple(x.double() if isinstance(x, Tensor) else [y.double() for y in x] for x in inputs),
    )
    with torch.no_grad():
        for parameter in model.parameters():  # no two alike, so that each can be told by its value
            parameter.add_(torch.rand_like(parameter) * 1e-9)
    forward = peak_of(lambda: run(model, inputs))
    times: dict[str, float] = {}
    ends = outputs_of(kind, model, inputs)

    def prune() -> nn.Module:
        start = time.process_time()
        thin = copy.deepcopy(model)
        keep_whole = [new for old, new in zip(model.modules(), thin.modules(), strict=True) if old in ends]
        pruner = tp.pruner.MagnitudePruner(
            thin, inputs if len(inputs) > 1 or not isinstance(inputs[0], Tensor) else inputs[0],
            importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=keep_whole,
        )  # fmt: skip
        times["graph"] = time.process_time() - start
        pruner.step()
        times["prune"] = time.process_time() - start
        return thin

    thin, peak = peak_of(prune)
    found: Row = {**times, "seconds": times["prune"], "peak": peak, "forward": forward[1]}
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, thin))
    outputs = floats(run(thin, inputs))
    if before == after:
        return {**found, "outcome": "nothing"}
    silence(model, thin)
    expected = floats(run(model, inputs))
    same = [a.shape == b.shape for a, b in zip(expected, outputs, strict=True)]
    difference = max(
        (float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(expected, outputs, strict=True)),
        default=0.0,
    ) if all(same) else float("inf")  # fmt: skip
    outcome = "exact" if difference <= EXACT else "differs"
    return {**found, "outcome": outcome, "difference": difference, "params_kept": after / before}


def outputs_of(kind: str, model: nn.Module, inputs: tuple[Any, ...]) -> set[nn.Module]:
    """Return the layers that Torch-Pruning is told to leave alone, because their channels are answers.

    Networks with several answers get the benefit of all layers that Secateur knows to be pinned.
    """
    if kind in ("detection", "segmentation", "flow"):
        return {model.get_submodule(row.layer) for row in trace(model, inputs).explain().rows if not row.prunable}
    return {[m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]}


def floats(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def silence(dense: nn.Module, thin: nn.Module) -> None:
    """Zero the weights of the dense network that read an input which the thin one lost; found by their values."""
    left = dict(thin.named_parameters())
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            few = left.get(name)
            if few is None or weight.dim() < 2 or few.shape == weight.shape or few.shape[1] == weight.shape[1]:
                continue
            first = weight.reshape(*weight.shape[:2], -1)[:, :, 0]
            place = torch.isin(first, few.reshape(*few.shape[:2], -1)[:, :, 0])
            lost = ~place.any(0)
            weight[:, lost] = 0.0


# -- memory ----------------------------------------------------------------------------------------------------


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns, and by how many MiB the process grew at most, without the code that it loaded."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free already is not part of the growth, nor may it hide it
    start, code = memory("VmRSS"), memory("RssFile")
    Path("/proc/self/clear_refs").write_text("5")
    result = work()
    return result, max(0.0, memory("VmHWM") - start - (memory("RssFile") - code))


def memory(entry: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) / 1024 for text in lines if text.startswith(entry))


def mebibytes(model: nn.Module) -> float:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 2**20


# -- totals ----------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    lines = [
        "| kind | networks | Secateur: exact at half the MACs | refused | failed | wrong | Torch-Pruning: exact | "
        "out of time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        ours = [row["secateur"]["outcome"] for row in some]
        theirs = [row["torch_pruning"]["outcome"] for row in some if "torch_pruning" in row]
        refused, failed = (sum(ours.count(o) for o in some) for some in (("refused", "size"), ("error", "time")))
        lines.append(
            f"| {kind} | {len(some)} | {ours.count('exact')} | {refused} | {failed} | {ours.count('WRONG')} | "
            + (f"{theirs.count('exact')} of {len(theirs)} | {theirs.count('time')} |" if theirs else "not run | |")
        )
    ran = [row["secateur"] for row in rows if "seconds" in row["secateur"]]
    lines.append(f"\nSecateur, {len(ran)} networks: {seconds(ran)}; {over(ran)}.")
    both = [row for row in rows if row["secateur"]["outcome"] == row.get("torch_pruning", {}).get("outcome") == "exact"]
    if both:
        lines.append(
            f"Where both are exact ({len(both)} networks): Secateur {seconds([r['secateur'] for r in both])}; "
            f"Torch-Pruning {seconds([r['torch_pruning'] for r in both])}."
        )
    return "\n".join(lines)


def seconds(found: list[Row]) -> str:
    times = [row["seconds"] for row in found]
    return f"{statistics.median(times):.2f} s in the median, {max(times):.1f} s at most"


def over(found: list[Row]) -> str:
    """Say which networks need more memory than three times the model and one forward pass."""
    most = max(found, key=lambda row: row["peak"])
    many = [row for row in found if row["peak"] > 3 * row["model"] + row["forward"]]
    return (
        f"{most['peak']:.0f} MiB at most, more than three times the model and one forward pass on {len(many)} of them"
    )


if __name__ == "__main__":
    main()
