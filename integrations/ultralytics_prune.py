"""Prune a network of Ultralytics, and go on with it there: fine-tune, validate, save, load again, export.

    pip install ".[export]" ultralytics
    python integrations/ultralytics_prune.py yolov8n.pt --keep 0.5 --data coco8.yaml --epochs 10 --out thin

Ultralytics is licensed under the AGPL-3.0; this file imports it, the library never does. What its trainers have to be
told, and why, is in docs/ultralytics.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from ultralytics import RTDETR, YOLO, YOLOE, YOLOWorld
from ultralytics.cfg import smart_value
from ultralytics.engine.exporter import Exporter
from ultralytics.engine.model import Model
from ultralytics.engine.trainer import BaseTrainer

from secateur import Limits, Result, SecateurError, load_calibration, prune, trace
from secateur.core.graph.outputs import named_tensors
from secateur.core.surgery import relative_difference
from secateur.errors import SettingError

GUARD = "this network is pruned, and its YAML describes the dense one: train it as docs/ultralytics.md says"


def opened(name: str | Path) -> Model:
    """Return the network that a ``.pt`` or ``.yaml`` names, as Ultralytics opens it.

    Raises:
        SettingError: if Ultralytics cannot open it, or it has no PyTorch network.
    """
    try:
        model = RTDETR(str(name)) if "rtdetr" in Path(name).stem.lower() else YOLO(str(name))
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise SettingError(f"Ultralytics cannot open '{name}': {error}") from error
    if not isinstance(model.model, nn.Module):
        raise SettingError(f"'{name}' holds no PyTorch network; give a .pt or a .yaml file")
    return model


def noise(network: nn.Module, side: int, *, count: int = 1) -> Tensor:
    """Return the same random images each time, ``(count, channels, side, side)``, from 0 to 1."""
    channels = network.yaml.get("channels", 3)
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def free_features(network: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return the paths of the neck's maps, which heads return beside what they predict.

    The loss takes their height and width alone, so that their channels can go. Images are ``(count, channels, height,
    width)``.
    """
    with torch.no_grad():
        paths = [path for path, _ in named_tensors(deepcopy(network).eval()(images))]
    return tuple(dict.fromkeys(path.rpartition(".")[0] for path in paths if path.split(".")[-2:-1] == ["feats"]))


def pruned(
    model: Model, keep: float, *, side: int = 640, multiple: int = 8, pictures: Path | None = None, **how: Any
) -> Result:
    """Prune the network of a ``YOLO`` object or its like, and put the thin one in its place.

    Args:
        model: whose ``model`` is replaced.
        keep: the fraction of the MACs that stays.
        side: pixels of the square image that the network is read with, and that its MACs are counted for.
        multiple: what widths are kept at a multiple of.
        pictures: a folder of them to choose and repair by, read with pixels from 0 to 1; None: by the weights alone.
        how: anything else that ``secateur.prune`` takes; ``calibrate_images`` is how many pictures to use.

    Raises:
        SecateurError: if the network was fused, or cannot be pruned so far.
    """
    network = model.model
    if getattr(network, "is_fused", lambda: False)():
        raise SettingError("the network is fused: its batch norms are gone; open it again and prune it before fuse()")
    example = noise(network, side)
    how = {"free_outputs": free_features(network, example), "limits": Limits(multiple=multiple), **how}
    if pictures is not None:
        read = {"mean": (0, 0, 0), "std": (1, 1, 1), "image_size": side}  # pixels as Ultralytics hands them over
        how["calibrate"] = load_calibration(pictures, count=how.get("calibrate_images", 64), example=example, **read)
    result = prune(network, example, target=keep, **how)
    put_back(model, result.model)
    return result


def put_back(model: Model, thin: nn.Module) -> None:
    """Put a thin network where the dense one was; trainers that would build that from the YAML fail with ``GUARD``."""
    backbone = thin.yaml["backbone"]
    if backbone[-1][2] != GUARD:
        thin.yaml = {**thin.yaml, "backbone": [*backbone, [-1, 1, GUARD, []]]}
    model.model, model.predictor = thin, None
    model.ckpt = model.ckpt or {"epoch": -1}  # there are weights to start from, as in a .pt


