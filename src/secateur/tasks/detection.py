"""Object detection: boxes with classes, as torchvision's detectors take and return them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from secateur.core.surgery.forward import Inputs
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError, SettingError
from secateur.tasks.shapes import described

MAP = Metric("mAP", "%", digits=2)
MAP_50 = Metric("mAP@0.5", "%", digits=2)
MAP_75 = Metric("mAP@0.75", "%", digits=2)
_BACKENDS = ("faster_coco_eval", "pycocotools")


@dataclass(frozen=True)
class Detection(Task):
    """Boxes with classes and scores for each image.

    Targets are one table for each image: ``boxes`` (n, 4) as x1, y1, x2, y2 in pixels and ``labels`` (n,) int64. In
    training mode the network is called with images and targets and returns a table of losses, whose sum is minimised;
    in evaluation mode it is called with images alone and returns one table with ``boxes``, ``scores`` and ``labels``
    for each image. The metrics are those of COCO (Lin et al. 2014): average precision over classes, over overlaps of
    0.5 to 0.95 and at two of them.
    """

    name: ClassVar[str] = "detection"
    metrics = (MAP, MAP_50, MAP_75)
    judges_loss: ClassVar[bool] = False

    def inputs(self, batch: Any, *, training: bool = False) -> Inputs:
        """Return the images, and in training mode the targets as well; a list, for they may differ in size."""
        images = super().inputs(batch)
        several = list(images) if isinstance(images, Tensor | tuple | list) else images
        return (several, self.target(batch)) if training else (several,)

    def count(self, batch: Any) -> int:
        """Return how many images a batch holds."""
        return len(self.target(batch))

    def output(self, returned: Any) -> Any:
        """Return the losses of training mode, or the detections of evaluation mode.

        Raises:
            ModelError: if there are neither.
        """
        if isinstance(returned, Mapping):
            losses = cast("Mapping[str, Any]", returned)
            if losses and all(isinstance(each, Tensor) and each.numel() == 1 for each in losses.values()):
                return losses
        elif isinstance(returned, list | tuple):
            found = cast("Sequence[Any]", returned)
            if all(isinstance(each, Mapping) and {"boxes", "scores", "labels"} <= set(each) for each in found):
                return found
        raise ModelError(
            "a network for detection must return a table of losses in training mode, and in evaluation mode a list of "
            f"tables with boxes, scores and labels, not {described(returned)}"
        )

    def loss(self, output: Any, batch: Any) -> Tensor:
        """Return the sum of the network's own losses."""
        if not isinstance(output, Mapping):
            raise ModelError("a network for detection has losses in training mode alone, and this one was not in it")
        losses = cast("Mapping[str, Tensor]", output)
        return torch.stack([each.reshape(()) for each in losses.values()]).sum()

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the average precisions.

        Raises:
            SettingError: if the library that counts them is not installed.
        """
        return _BoxMeter(self)


class _BoxMeter(Meter):
    def __init__(self, task: Detection) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self._task = task
        for backend in _BACKENDS:
            try:
                self._metric = MeanAveragePrecision(backend=backend)
                break
            except ModuleNotFoundError:
                continue
        else:
            raise SettingError(
                "the average precision of detections is counted by faster-coco-eval (or pycocotools), and neither is "
                "installed: pip install 'secateur[detection]'"
            )
        self._metric.warn_on_many_detections = False

    def update(self, output: Any, batch: Any) -> None:
        targets = check_boxes(self._task.target(batch))
        if not isinstance(output, list | tuple) or len(cast("Sequence[Any]", output)) != len(targets):
            raise ModelError(f"the network returned {described(output)} for {len(targets)} images")
        self._metric.update([_plain(one) for one in output], [_plain(one) for one in targets])

    def compute(self) -> tuple[float, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._metric.compute()
        # torchmetrics says -1 where no image has a box at all
        return tuple(max(float(found[name]), 0.0) for name in ("map", "map_50", "map_75"))


def _plain(boxes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the metric looks at, on the CPU; detections that are not finite count as none."""
    named = {name: boxes[name].detach().cpu() for name in ("boxes", "scores", "labels") if name in boxes}
    sound = torch.isfinite(named["boxes"]).all(dim=1)
    if "scores" in named:
        sound &= torch.isfinite(named["scores"])
    return {name: tensor[sound] for name, tensor in named.items()}


def check_boxes(targets: Any) -> Sequence[Mapping[str, Tensor]]:
    """Return the targets of a batch.

    Raises:
        DataError: if they are no boxes with labels, saying what they are instead.
    """
    if not isinstance(targets, list | tuple):
        raise DataError(f"the targets of detection must be one table for each image, not {described(targets)}")
    for number, each in enumerate(cast("Sequence[Any]", targets)):
        boxes, labels = (each.get("boxes"), each.get("labels")) if isinstance(each, Mapping) else (None, None)
        if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
            raise DataError(
                f"the target of image {number} of a batch must be a table with boxes and labels, not {described(each)}"
            )
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise DataError(
                f"image {number} of a batch has boxes of shape {tuple(boxes.shape)} and labels of shape "
                f"{tuple(labels.shape)}: there must be four numbers and one label for each box"
            )
        if not bool(torch.isfinite(boxes).all()) or bool((boxes[:, 2:] <= boxes[:, :2]).any()):
            raise DataError(
                f"image {number} of a batch has a box without area, or with a corner that is no number; boxes are x1, "
                "y1, x2, y2 in pixels, with x1 < x2 and y1 < y2"
            )
    return cast("Sequence[Mapping[str, Tensor]]", targets)
