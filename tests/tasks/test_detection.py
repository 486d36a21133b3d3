from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import get_model
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from measured import measured, sentence
from secateur.data import from_loaders
from secateur.errors import DataError, ModelError, SettingError
from secateur.measure import quality
from secateur.measure.gradient import loss_with_gradient
from secateur.tasks import Detection
from secateur.training import Settings, fit

TASK = Detection()
CPU = torch.device("cpu")
IMAGES = [torch.zeros(3, 8, 8), torch.zeros(3, 6, 9)]


def wanted(*boxes: tuple[float, float, float, float], labels: list[int] | None = None) -> dict[str, Tensor]:
    numbers = torch.tensor(labels if labels is not None else [1] * len(boxes), dtype=torch.long)
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": numbers}


def found(*boxes: tuple[float, ...], scores: list[float], labels: list[int] | None = None) -> dict[str, Tensor]:
    return {**wanted(*boxes, labels=labels), "scores": torch.tensor(scores)}  # type: ignore[arg-type]


BOX, FAR = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
NOTHING = found(scores=[])


class TestMetrics:
    def test_found_exactly(self):
        assert measured(TASK, ([found(BOX, scores=[0.3])], [wanted(BOX)])) == (1.0, 1.0, 1.0)

    def test_overlaps_by_hand(self):
        """An overlap of 0.82 counts at 7 of the 10 from 0.5 to 0.95."""
        value = measured(TASK, ([found((0, 0, 8.2, 10), scores=[0.9])], [wanted(BOX)]))
        assert value == (pytest.approx(0.7), pytest.approx(1), pytest.approx(1))
        value = measured(TASK, ([found((0, 0, 6.2, 10), scores=[0.9])], [wanted(BOX)]))
        assert value == (pytest.approx(0.3), pytest.approx(1), 0.0)

    def test_a_false_alarm_counts_where_it_is_surer(self):
        for sure, expected in ((0.9, 0.5), (0.1, 1.0)):
            value = measured(TASK, ([found(FAR, BOX, scores=[sure, 0.5])], [wanted(BOX)]))
            assert value == (pytest.approx(expected),) * 3

    def test_the_mean_over_classes(self):
        """Of class 1 one box of three is found, 34 of 101 steps of recall; class 2 is found; class 3 is nowhere."""
        targets = [wanted(BOX, FAR, (20, 20, 30, 30), BOX, labels=[1, 1, 1, 2])]
        value = measured(TASK, ([found(BOX, BOX, FAR, scores=[0.9, 0.8, 0.7], labels=[1, 2, 3])], targets))
        assert value == (pytest.approx((34 / 101 + 1) / 2),) * 3

    def test_against_torchmetrics_in_one_batch_and_several(self):
        targets, findings = list[dict[str, Tensor]](), list[dict[str, Tensor]]()
        for image in range(6):
            corners = torch.rand(image, 2) * 50
            boxes = torch.cat([corners, corners + 5 + torch.rand(image, 2) * 40], dim=1)
            labels = torch.randint(1, 4, (image,))
            targets.append({"boxes": boxes, "labels": labels})
            findings.append({"boxes": boxes + torch.randn(image, 4), "labels": labels, "scores": torch.rand(image)})
        metric = MeanAveragePrecision(backend="faster_coco_eval")
        metric.update(findings, targets)
        expected = metric.compute()
        whole = measured(TASK, (findings, targets))
        assert whole == tuple(pytest.approx(expected[name].item()) for name in ("map", "map_50", "map_75"))
        assert 0 < whole[0] < whole[1]
        assert measured(TASK, (findings[:1], targets[:1]), (tuple(findings[1:]), tuple(targets[1:]))) == whole

    def test_nothing_is_found(self):
        assert measured(TASK, ([NOTHING, NOTHING], [wanted(BOX), wanted()])) == (0.0, 0.0, 0.0)

    def test_an_image_without_boxes_may_only_hold_false_alarms(self):
        targets = [wanted(), wanted(BOX)]
        assert measured(TASK, ([NOTHING, found(BOX, scores=[0.5])], targets))[0] == 1
        alarm = [found(FAR, scores=[0.9]), found(BOX, scores=[0.5])]
        assert measured(TASK, (alarm, targets))[0] == pytest.approx(0.5)

    def test_crowds_need_not_be_found(self):
        target = {**wanted(BOX, FAR), "iscrowd": torch.tensor([0, 1])}
        assert measured(TASK, ([found(BOX, scores=[0.5])], [target]))[0] == 1
        assert measured(TASK, ([found(BOX, FAR, FAR, scores=[0.5, 0.9, 0.8])], [target]))[0] == 1
        target["iscrowd"] = torch.tensor([0, 0])
        assert measured(TASK, ([found(BOX, scores=[0.5])], [target]))[0] < 1

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", ["boxes", "scores"])
    def test_what_is_no_number_is_a_false_alarm(self, wrong: float, where: str):
        target = [wanted(BOX)]
        sound, broken = found(BOX, scores=[0.5]), found(BOX, scores=[0.9])
        broken[where].view(-1)[0] = wrong
        assert measured(TASK, ([broken], target)) == (0.0, 0.0, 0.0)
        both = {name: torch.cat([broken[name], sound[name]]) for name in sound}
        alone, beside = measured(TASK, ([sound], target)), measured(TASK, ([both], target))
        assert alone[0] == 1
        assert beside[0] == (1 if (where, wrong) == ("scores", -math.inf) else pytest.approx(0.5))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_precision(self, dtype: torch.dtype):
        one = found(BOX, FAR, scores=[0.5, 0.75])
        other = {**one, "boxes": one["boxes"].to(dtype), "scores": one["scores"].to(dtype)}
        target = {**wanted(BOX), "boxes": wanted(BOX)["boxes"].to(dtype)}
        assert measured(TASK, ([other], [target])) == measured(TASK, ([one], [wanted(BOX)]))

    def test_without_anything_to_find(self):
        assert "no image has a box" in sentence(DataError, lambda: measured(TASK, ([NOTHING], [wanted()])))
        crowd = {**wanted(BOX), "iscrowd": torch.tensor([1])}
        assert "no image has a box" in sentence(DataError, lambda: measured(TASK, ([NOTHING], [crowd])))
        assert "no examples" in sentence(DataError, lambda: measured(TASK))
        assert "no examples" in sentence(DataError, lambda: measured(TASK, ([], [])))

    def test_without_what_counts(self, monkeypatch: pytest.MonkeyPatch):
        def missing(**options: Any) -> None:
            raise ModuleNotFoundError

        monkeypatch.setattr("torchmetrics.detection.MeanAveragePrecision", missing)
        assert "pip install 'secateur[detection,vision]'" in sentence(SettingError, lambda: TASK.meter(CPU))