def saved(model: Model, file: Path) -> Path:
    """Write a ``.pt`` that ``YOLO(file)`` reads, with all digits; ``YOLO.save`` keeps half of them."""
    args = {name: value for name, value in dict(model.overrides).items() if name != "model"}
    network = deepcopy(model.model).eval()
    network.criterion = None
    torch.save({**model.ckpt, "ema": None, "model": network, "train_args": args, "epoch": -1}, file)
    return file


def trainer(model: Model) -> type[BaseTrainer]:
    """Return the trainer of the network's task, changed to train the network that it is given.

    Raises:
        SettingError: if Ultralytics trains it with texts, by another network.
    """
    if isinstance(model, YOLOWorld | YOLOE):
        raise SettingError(
            f"{type(model).__name__} is trained beside a text encoder, which this does not do; prune what was trained"
        )
    base: Any = model.task_map[model.task]["trainer"]

    class Trainer(base):
        def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
            del cfg, verbose
            if weights is None:
                raise SettingError("there are no weights to train on from; leave pretrained=False out")
            _check_data(weights, self.data, self.args.task)
            return weights.float().requires_grad_(True)

    return Trainer


def _check_data(network: nn.Module, data: Mapping[str, Any], task: str) -> None:
    """Refuse data that the head does not fit: a trainer of Ultralytics builds another one, with the dense network."""
    head = network.model[-1]
    known, given = getattr(head, "nc", None), data.get("nc")
    if task != "classify" and known is not None and known != given:
        raise SettingError(
            f"the network tells {known} classes apart and the data have {given}; train the dense network on these data "
            "first, then prune it"
        )
    shape = tuple(getattr(head, "kpt_shape", None) or ())
    if shape and shape != tuple(data.get("kpt_shape", shape)):
        raise SettingError(
            f"the network finds key points of shape {shape} and the data have {tuple(data['kpt_shape'])}; train the "
            "dense network on these data first, then prune it"
        )


def fine_tuned(model: Model, data: str | Path, *, epochs: int, side: int, **how: Any) -> Any:
    """Train a thin network, or one that was opened from a file that holds it; return the metrics of its best epoch.

    Args:
        model: whose ``model`` is afterwards that of the best epoch.
        data: as Ultralytics names it: a ``.yaml``, or a folder for classification.
        epochs: to train.
        side: pixels of the images.
        how: anything else that ``YOLO.train`` takes.
    """
    return model.train(trainer=trainer(model), data=str(data), epochs=epochs, imgsz=side, **how)


def scores(model: Model, data: str | Path, side: int, **how: Any) -> dict[str, float]:
    """Validate as Ultralytics does; return its metrics by their names, such as ``metrics/mAP50(B)``."""
    found = model.val(data=str(data), imgsz=side, **how).results_dict.items()
    return {name: float(value) for name, value in found if name.startswith("metrics/")}


def predicted(network: nn.Module, images: Tensor, *, exported: bool = False) -> list[Tensor]:
    """Return what a copy of the network predicts, as its export does (``exported``) or without what the loss takes.

    Args:
        network: that of Ultralytics.
        images: ``(count, channels, height, width)``.
        exported: whether its modules run as in an exported network.

    Returns:
        Boxes and what follows them, such as scores, each in a tensor, and any further outputs.
    """
    network = deepcopy(network).eval()
    for module in network.modules():
        if exported and hasattr(module, "export"):
            module.export, module.format = True, "onnx"
    with torch.no_grad():
        found = network(images)
    if isinstance(found, tuple | list) and not exported:
        found = found[0]
    return quantities(found if isinstance(found, tuple | list) else [found])


