"""Object detection: boxes with classes, as torchvision's detectors take and return them."""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from secateur.core.surgery.forward import Inputs
from secateur.core.task import Meter, Metric, Task, nothing_measured, nothing_to_imitate
from secateur.errors import DataError, ModelError, SettingError, reason_of
from secateur.spelling import said
from secateur.tasks.shapes import cheap_to_read, described, is_whole
from secateur.typed import check_types

MAP = Metric("mAP", "%", digits=2)
MAP_50 = Metric("mAP@0.5", "%", digits=2)
MAP_75 = Metric("mAP@0.75", "%", digits=2)
_BACKENDS = ("faster_coco_eval", "pycocotools")
_FINDINGS = ("boxes", "scores", "labels")
_CLASSES = (  # where detectors of torchvision say how many they have
    "roi_heads.box_predictor.cls_score.out_features",
    "head.classification_head.num_classes",
    "head.classification_head.num_columns",
)
_AWAY = -1e6  # where no box of a target is


@dataclass(frozen=True)
class Detection(Task):
    """Boxes with classes and scores for each image.

    Targets are one table for each image: ``boxes`` (n, 4) as x1, y1, x2, y2 in pixels and ``labels`` (n,) int64, both
    without rows where nothing is to be found; ``iscrowd`` (n,) may say which of them are crowds, which need not be
    found: what is found in one is neither right nor wrong, and nothing is learned from it.
    In training mode the network is called with images and targets and returns a table of losses, whose sum is
    minimised; in evaluation mode it is called with images alone and returns one table with ``boxes``, ``scores`` and
    ``labels`` for each image.

    The metrics are those of COCO (Lin et al.: Microsoft COCO: Common Objects in Context, 2014), with at most 100 boxes
    for each image: average precision over classes, over overlaps of 0.5 to 0.95 and at two of them.

    Attributes:
        background: whether label 0 is the background, as of torchvision's detectors, so that no box can have it.
    """

    name: ClassVar[str] = "detection"
    metrics = (MAP, MAP_50, MAP_75)
    imitates: ClassVar[bool] = False
    judges_loss: ClassVar[bool] = False
    background: bool = True

    def __post_init__(self) -> None:
        check_types(self)

    def inputs(self, batch: Any, *, training: bool = False) -> Inputs:
        """Return the images, and in training mode the targets as well; a list, for they may differ in size.

        Raises:
            DataError: if the batch has no images, or in training mode if its targets are no boxes, or none of them.
        """
        images = self._images(batch)
        if not training:
            return (images,)
        targets = check_boxes(self.target(batch), self, wait=False)
        if len(targets) != len(images):
            raise DataError(f"a batch for detection has {len(images)} images and targets for {len(targets)}")
        if any("iscrowd" in each for each in targets):
            targets = [_without_crowds(each) for each in targets]
        if any(each["labels"].dtype != torch.int64 for each in targets):  # with which detectors look up scores
            targets = [{**each, "labels": each["labels"].long()} for each in targets]
        return images, targets

    def check_network(self, network: nn.Module, batch: Any, failed: Exception | None = None) -> None:
        """Refuse labels that a network has no class for; those of torchvision say how many they have.

        Raises:
            DataError: naming the label.
        """
        classes = _classes_of(network)
        highest = max((int(each["labels"].max()) for each in self.target(batch) if len(each["labels"])), default=-1)
        with_it = f"{highest + 1} classes{', the background being one of them' if self.background else ''}"
        if classes is not None and highest >= classes:
            raise DataError(
                f"a box has the label {highest}, but the network has {classes} classes, 0 to {classes - 1}: build it "
                f"with {with_it}, or number the labels otherwise"
            )
        if classes is None and isinstance(failed, IndexError | RuntimeError):
            raise DataError(
                f"the network fails on boxes with labels up to {highest} ({reason_of(failed)}): if it has fewer than "
                f"{with_it}, build it with as many"
            )

    def _images(self, batch: Any) -> list[Tensor]:
        images: Any = super().inputs(batch)
        if isinstance(images, Mapping):
            named = cast("Mapping[str, Any]", images)
            if len(named) != 1:
                raise DataError(
                    "a batch for detection must hold one entry beside its targets, the images, and one has "
                    f"{', '.join(map(str, named))}"
                )
            (images,) = named.values()
        if not isinstance(images, Tensor | list | tuple):
            raise DataError(f"the images of a batch for detection must be a list of tensors, not {described(images)}")
        return list(cast("Sequence[Tensor]", images))

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
            if all(map(_is_finding, found)):
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

    def imitation(self, output: Any, taught: Any, temperature: float) -> Tensor:
        """Refuse, for losses are all that networks for detection return in training mode.

        Raises:
            SettingError: always.
        """
        raise nothing_to_imitate(self)

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of the average precisions.

        Raises:
            SettingError: if the library that counts them is not installed.
        """
        return _BoxMeter(self)


def _classes_of(network: nn.Module) -> int | None:
    """Return how many classes a detector of torchvision scores, the background included; None of others."""
    for module in network.modules():
        for place in _CLASSES:
            with contextlib.suppress(AttributeError):
                found: object = operator.attrgetter(place)(module)
                if isinstance(found, int):
                    return found
    return None


class _BoxMeter(Meter):
    def __init__(self, task: Detection) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self._task = task
        self._images, self._boxes = 0, 0
        for backend in _BACKENDS:
            try:
                self._metric = MeanAveragePrecision(backend=backend)
                break
            except ModuleNotFoundError:
                continue
        else:
            raise SettingError(
                "the average precision of detections is counted by faster-coco-eval (or pycocotools) and torchvision, "
                "and one of them is not installed: pip install 'secateur[detection,vision]'"
            )
        self._metric.warn_on_many_detections = False

    def update(self, output: Any, batch: Any) -> None:
        targets = check_boxes(self._task.target(batch), self._task)
        if not isinstance(output, list | tuple) or len(cast("Sequence[Any]", output)) != len(targets):
            raise ModelError(f"the network returned {described(output)} for {len(targets)} images")
        self._images += len(targets)
        self._boxes += sum(int((_crowds(each) == 0).sum()) for each in targets)
        self._metric.update([_found(each) for each in output], [_wanted(each) for each in targets])

    def compute(self) -> tuple[float, ...]:
        if not self._images:
            raise nothing_measured()
        if not self._boxes:
            raise DataError("no image has a box, so that there is nothing to be found in any")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._metric.compute()
        return tuple(float(found[name]) for name in ("map", "map_50", "map_75"))


def _is_finding(value: Any) -> bool:
    """Tell whether a value is what a network found in an image."""
    if not isinstance(value, Mapping):
        return False
    parts = [cast("Mapping[str, Any]", value).get(name) for name in _FINDINGS]
    if not all(isinstance(each, Tensor) for each in parts):
        return False
    boxes, scores, labels = cast("list[Tensor]", parts)
    return boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == labels.shape == boxes.shape[:1]


def _found(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the metric looks at; what is NaN or infinite was found where nothing is, surely so if need be."""
    boxes, scores = (one[name].detach().cpu().float() for name in _FINDINGS[:2])
    lost = ~(torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores))
    nowhere = torch.tensor([_AWAY, _AWAY, _AWAY + 1, _AWAY + 1])
    return {
        "boxes": torch.where(lost[:, None], nowhere, boxes),
        "scores": scores.nan_to_num(nan=torch.finfo(torch.float32).max),
        "labels": one["labels"].detach().cpu().long(),
    }