class TestOutput:
    def test_losses_and_findings(self):
        losses, findings = {"a": torch.tensor(1.0), "b": torch.tensor([2.0])}, [NOTHING, OrderedDict(NOTHING, masks=3)]
        assert TASK.output(losses) is losses
        assert TASK.output(findings) is findings

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            (torch.zeros(2, 5), "float32 of shape (2, 5)"),
            ({"out": torch.zeros(2, 3, 4, 4)}, "a table of out"),
            ({}, "a table of nothing"),
            ({"loss": 1.0}, "a table of loss"),
            ([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}], "a list of a table of boxes, labels"),
            ([{**NOTHING, "boxes": torch.zeros(0, 5)}], "a list of a table of boxes, labels, scores"),
            ([{**NOTHING, "scores": torch.zeros(1)}], "a list of a table of boxes, labels, scores"),
            ([{**NOTHING, "scores": None}], "a list of a table of boxes, labels, scores"),
            ([torch.zeros(1)], "a list of float32 of shape (1,)"),
            (None, "nothing"),
        ],
    )
    def test_what_came_out_instead_is_said(self, returned: Any, said: str):
        assert sentence(ModelError, lambda: TASK.output(returned)).endswith(f", not {said}")

    def test_too_few_findings(self):
        said = sentence(ModelError, lambda: measured(TASK, ([NOTHING], [wanted(BOX), wanted()])))
        assert said.endswith("for 2 images")
        losses = {"a": torch.tensor(1.0)}
        assert "a table of a for 1 images" in sentence(ModelError, lambda: measured(TASK, (losses, [wanted(BOX)])))


