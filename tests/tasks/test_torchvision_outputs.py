"""What networks of torchvision really take and return, in training and in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.anchor_utils import AnchorGenerator

from secateur.tasks import Classification, Detection, Segmentation

CPU = torch.device("cpu")


class Backbone(nn.Sequential):
    """Two layers, for detectors that would take seconds with their own."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())


_ANCHORS = AnchorGenerator(sizes=((16, 32),), aspect_ratios=((1.0,),))
_SIZE: dict[str, Any] = {"min_size": 64, "max_size": 64}


def faster_rcnn() -> nn.Module:
    return detection.FasterRCNN(
        Backbone(), 3, rpn_anchor_generator=_ANCHORS, box_detections_per_img=5, rpn_post_nms_top_n_test=20, **_SIZE
    )


def retinanet() -> nn.Module:
    few: dict[str, Any] = {"score_thresh": 0.0, "detections_per_img": 5, **_SIZE}
    return detection.RetinaNet(Backbone(), 3, anchor_generator=_ANCHORS, **few)


def ssdlite() -> nn.Module:
    make = detection.ssdlite320_mobilenet_v3_large
    return make(weights=None, weights_backbone=None, num_classes=3, detections_per_img=5)


@pytest.fixture(params=[faster_rcnn, retinanet, ssdlite])
def detector(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()


@pytest.fixture
def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    boxes = torch.tensor([[4.0, 4, 30, 30], [20, 10, 60, 40]])
    return images, [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},  # with nothing to be found
    ]


def test_a_detector_learns_and_is_measured(detector: nn.Module, batch: Any):
    task = Detection()
    detector.train()
    loss = task.loss(task.output(detector(*task.inputs(batch, training=True))), batch)
    loss.backward()
    grads = [weight.grad for weight in detector.parameters() if weight.grad is not None]
    assert loss.shape == ()
    assert loss.item() > 0
    assert sum(grad.norm() for grad in grads) > 0

    detector.eval()
    meter = task.meter(CPU)
    with torch.inference_mode():
        meter.update(task.output(detector(*task.inputs(batch))), batch)
    assert all(0 <= value <= 1 for value in meter.compute())


def test_a_detector_of_nan_finds_nothing(batch: Any):
    task, net = Detection(), retinanet().eval()
    for weight in net.head.parameters():
        nn.init.constant_(weight, torch.nan)
    meter = task.meter(CPU)
    with torch.inference_mode():
        meter.update(task.output(net(*task.inputs(batch))), batch)
    assert tuple(meter.compute()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("make", "outputs"),
    [
        (partial(segmentation.lraspp_mobilenet_v3_large, num_classes=3), 1),
        (partial(segmentation.fcn_resnet50, num_classes=3, aux_loss=True), 2),
    ],
)
def test_segmenters(make: Callable[..., nn.Module], outputs: int):
    task, net = Segmentation(), make(weights=None, weights_backbone=None)
    images, masks = torch.rand(2, 3, 32, 32), torch.randint(3, (2, 32, 32))
    masks[:, :4] = 255
    batch = (images, masks)
    found = task.output(net.train()(task.inputs(batch, training=True)))
    task.loss(found, batch).backward()
    assert [each.shape for each in found] == [(2, 3, 32, 32)] * outputs
    heads = [weight.grad for name, weight in net.named_parameters() if not name.startswith("backbone")]
    assert all(grad is not None and grad.isfinite().all() for grad in heads)
    meter = task.meter(CPU)
    with torch.inference_mode():
        meter.update(task.output(net.eval()(task.inputs(batch))), batch)
    assert all(0 <= value <= 1 for value in meter.compute())


def test_a_classifier_with_auxiliary_ones():
    from torchvision.models import googlenet

    net = googlenet(weights=None, num_classes=3, aux_logits=True, init_weights=False).train()
    task, batch = Classification(), (torch.rand(2, 3, 64, 64), torch.tensor([0, 2]))
    output = task.output(net(task.inputs(batch)))
    task.loss(output, batch).backward()
    assert output.shape == (2, 3)
    assert net.fc.weight.grad.norm() > 0
