"""Losses and meters where tensors are elsewhere than on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from accelerator import accelerator
from secateur.tasks import Classification, Detection, Regression, Restoration, Retrieval, Segmentation, Task

LABELS = torch.arange(4) % 2
BOXES = [{"boxes": torch.tensor([[0.0, 0, 5, 5]]), "labels": torch.tensor([1])}]
FOUND = [{**BOXES[0], "scores": torch.tensor([0.5])}]
MASKS = torch.arange(128).reshape(2, 8, 8) % 3
CASES: dict[str, tuple[Task, Any, Any]] = {
    "classification": (Classification(label_smoothing=0.1), torch.randn(4, 3), LABELS),
    "binary": (Classification(), torch.randn(4, 1), LABELS),
    "multi-label": (Classification(multi_label=True), torch.randn(4, 2), torch.eye(2).repeat(2, 1)),
    "segmentation": (Segmentation(), {"out": torch.randn(2, 3, 4, 4), "aux": torch.randn(2, 3, 4, 4)}, MASKS),
    "regression": (Regression(), torch.randn(4, 2), torch.randn(4, 2)),
    "restoration": (Restoration(), torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)),
    "retrieval": (Retrieval(), torch.randn(4, 3), LABELS),
}


def on(place: Any, value: Any) -> Any:
    return tree_map(lambda each: place(each) if isinstance(each, Tensor) else each, value)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_training_never_waits_for_the_device(name: str):
    """Nothing can be read of tensors without values, as nothing should be of those on an accelerator."""
    task, returned, target = CASES[name]
    own = on(lambda each: each.to("meta").requires_grad_(), returned)
    batch = (None, on(lambda each: each.to("meta"), target))
    output = task.output(own)
    loss = task.loss(output, batch)
    loss.backward()
    assert loss.is_meta
    assert loss.shape == ()
    told = on(torch.Tensor.detach, output)
    task.imitation(task.output(own), told, 2.0).backward()
    right = task.right(output, batch)
    assert right is None or right.is_meta


def test_boxes_on_a_device_are_not_read_in_training():
    images, targets = [torch.zeros(3, 8, 8, device="meta")], on(lambda each: each.to("meta"), BOXES)
    assert Detection().inputs((images, targets), training=True) == (images, targets)


@pytest.mark.parametrize("name", [*CASES, "detection"])
def test_meters_take_what_is_on_a_device(name: str):
    task, returned, target = {**CASES, "detection": (Detection(), FOUND, BOXES)}[name]

    def values(device: torch.device) -> list[float]:
        meter = task.meter(device)
        there = on(lambda each: each.to(device), [returned, target])
        meter.update(task.output(there[0]), (None, there[1]))
        return list(meter.compute())

    here = values(torch.device("cpu"))
    with accelerator() as device:
        assert values(device) == pytest.approx(here, rel=1e-6)