def _wanted(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the metric looks at of a target."""
    boxes, labels = one["boxes"].detach().cpu().float(), one["labels"].detach().cpu().long()
    return {"boxes": boxes, "labels": labels, "iscrowd": _crowds(one).cpu()}


def _crowds(one: Mapping[str, Tensor]) -> Tensor:
    crowds = one.get("iscrowd")
    return torch.zeros_like(one["labels"]) if crowds is None else crowds.long()


def _without_crowds(one: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a target without crowds; to find them waits for an accelerator, as torchvision's detectors do anyway."""
    if "iscrowd" not in one:
        return one
    single = one["iscrowd"] == 0
    return {name: rows[single] if rows.shape[:1] == single.shape else rows for name, rows in one.items()}


def check_boxes(targets: Any, task: Detection, *, wait: bool = True) -> Sequence[Mapping[str, Tensor]]:
    """Return the targets of a batch.

    Args:
        targets: of a batch.
        task: what they are for.
        wait: whether to look at values on an accelerator as well.

    Raises:
        DataError: if they are no boxes with labels, saying what they are instead.
    """
    if not isinstance(targets, list | tuple):
        raise DataError(f"the targets of detection must be one table for each image, not {described(targets)}")
    for number, each in enumerate(cast("Sequence[Any]", targets)):
        table = cast("Mapping[str, Any]", each) if isinstance(each, Mapping) else dict[str, Any]()
        boxes, labels, crowds = table.get("boxes"), table.get("labels"), table.get("iscrowd")
        if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
            raise DataError(
                f"the target of image {number} of a batch must be a table with boxes and labels, not {described(each)}"
            )
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise DataError(
                f"image {number} of a batch has boxes of shape {tuple(boxes.shape)} and labels of shape "
                f"{tuple(labels.shape)}: there must be four numbers and one label for each box"
            )
        if not boxes.is_floating_point() or not is_whole(labels):
            raise DataError(
                f"image {number} of a batch has boxes that are {described(boxes)} and labels that are "
                f"{described(labels)}: boxes must be floating-point numbers, and labels whole ones"
            )
        if crowds is not None and (not is_whole(crowds) or crowds.shape != labels.shape):
            raise DataError(
                f"'iscrowd' of image {number} of a batch must be 0 or 1 for each box, not {described(crowds)}"
            )
        if wait or cheap_to_read(boxes):
            _check_values(number, boxes, labels, 1 if task.background else 0)
    return cast("Sequence[Mapping[str, Tensor]]", targets)


def _check_values(number: int, boxes: Tensor, labels: Tensor, least: int) -> None:
    if not bool(torch.isfinite(boxes).all()) or bool((boxes[:, 2:] <= boxes[:, :2]).any()):
        raise DataError(
            f"image {number} of a batch has a box without area, or with a corner that is no number; boxes are x1, "
            "y1, x2, y2 in pixels, with x1 < x2 and y1 < y2"
        )
    if bool((labels < 0).any()):
        raise DataError(f"image {number} of a batch has the label {int(labels.min())}; labels are {least} or more")
    if bool((labels < least).any()):
        own = said("Detection(background=False)", "detection?background=false")
        raise DataError(
            f"image {number} of a batch has the label 0, which detectors take for the background: count classes from 1,"
            f" or say that this network has none ({own})"
        )