class TestLoss:
    def test_the_sum_of_the_losses_of_the_network(self):
        weight = torch.tensor(2.0, requires_grad=True)
        loss = TASK.loss(TASK.output({"boxes": weight * 3, "classes": (weight**2).reshape(1)}), (None, None))
        loss.backward()
        assert loss.shape == ()
        assert loss.item() == 10
        assert weight.grad == 7

    def test_there_are_none_in_evaluation(self):
        assert not TASK.judges_loss
        assert "in training mode alone" in sentence(ModelError, lambda: TASK.loss([NOTHING], (None, None)))

    def test_losses_are_nothing_to_imitate(self):
        losses = {"a": torch.tensor(1.0)}
        assert "set 'distill' to 0" in sentence(SettingError, lambda: TASK.imitation(losses, losses, 1.0))


class TestInputs:
    targets = (wanted(BOX), wanted())

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_images_and_in_training_their_targets(self, kind: Any):
        batch = (kind(IMAGES), kind(self.targets))
        assert TASK.inputs(batch) == (IMAGES,)
        images, targets = TASK.inputs(batch, training=True)
        assert images == IMAGES
        assert targets is batch[1]
        assert TASK.count(batch) == 2

    def test_images_of_one_size_in_one_tensor(self):
        batch = (torch.zeros(2, 3, 8, 8), self.targets)
        (images,) = TASK.inputs(batch)
        assert [image.shape for image in images] == [(3, 8, 8)] * 2
        assert TASK.count(batch) == 2

    def test_a_table(self):
        batch = {"images": IMAGES, "labels": self.targets}
        assert TASK.inputs(batch, training=True) == (IMAGES, self.targets)
        assert TASK.count(batch) == 2

    def test_nothing_is_learned_from_crowds(self):
        crowded = {**wanted(BOX, FAR, BOX), "iscrowd": torch.tensor([0, 1, 0]), "image_id": torch.tensor(7)}
        _, targets = TASK.inputs((IMAGES, [wanted(FAR), crowded]), training=True)
        assert [target["boxes"].tolist() for target in targets] == [[list(FAR)], [list(BOX), list(BOX)]]
        assert [each.tolist() for each in (targets[1]["labels"], targets[1]["image_id"])] == [[1, 1], 7]

    @pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16, torch.bool])
    def test_labels_of_other_whole_numbers_are_converted(self, dtype: torch.dtype):
        target = wanted(BOX, FAR)
        _, targets = TASK.inputs((IMAGES[:1], [{**target, "labels": target["labels"].to(dtype)}]), training=True)
        assert targets[0]["labels"].dtype == torch.int64
        assert targets[0]["labels"].tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("batch", "said"),
        [
            ({"images": IMAGES, "mask": IMAGES, "labels": targets}, "one has images, mask"),
            ({"labels": targets}, "without inputs"),
            (("images", targets), "not a str"),
            ((IMAGES, targets[:1]), "has 2 images and targets for 1"),
            ((IMAGES, None), "not nothing"),
            ((IMAGES, torch.zeros(2, 5)), "one table for each image, not float32 of shape (2, 5)"),
        ],
    )
    def test_batches_of_another_kind(self, batch: Any, said: str):
        assert said in sentence(DataError, lambda: TASK.inputs(batch, training=True))


