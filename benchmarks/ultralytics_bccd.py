"""A detector of Ultralytics on blood cells: dense, cut, and fine-tuned.

    pip install ".[export]" ultralytics
    python benchmarks/ultralytics_bccd.py --data BCCD --work DIR

``BCCD`` is a folder with ``images`` and ``train.json``, ``val.json``, ``test.json`` as COCO has them. The dense network
is trained from random weights (``DIR/dense.pt``, taken if it is there), pruned without images and with them, and each
thin network is fine-tuned for a few epochs; mAP is that of Ultralytics' own validation on the test images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ultralytics import YOLO

SIDE = 320
TRAINING: dict[str, Any] = {
    "imgsz": SIDE, "batch": 8, "nbs": 8, "optimizer": "AdamW", "warmup_epochs": 1, "cache": "ram", "val": False,
    "amp": False, "plots": False, "device": "cpu", "seed": 0, "exist_ok": True, "verbose": False,
}  # fmt: skip


def as_ultralytics(coco: Path, folder: Path) -> Path:
    """Write labels as Ultralytics reads them beside links to the images; return the file that describes the data."""
    names: list[str] = []
    for split in ("train", "val", "test"):
        about = json.loads((coco / f"{split}.json").read_text("utf-8"))
        numbers = {each["id"]: number for number, each in enumerate(about["categories"])}
        names = [each["name"] for each in about["categories"]]
        lines: dict[int, list[str]] = {each["id"]: [] for each in about["images"]}
        sizes = {each["id"]: (each["width"], each["height"]) for each in about["images"]}
        for box in about["annotations"]:
            (left, top, wide, high), (w, h) = box["bbox"], sizes[box["image_id"]]
            values = ((left + wide / 2) / w, (top + high / 2) / h, wide / w, high / h)
            words = (f"{min(max(value, 0.0), 1.0):.6f}" for value in values)
            lines[box["image_id"]].append(" ".join((str(numbers[box["category_id"]]), *words)))
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for each in about["images"]:
            picture = folder / "images" / split / each["file_name"]
            if not picture.exists():
                shutil.copyfile(coco / "images" / each["file_name"], picture)
            label = folder / "labels" / split / Path(each["file_name"]).with_suffix(".txt").name
            label.write_text("".join(f"{line}\n" for line in lines[each["id"]]))
    data = folder / "data.yaml"
    described = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{described}")
    return data


def trained(data: Path, work: Path, model: str, epochs: int) -> Path:
    """Train the dense network from random weights, unless that was done; return its file."""
    done = work / "dense.pt"
    if not done.exists():
        yolo = YOLO(model)
        yolo.train(data=str(data), epochs=epochs, lr0=2e-3, close_mosaic=5, project=str(work), name="dense", **TRAINING)
        shutil.copyfile(yolo.trainer.last, done)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images and COCO JSON")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the data as Ultralytics reads it and for weights"
    )
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--epochs", type=int, default=24, help="of the dense network")
    asked = parser.parse_args()
    os.environ.setdefault("YOLO_OFFLINE", "true")
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = as_ultralytics(asked.data, work / "data")
    dense = trained(data, work, asked.model, asked.epochs)
    print(dense)


if __name__ == "__main__":
    main()