def quantities(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Take boxes, in pixels, and what follows them apart, so that each is compared with its own largest value."""
    found: list[Tensor] = []
    for each in outputs:
        boxes = each.dim() == 3
        dim = 1 if boxes and each.shape[1] <= each.shape[2] else -1
        found += each.split((4, each.shape[dim] - 4), dim) if boxes else [each]
    return found


def exported(model: Model, file: Path, side: int) -> float:
    """Write an ONNX file by Ultralytics' exporter, and run it.

    Returns:
        The largest difference from what the network predicts, relative to the largest value: of boxes, and of the rest.
    """
    shown = deepcopy(model.model)
    shown.pt_path, shown.task = str(file.with_suffix(".pt")), model.task
    options = {"format": "onnx", "imgsz": side, "batch": 1, "simplify": False, "device": "cpu"}
    written = Path(Exporter(overrides=options)(model=shown))
    if written != file:
        written.replace(file)
    images = noise(model.model, side)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    wanted = predicted(model.model, images, exported=True)
    return relative_difference(wanted, quantities([torch.from_numpy(each) for each in found])[: len(wanted)])


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prune a network of Ultralytics, and fine-tune, save and export it.")
    parser.add_argument("model", help="a .pt or .yaml file, or the name of one that Ultralytics has")
    parser.add_argument("--keep", type=float, default=0.5, help="fraction of the MACs that stays (default 0.5)")
    parser.add_argument("--method", help="magnitude by default, with --calibrate reconstruction")
    parser.add_argument("--multiple", type=int, default=8, help="widths are kept at multiples of this (default 8)")
    parser.add_argument("--leave", nargs="*", default=(), help="layers that keep their widths, such as 'model.22.*'")
    parser.add_argument("--imgsz", type=int, default=640, help="pixels (default 640)")
    parser.add_argument("--calibrate", type=Path, help="folder of pictures to choose and repair by; no labels")
    parser.add_argument("--images", type=int, default=64, help="how many of them (default 64)")
    parser.add_argument("--data", help="to validate and fine-tune on, as Ultralytics names it")
    parser.add_argument("--epochs", type=int, default=0, help="to fine-tune for")
    parser.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE", help="more for the trainer: batch=8")
    parser.add_argument("--explain", action="store_true", help="say what can be pruned and what not, and stop")
    parser.add_argument("--out", type=Path, default=Path("thin"), help="folder for thin.pt, thin.onnx and report.json")
    return parser.parse_args()


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` as Ultralytics' own command line does."""
    if wrong := [word for word in words if "=" not in word]:
        raise SettingError(f"'{wrong[0]}' is no setting; write it as name=value")
    return {name: smart_value(value) for name, _, value in (word.partition("=") for word in words)}


def run(asked: argparse.Namespace) -> None:
    """Do what the command line says, and write and print what came out.

    Raises:
        SecateurError: if something cannot be done, with one sentence on what to do.
    """
    model, side, more = opened(asked.model), asked.imgsz, _settings(asked.set)
    if asked.explain:
        example = noise(model.model, side)
        print(trace(model.model, example, free_outputs=free_features(model.model, example)).explain())
        return
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    more = {"project": str(out), **more}
    validate = {name: more[name] for name in ("batch", "device", "plots", "project") if name in more}
    metrics = {"dense": scores(model, asked.data, side, **validate)} if asked.data else {}
    how = {"method": asked.method, "multiple": asked.multiple, "leave": asked.leave, "pictures": asked.calibrate}
    result = pruned(model, asked.keep, side=side, calibrate_images=asked.images, **how)
    metrics |= {"pruned": scores(model, asked.data, side, **validate)} if asked.data else {}
    if asked.data and asked.epochs:
        fine_tuned(model, asked.data, epochs=asked.epochs, side=side, **more)
        metrics["fine-tuned"] = scores(model, asked.data, side, **validate)
    again, same = opened(saved(model, out / "thin.pt")), noise(model.model, side, count=2)
    report = {
        "dense": result.before.to_dict(),
        "thin": result.after.to_dict(),
        "metrics": metrics,
        "thin differs from dense with the same channels silenced by": result.verification,
        "loaded again differs by": relative_difference(predicted(model.model, same), predicted(again.model, same)),
        "exported differs by": exported(again, out / "thin.onnx", side),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(result, f"written: {out}", json.dumps({name: report[name] for name in list(report)[2:]}, indent=2), sep="\n")


def main() -> int:
    """Run the command line; return its exit status."""
    try:
        run(_asked())
    except SecateurError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
