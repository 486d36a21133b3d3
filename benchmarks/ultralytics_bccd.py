"""A detector of Ultralytics on blood cells: dense, cut, and fine-tuned.

    pip install ".[export]" ultralytics
    python benchmarks/ultralytics_bccd.py --data BCCD --work DIR --out benchmarks/results/ultralytics_bccd.jsonl

``BCCD`` is a folder with ``images`` and ``train.json``, ``val.json``, ``test.json`` as COCO has them. The dense network
is trained from random weights (``DIR/dense.pt``, taken if it is there), pruned without images and with them, and each
thin network is fine-tuned for a few epochs; mAP is that of Ultralytics' own validation on the test images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # nothing is downloaded
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
sys.path.insert(0, str(Path(__file__).parents[1] / "integrations"))

from ultralytics import YOLO

import row_files
import ultralytics_prune as integration
from secateur.measure import count

SIDE = 320
TRAINING: dict[str, Any] = {
    "imgsz": SIDE, "batch": 8, "nbs": 8, "optimizer": "AdamW", "warmup_epochs": 1, "cache": "ram", "val": False,
    "amp": False, "plots": False, "device": "cpu", "seed": 0, "exist_ok": True, "verbose": False,
}  # fmt: skip
JUDGING: dict[str, Any] = {"plots": False, "device": "cpu", "verbose": False}


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


def trained(data: Path, work: Path, model: str, epochs: int, stop: int) -> Path:
    """Train the dense network from random weights, unless that was done; return its file."""
    done = work / "dense.pt"
    if not done.exists():
        yolo = YOLO(model)

        def leave(trainer: Any) -> None:
            trainer.stop = trainer.stop or trainer.epoch + 1 >= stop

        yolo.add_callback("on_train_epoch_end", leave)
        yolo.train(data=str(data), epochs=epochs, lr0=2e-3, close_mosaic=5, project=str(work), name="dense", **TRAINING)
        shutil.copyfile(yolo.trainer.last, done)
    return done


def row_of(stage: str, model: Any, data: Path, counts: dict[str, Any]) -> dict[str, Any]:
    """Return what a network achieves on the test images, and its size."""
    found = integration.scores(model, data, SIDE, split="test", batch=8, project=str(data.parent), **JUDGING)
    names = {"metrics/mAP50(B)": "mAP50", "metrics/mAP50-95(B)": "mAP50-95"}
    return {"stage": stage, **{short: round(found[name], 4) for name, short in names.items()}, **counts}


def arm(name: str, dense: Path, data: Path, work: Path, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Prune without images (``magnitude``) or with them (``reconstruction``), judge, fine-tune and judge again."""
    model = integration.opened(dense)
    how: dict[str, Any] = {"method": name, "latency": False, "repair": ()}
    if name == "reconstruction":  # chosen and repaired by training images, without their labels
        how |= {"pictures": data.parent / "images" / "train", "calibrate_images": asked.images, "repair": None}
    began = time.process_time()
    result = integration.pruned(model, asked.keep, side=SIDE, **how)
    counts = {"macs": result.after.counts.macs, "params": result.after.counts.params, "method": name}
    counts["seconds"] = round(time.process_time() - began, 1)
    yield row_of("pruned", model, data, counts)
    if asked.tune:
        began = time.process_time()
        how = {**TRAINING, "lr0": 1e-3, "mosaic": 0.0, "project": str(work), "name": name}
        integration.fine_tuned(model, data, epochs=asked.tune, side=how.pop("imgsz"), **how)
        counts["seconds"] = round(time.process_time() - began, 1)
        yield row_of("fine-tuned", model, data, counts | {"epochs": asked.tune})
    integration.saved(model, work / f"{name}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images and COCO JSON")
    parser.add_argument("--work", type=Path, required=True, help="folder for labels and weights")
    parser.add_argument("--out", type=Path, required=True, help="file of rows, one JSON object a line")
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--epochs", type=int, default=24, help="that the learning rate of the dense network falls over")
    parser.add_argument("--stop", type=int, default=13, help="after so many of them")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=64, help="for reconstruction")
    parser.add_argument("--tune", type=int, default=2, help="epochs of fine-tuning")
    parser.add_argument("--arms", nargs="*", default=["dense", "magnitude", "reconstruction"])
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = as_ultralytics(asked.data, work / "data")
    dense = trained(data, work, asked.model, asked.epochs, asked.stop)
    for name in asked.arms:
        if name == "dense":
            model = integration.opened(dense)
            size = count(model.model, integration.noise(model.model, SIDE))
            rows = iter([row_of("dense", model, data, {"macs": size.macs, "params": size.params})])
        else:
            rows = arm(name, dense, data, work, asked)
        for row in rows:
            row_files.append(asked.out, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
