"""Every family of networks that Ultralytics ships, through ``integrations/ultralytics_prune.py``.

    pip install ".[export]" ultralytics
    python benchmarks/ultralytics_families.py --out benchmarks/results/ultralytics.jsonl
    python benchmarks/ultralytics_families.py --out benchmarks/results/ultralytics.jsonl --table

The smallest network of each family and task with random weights, and batch-norm statistics of random images, is pruned
to half of its MACs with widths at multiples of 8, saved and loaded again, fused, exported to ONNX and run there, and
trained for an epoch on four pictures with labels. Fused networks are compared in float64 where float32 says more than
rounding, and where an exported file says so, the row has how far that of the dense network is from it. A row that is
there is kept; ``--networks`` makes some anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing is downloaded
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
sys.path.insert(0, str(Path(__file__).parents[1] / "integrations"))

import torch
from torch import Tensor, nn

import row_files
import ultralytics_prune as integration
from secateur.core.surgery import relative_difference
from secateur.errors import SecateurError, first_line
from zoo_networks import live_in, tell_apart
from zoo_ultralytics import LABELS, pictures

NETWORKS = [
    "yolov3-tiny", "yolov5n", "yolov5n-p6", "yolov6n", "yolov8n", "yolov8n-p2", "yolov8n-p6", "yolov8n-ghost",
    "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolov9t", "yolov9c-seg", "yolov10n", "yolo11n",
    "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls", "yolo11-cls-resnet18", "yolo12n", "yolo12n-seg",
    "yolo12n-pose", "yolo12n-obb", "yolo12n-cls", "yolo26n", "yolo26n-p2", "yolo26n-p6", "yolo26n-seg",
    "yolo26n-pose", "yolo26n-obb", "yolo26n-cls", "yolo26n-sem", "yolo26n-depth", "yolov8n-rtdetr", "rtdetr-l",
    "rtdetr-resnet50", "yolov8s-world", "yolov8s-worldv2", "yoloe-v8s", "yoloe-11s", "yoloe-11s-seg", "yoloe-26n",
]  # fmt: skip
KEEP = 0.5
ROUNDING = 1e-3  # a detector that chooses queries by their scores may choose others after an error in the last digit
COLUMNS = ("network", "task", "MACs", "parameters", "exact to", "loaded", "fused", "ONNX", "trained")


def judged(name: str) -> dict[str, Any]:
    """Prune one network and try all that Ultralytics does with it; what fails stands in the place of its number."""
    side = 192 if name.endswith("-p6") else 160  # a multiple of the largest stride
    torch.manual_seed(0)
    model = integration.opened(f"{name}.yaml")
    dense, images = model.model.eval(), torch.rand(2, 3, side, side)
    live_in(dense, (images,))
    tell_apart(dense)
    row: dict[str, Any] = {"network": name, "task": model.task, "kind": type(model).__name__, "side": side}
    try:
        result = integration.pruned(model, KEEP, side=side, latency=False, repair=())
    except SecateurError as error:
        return row | {"outcome": str(error)}
    before, after = result.before.counts, result.after.counts
    row |= {"macs": [before.macs, after.macs], "params": [before.params, after.params], "exact": result.verification}
    own = integration.predicted(model.model, images)
    row["effect"] = relative_difference(integration.predicted(dense, images), own)
    row["varies"] = relative_difference([part[:1] for part in own], [part[1:] for part in own])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "thin.pt"

        def loaded() -> float:
            again = integration.opened(integration.saved(model, file))
            return relative_difference(own, integration.predicted(again.model, images))

        row["loaded"], row["fused"] = attempt(loaded), attempt(lambda: fused(model.model, images))
        row["exported"] = attempt(lambda: integration.exported(model, Path(folder) / "thin.onnx", side))
        if isinstance(row["exported"], float) and row["exported"] > ROUNDING:
            model.model, thin = dense, model.model
            row["exported_dense"] = attempt(lambda: integration.exported(model, Path(folder) / "dense.onnx", side))
            model.model = thin
        row["trained"] = attempt(lambda: trained(file, Path(folder), side))
    return row | {"outcome": "pruned"}


def fused(thin: nn.Module, images: Tensor) -> float:
    """Return how far a fused network is from the network; in float64 where rounding decides what is chosen."""
    found = relative_difference(
        integration.predicted(thin, images), integration.predicted(deepcopy(thin).fuse(verbose=False), images)
    )
    if found <= ROUNDING:
        return found
    return fused(deepcopy(thin).double(), images.double()) if images.dtype == torch.float32 else found


def trained(file: Path, folder: Path, side: int) -> str:
    """Train the saved network for an epoch; return "ok".

    Raises:
        RuntimeError: if the widths are not those of before, or no weight changed.
    """
    model = integration.opened(file)
    if model.task not in LABELS and model.task != "classify":
        return "no labels here"
    sorts = model.task == "classify"  # into few classes, for which Ultralytics puts another last layer there
    before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
    data = pictures(folder, model.task, side, 4 if sorts else len(model.model.names))
    how = {"batch": 4, "amp": False, "plots": False, "device": "cpu", "project": str(folder), "warmup_epochs": 0}
    integration.fine_tuned(model, data, epochs=1, side=side, **how)
    after = dict(model.model.named_parameters())
    if any(value.shape != after[name].shape for name, value in before.items() if not (sorts and ".linear." in name)):
        raise RuntimeError("the widths are others than before")
    if all(torch.equal(value.half().float(), after[name].float()) for name, value in before.items()):
        raise RuntimeError("no weight changed")
    return "ok"


def attempt(work: Callable[[], Any]) -> Any:
    """Return what comes out, or what went wrong, in words."""
    try:
        torch.manual_seed(0)
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"[:300]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in rows:
        if row["outcome"] != "pruned":
            lines.append((row["network"], row["task"], row["outcome"], *[""] * (len(COLUMNS) - 3)))
            continue
        sizes = (f"{old / 1e6:,.{digits}f} → {new / 1e6:,.{digits}f} M" for old, new, digits in _sizes(row))
        numbers = [_written(row[name]) for name in ("exact", "loaded", "fused", "exported", "trained")]
        if "exported_dense" in row:
            numbers[3] += f" (dense {_written(row['exported_dense'])})"
        lines.append((row["network"], row["task"], *sizes, *numbers))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _sizes(row: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(*row["macs"], 0), (*row["params"], 2)]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    import ultralytics

    return {"torch": torch.__version__, "ultralytics": ultralytics.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of rows, one JSON object a line")
    parser.add_argument("--networks", nargs="*", default=(), help="these alone, also where there is a row")
    parser.add_argument("--table", action="store_true", help="print the rows that are there, and make none")
    asked = parser.parse_args()
    there = row_files.read(asked.out, lambda row: row["network"])
    if asked.table:
        print(table(sorted(there, key=lambda row: NETWORKS.index(row["network"]))))
        return
    done = {row["network"] for row in there}
    for name in asked.networks or [each for each in NETWORKS if each not in done]:
        try:
            row = judged(name)
        except Exception as error:  # a row says so, and the others go on
            row = {"network": name, "task": "", "outcome": f"{type(error).__name__}: {first_line(error)}"[:300]}
        row_files.append(asked.out, row | {"versions": versions()})
        print(row, flush=True)


if __name__ == "__main__":
    main()
