"""What Ultralytics does with a network of its own beside running it: export it, and train it by its trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.surgery import relative_difference
from zoo_judge import duplicate, outputs_of

CLOSE = 1e-3  # relative; another runtime rounds elsewhere
LABELS = {
    "detect": "0 0.5 0.5 0.4 0.4",
    "segment": "0 0.3 0.3 0.7 0.3 0.7 0.7 0.3 0.7",
    "obb": "0 0.3 0.3 0.7 0.3 0.7 0.7 0.3 0.7",
    "pose": "0 0.5 0.5 0.4 0.4" + " 0.5 0.5 2" * 17,
}  # one thing in the middle of each picture, by task


def export(thin: nn.Module, inputs: Any) -> None:
    """Export to ONNX as Ultralytics does, run that by ONNX Runtime and compare with the fused network.

    Raises:
        RuntimeError: if the outputs differ.
    """
    import onnxruntime
    from ultralytics.engine.exporter import Exporter

    x = inputs[0]
    with tempfile.TemporaryDirectory() as folder:
        model = duplicate(thin)
        model.pt_path = str(Path(folder) / "thin.pt")
        model.task = _task(thin)
        options = {"format": "onnx", "imgsz": x.shape[-1], "batch": len(x), "simplify": False, "verbose": False}
        file = Exporter(overrides=options)(model=model)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    fused = duplicate(thin).fuse(verbose=False).eval()
    for module in fused.modules():
        if hasattr(module, "export"):
            module.export, module.format = True, "onnx"
    wanted = outputs_of(fused, inputs)
    wanted = wanted[0] if isinstance(wanted, (tuple, list)) else wanted
    difference = relative_difference(wanted, torch.from_numpy(found[0]))
    if difference > CLOSE:
        raise RuntimeError(f"differs by {difference:.1e} after the export")


def train(thin: nn.Module, inputs: Any) -> None:
    """Train for one epoch on four random pictures by the trainer of the network's task.

    Raises:
        RuntimeError: if no weight changed.
    """
    from ultralytics.models import yolo

    task, side = _task(thin), inputs[0].shape[-1]
    kinds = {
        "detect": yolo.detect.DetectionTrainer,
        "segment": yolo.segment.SegmentationTrainer,
        "obb": yolo.obb.OBBTrainer,
        "pose": yolo.pose.PoseTrainer,
        "classify": yolo.classify.ClassificationTrainer,
    }
    before = [parameter.detach().clone() for parameter in thin.parameters()]
    model = duplicate(thin)
    with tempfile.TemporaryDirectory() as folder:
        data = pictures(Path(folder), task, side, len(thin.names))
        trainer = kinds[task](
            overrides={
                "data": str(data), "imgsz": side, "epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "amp": False,
                "plots": False, "val": False, "verbose": False, "project": folder, "task": task, "model": "thin.yaml",
            }
        )  # fmt: skip
        trainer.model = model
        trainer.train()
    if all(torch.equal(a, b.detach()) for a, b in zip(before, trainer.model.parameters(), strict=True)):
        raise RuntimeError("no weight changed")


def _task(model: nn.Module) -> str:
    from ultralytics.nn.tasks import guess_model_task

    return guess_model_task(model)


def pictures(folder: Path, task: str, side: int, classes: int) -> Path:
    """Write four random pictures with labels, as the trainer of the task reads them; return what names them."""
    from torchvision.io import write_jpeg

    pictures = [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in range(4)]
    if task == "classify":
        for split in ("train", "val"):
            for number in range(classes):
                (folder / split / f"{number:04d}").mkdir(parents=True)
                write_jpeg(pictures[number % 4], str(folder / split / f"{number:04d}" / "0.jpg"))
        return folder
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number, picture in enumerate(pictures):
        write_jpeg(picture, str(folder / "images" / f"{number}.jpg"))
        (folder / "labels" / f"{number}.txt").write_text(LABELS[task] + "\n")
    names = "".join(f"  {number}: c{number}\n" for number in range(classes))
    points = "kpt_shape: [17, 3]\n" if task == "pose" else ""
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\ntrain: images\nval: images\n{points}names:\n{names}")
    return file