NAN, NUMBER = math.nan, torch.tensor([1])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"boxes": torch.zeros(1, 4)}, "must be a table with boxes and labels, not a table of boxes"),
        ({"boxes": [[0, 0, 1, 1]], "labels": NUMBER}, "not a table of boxes, labels"),
        (torch.zeros(1, 5), "not float32 of shape (1, 5)"),
        ({"boxes": torch.zeros(1, 5), "labels": NUMBER}, "boxes of shape (1, 5) and labels of shape (1,)"),
        ({"boxes": torch.zeros(4), "labels": NUMBER}, "boxes of shape (4,)"),
        ({"boxes": torch.zeros(0), "labels": NUMBER[:0]}, "boxes of shape (0,)"),
        ({"boxes": torch.zeros(2, 4), "labels": NUMBER}, "boxes of shape (2, 4) and labels of shape (1,)"),
        ({"boxes": torch.tensor([[0, 0, 1, 1]]), "labels": NUMBER}, "boxes that are int64 of shape (1, 4)"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": NUMBER.float()}, "labels that are float32"),
        ({"boxes": torch.tensor([[1.0, 0, 1, 1]]), "labels": NUMBER}, "a box without area"),
        ({"boxes": torch.tensor([[0.0, 3, 1, 1]]), "labels": NUMBER}, "a box without area"),
        ({"boxes": torch.tensor([[0.0, 0, NAN, 1]]), "labels": NUMBER}, "a corner that is no number"),
        ({"boxes": torch.tensor([[0.0, 0, math.inf, 1]]), "labels": NUMBER}, "a corner that is no number"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": -NUMBER}, "the label -1"),
        (wanted(BOX, labels=[0]), "the label 0, which detectors take for the background: count classes from 1"),
        ({**wanted(BOX), "iscrowd": torch.zeros(2).long()}, "'iscrowd' of image 1"),
        ({**wanted(BOX), "iscrowd": [0]}, "not a list of a int"),
    ],
)
def test_targets_that_do_not_fit(target: Any, said: str):
    targets = [wanted(BOX), target]
    for ask in (
        lambda: TASK.inputs((IMAGES, targets), training=True),
        lambda: TASK.meter(CPU).update([NOTHING, NOTHING], (IMAGES, targets)),
    ):
        refused = sentence(DataError, ask)
        assert said in refused
        assert "image 1 of a batch" in refused


def test_detectors_without_a_background_have_boxes_of_label_0():
    own = Detection(background=False)
    assert measured(own, ([found(BOX, scores=[0.3], labels=[0])], [wanted(BOX, labels=[0])])) == (1.0, 1.0, 1.0)
    assert own.inputs((IMAGES[:1], [wanted(BOX, labels=[0])]), training=True)[1][0]["labels"].tolist() == [0]


class Backbone(nn.Sequential):
    out_channels = 4

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=8))


def retina() -> nn.Module:
    anchors = AnchorGenerator(sizes=((12,),), aspect_ratios=((1.0,),))
    return RetinaNet(Backbone(), 3, anchor_generator=anchors, min_size=32, max_size=32)


class Unknown(nn.Module):
    """A detector of which nobody knows how many classes it has."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.ones(3))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if targets is None:
            return [found(scores=[]) for _ in images]
        return {"loss": torch.stack([self.scores[each["labels"]].sum() for each in targets]).sum()}


class TestLabelsWithoutAClass:
    batch = ([torch.rand(3, 32, 32)], [wanted((1.0, 1.0, 9.0, 9.0), labels=[3])])

    def test_they_are_refused_where_a_network_is_measured(self):
        said = sentence(DataError, lambda: quality(retina(), [self.batch], TASK))
        assert "a box has the label 3, but the network has 3 classes, 0 to 2" in said
        assert "build it with 4 classes, the background being one of them" in said

    @pytest.mark.parametrize(
        ("network", "words"),
        [(retina, "the network has 3 classes"), (Unknown, "fails on boxes with labels up to 3 (IndexError: ")],
    )
    def test_they_are_named_where_a_network_fails_on_them(self, network: Any, words: str):
        model = network()
        said = sentence(DataError, lambda: loss_with_gradient(model, self.batch, TASK))
        assert words in said
        data = from_loaders([self.batch] * 2, [self.batch], [self.batch], task=TASK)
        assert words in sentence(DataError, lambda: fit(model, data, Settings(epochs=1, batch_size=1, select="last")))

    @pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
    def test_detectors_of_torchvision_say_how_many_they_have(self, name: str):
        with torch.device("meta"):
            model = get_model(name, num_classes=3, weights=None, weights_backbone=None)
        assert "the network has 3 classes" in sentence(DataError, lambda: TASK.check_network(model, self.batch))
        TASK.check_network(model, (self.batch[0], [wanted(BOX, labels=[2])]))
