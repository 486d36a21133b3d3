"""Reads twenty ONNX files, prunes each to half of its MACs, writes it back and proves it in ONNX Runtime.

    python benchmarks/onnx_in.py FOLDER [--only TEXT]
    python benchmarks/onnx_in.py FOLDER --cifar DIR --weights resnet20-12fca82f.th

The files are made in FOLDER by ``onnx_in_files.py``. Rows go to ``results/onnx_in.jsonl``. With ``--cifar`` it is
ResNet-20 alone, with published weights at 0.7 of the MACs, and its right answers on the 10,000 test images, dense and
pruned, as ONNX Runtime gives them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from onnx_in_files import make
from provenance import versions
from row_files import append
from secateur import load_data, prune
from secateur.errors import SecateurError, first_line
from secateur.export import export_onnx
from secateur.models import OnnxNetwork, from_onnx
from secateur.models.onnx_files.agreement import agree

RESULTS = Path(__file__).parent / "results" / "onnx_in.jsonl"
CIFAR10 = "cifar10"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--cifar", type=Path, help="folder with cifar-10-batches-py")
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    only = "cifar-resnet20" if given.cifar else given.only
    for path in make(given.folder, given.weights, only):
        if only in path.name:
            row = of_cifar(path, given.cifar) if given.cifar else of_file(path)
            append(RESULTS, {**row, "versions": versions("onnx", "onnxruntime", "onnx2torch")})
            print(row, flush=True)


def of_file(path: Path) -> dict[str, Any]:
    """Return the row of one file, pruned to half by reconstruction from random images."""
    file = onnx.load(str(path))
    row: dict[str, Any] = {
        "file": path.stem,
        "opset": file.opset_import[0].version,
        "operators": len({node.op_type for node in file.graph.node}),
        "onnx2torch_alone": _alone(path),
    }
    start = time.perf_counter()
    try:
        model = from_onnx(path)
        row["read"] = agree(model, file, model.interface, path.name)
        shape = model.interface.shapes[0][1:]
        images = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(1))
        row |= _pruned(path, model, images, 0.5)
    except SecateurError as error:
        row |= {"holds": False, "why": str(error)}
    return {**row, "seconds": time.perf_counter() - start}


def of_cifar(path: Path, folder: Path) -> dict[str, Any]:
    """Return the row of ResNet-20 with published weights, pruned by 1,000 training images without their labels."""
    data = load_data(f"{CIFAR10}:{folder}", mean=MEAN, std=STD)
    images = next(iter(data.batches("val", 1000)))[0]
    model = from_onnx(path)
    row = {"file": path.stem, "images": len(images), "dense_accuracy": _accuracy(path, data)}
    row |= _pruned(path, model, images, 0.7)
    return {**row, "accuracy": _accuracy(path.with_name(f"thin-{path.name}"), data)}


def _pruned(path: Path, model: OnnxNetwork, images: Tensor, keep: float) -> dict[str, Any]:
    """Prune, write beside the file, and compare what was written with the thin network in ONNX Runtime."""
    result = prune(model, images[:1], "reconstruction", keep, calibrate=images, latency=False, progress=False)
    thin = path.with_name(f"thin-{path.name}")
    written = export_onnx(result.deploy(time=False), images[:2], thin, reference=result.model)
    before, after = onnx.load(str(path)), onnx.load(str(thin))
    named = _names(before) == _names(after)
    macs = result.after.counts.macs / result.before.counts.macs
    return {
        "keep": macs,
        "verified": result.verification,
        "repaired_layers": sum(repair.layers for repair in result.repairs),
        "written": written.difference,
        "written_opset": after.opset_import[0].version,
        "same_names": named,
        "dynamic_batch": written.dynamic_batch,
        "bytes": [path.stat().st_size, thin.stat().st_size],
        "holds": named and written.dynamic_batch and macs <= keep and result.verification < 1e-5,
    }


def _names(model: Any) -> tuple[list[str], list[str]]:
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in held]
    return inputs, [value.name for value in model.graph.output]


def _alone(path: Path) -> str:
    """Return what onnx2torch makes of a file by itself: nothing if all is well."""
    from onnx2torch import convert

    try:
        model = convert(str(path)).eval()
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        x = np.random.default_rng(0).normal(size=[s if isinstance(s, int) else 2 for s in given.shape])
        feed = {given.name: x.astype(np.float32)}
        with torch.no_grad():
            made = model(torch.from_numpy(feed[given.name]))
        outputs = [made] if isinstance(made, Tensor) else list(made)
        for found, wanted in zip(outputs, session.run(None, feed), strict=True):
            worst = float(np.abs(found.numpy() - wanted).max() / np.abs(wanted).max())
            if not worst < 1e-4:
                return f"differs by {worst:.1e}"
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _accuracy(path: Path, data: Any) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, right, seen = session.get_inputs()[0].name, 0, 0
    for images, labels in data.batches("test", 500):
        (scores,) = session.run(None, {name: images.numpy()})
        right += int((scores.argmax(1) == labels.numpy()).sum())
        seen += len(labels)
    return right / seen


if __name__ == "__main__":
    main()
