from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from measured import measured, sentence
from secateur.errors import DataError, ModelError
from secateur.tasks import Segmentation

TASK = Segmentation()
CPU = torch.device("cpu")


def scores_for(found: Tensor, classes: int) -> Tensor:
    """Scores whose highest is at a class for each pixel."""
    return F.one_hot(found, classes).movedim(-1, 1).float()


class TestOutput:
    main, aux = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: s,
            lambda s: {"out": s},
            lambda s: {"logits": s, "loss": None},
            lambda s: SimpleNamespace(logits=s),
            lambda s: (s, torch.zeros(2, 3, 4, 4)),
            lambda s: {"out": s, "aux": None},
            lambda s: {"out": s, "aux": torch.zeros(2)},
        ],
    )
    def test_scores_are_found(self, wrap: Any):
        (found,) = TASK.output(wrap(self.main))
        assert found is self.main

    def test_those_of_an_auxiliary_classifier(self):
        returned = OrderedDict(aux=self.aux, out=self.main)
        assert [each is of for each, of in zip(TASK.output(returned), (self.main, self.aux), strict=True)] == [True] * 2

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            ({"aux": aux}, "a table of aux"),
            ({"out": torch.zeros(2), "aux": aux}, "a table of out, aux"),
            (torch.zeros(2, 10), "float32 of shape (2, 10)"),
            (main.long(), "int64 of shape (2, 3, 4, 4)"),
            ([], "a list of nothing"),
            ([{"boxes": 1}], "a list of a table of boxes"),
            (None, "nothing"),
        ],
    )
    def test_what_came_out_instead_is_said(self, returned: Any, said: str):
        assert sentence(ModelError, lambda: TASK.output(returned)).endswith(f", not {said}")


class TestMeanIoU:
    def test_by_hand(self):
        # class 0: 2 of 3, class 1: 1 of 2, class 2 is nowhere, class 3 is found once and wrong: 0 of 1
        mask = torch.tensor([[[0, 0], [0, 1]], [[1, 255], [255, 255]]])
        found = torch.tensor([[[0, 0], [3, 1]], [[0, 2], [0, 1]]])
        mask[1, 0, 0], found[1, 0, 0] = 1, 1
        mask[1, 0, 1], found[1, 0, 1] = 1, 3
        iou, accuracy = measured(TASK, (scores_for(found, 4), mask))
        assert iou == pytest.approx((2 / 3 + 2 / 3 + 0 / 2) / 3)
        assert accuracy == pytest.approx(4 / 6)

    def test_over_all_images_together(self):
        """Which is not the mean over images: there class 1 counts for what is in one of them."""
        mask = torch.tensor([[[0, 0, 0, 1]], [[1, 1, 1, 1]]])
        found = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]]])
        iou, _ = measured(TASK, (scores_for(found, 2), mask))
        assert iou == pytest.approx((3 / 4 + 4 / 5) / 2)
        parts = [(scores_for(found[i : i + 1], 2), mask[i : i + 1]) for i in range(2)]
        assert measured(TASK, *parts)[0] == iou

    def test_pixels_that_are_ignored_count_for_no_class(self):
        mask = torch.tensor([[[0, 1, 255, 255]]])
        for ignored in ([0, 0], [1, 0], [2, 2]):
            found = torch.tensor([[[0, 1, *ignored]]])
            assert measured(TASK, (scores_for(found, 3), mask)) == (1.0, 1.0)

    def test_an_ignored_class_of_the_network(self):
        mask, found = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[1, 1, 0, 2]]])
        iou, accuracy = measured(Segmentation(ignore=0), (scores_for(found, 3), mask))
        assert iou == pytest.approx((1 / 2 + 1) / 2)
        assert accuracy == pytest.approx(2 / 3)

    @pytest.mark.parametrize("ignore", [None, 255, 2, -1])
    def test_against_torchmetrics_in_one_batch_and_several(self, ignore: int | None):
        found, mask = torch.randn(5, 4, 6, 6), torch.randint(4, (5, 6, 6))
        if ignore is not None:
            mask[:, :2] = ignore
        task = Segmentation(ignore=ignore)
        expected = multiclass_jaccard_index(found, mask, 4, ignore_index=ignore)
        whole, parts = measured(task, (found, mask)), measured(task, (found[:2], mask[:2]), (found[2:], mask[2:]))
        assert whole[0] == pytest.approx(expected.item())
        assert whole == parts

    def test_scores_are_resized_to_the_mask(self):
        small, mask = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 8, 10))
        large = F.interpolate(small, size=(8, 10), mode="bilinear", align_corners=False)
        assert measured(TASK, (small, mask)) == measured(TASK, (large, mask))
        assert TASK.loss((small,), (None, mask)) == TASK.loss((large,), (None, mask))

    @pytest.mark.parametrize("label", range(3))
    def test_nan_is_wrong_for_every_class(self, label: int):
        mask = torch.full((1, 2, 2), label)
        assert measured(TASK, (torch.full((1, 3, 2, 2), math.nan), mask)) == (0.0, 0.0)
        right = scores_for(mask, 3)
        right[0, (label + 1) % 3, 0, 0] = math.nan
        assert measured(TASK, (right, mask))[1] == 0.75

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
    def test_any_precision_and_masks_as_pictures_hold_them(self, dtype: torch.dtype, kind: torch.dtype):
        mask = torch.tensor([[[0, 1], [255, 2]]])
        found = scores_for(torch.tensor([[[0, 1], [1, 1]]]), 3)
        assert measured(TASK, (found.to(dtype), mask.to(kind))) == measured(TASK, (found, mask))

    def test_without_pixels_that_count(self):
        said = sentence(DataError, lambda: measured(TASK, (torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), 255))))
        assert "no pixel of any mask counts" in said
        assert "no examples" in sentence(DataError, lambda: measured(TASK))


class TestLoss:
    def test_the_mean_over_pixels_that_count(self):
        found, mask = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
        mask[0] = 255
        expected = F.cross_entropy(found[1:], mask[1:])
        assert TASK.loss((found,), (None, mask)).item() == pytest.approx(expected.item())

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("ignore", [None, 255, 0])
    def test_an_auxiliary_classifier_counts_half(self, smoothing: float, ignore: int | None):
        task = Segmentation(ignore=ignore).smoothed(smoothing)
        main, aux, mask = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
        options: Any = {"ignore_index": -100 if ignore is None else ignore, "label_smoothing": smoothing}
        expected = F.cross_entropy(main, mask, **options) + 0.5 * F.cross_entropy(aux, mask, **options)
        loss = task.loss(task.output({"out": main, "aux": aux}), (None, mask))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_a_batch_without_pixels_that_count_teaches_nothing(self):
        found = torch.randn(2, 3, 4, 4, requires_grad=True)
        loss = TASK.loss((found,), (None, torch.full((2, 4, 4), 255)))
        loss.backward()
        assert loss.item() == 0
        assert found.grad.norm() == 0

    def test_nan_is_not_hidden(self):
        found = torch.full((1, 3, 2, 2), math.nan)
        assert math.isnan(TASK.loss((found,), (None, torch.zeros(1, 2, 2, dtype=torch.long))))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_halves_do_not_overflow(self, dtype: torch.dtype):
        found, mask = torch.zeros(1, 3, 400, 400, dtype=dtype), torch.zeros(1, 400, 400, dtype=torch.long)
        assert TASK.loss((found,), (None, mask)).item() == pytest.approx(math.log(3), rel=1e-4)
        assert TASK.imitation((found + 1,), (found,), 2.0).item() == pytest.approx(0, abs=1e-6)

    def test_gradient_and_repetition(self):
        mask, grads = torch.randint(3, (2, 8, 8)), []
        small = torch.randn(2, 3, 4, 4)
        for _ in range(2):
            own = small.clone().requires_grad_()
            TASK.loss(TASK.output({"out": own, "aux": own * 2}), (None, mask)).backward()
            grads.append(own.grad)
        assert grads[0].norm() > 0
        assert torch.equal(*grads)

    def test_imitation_is_the_mean_over_pixels(self):
        own, taught, heat = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 2.0
        p, q = (taught / heat).softmax(1), (own / heat).softmax(1)
        expected = heat**2 * (p * (p / q).log()).sum(1).mean()
        assert TASK.imitation((own,), (taught, own), heat).item() == pytest.approx(expected.item(), rel=1e-5)


class TestBinary:
    def test_one_score_is_that_of_class_1_against_class_0(self):
        score, mask = torch.randn(2, 1, 4, 4, requires_grad=True), torch.randint(2, (2, 4, 4))
        loss = TASK.loss(TASK.output({"out": score, "aux": score}), (None, mask))
        expected = 1.5 * F.binary_cross_entropy_with_logits(score[:, 0], mask.float())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        accuracy = measured(TASK, (score.detach(), mask))[1]
        assert accuracy == pytest.approx(((score[:, 0] > 0) == mask.bool()).float().mean().item())


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.zeros(2, 4, 4), "not float32 of shape (2, 4, 4)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.long), "not int64 of shape (2, 1, 4, 4)"),
        (torch.zeros(3, 4, 4, dtype=torch.long), "of shape (2, height, width)"),
        (torch.zeros(2, dtype=torch.long), "not int64 of shape (2,)"),
        (torch.full((2, 4, 4), 3), "the class 3, but the network has 3 classes, 0 to 2"),
        (torch.full((2, 4, 4), -1), "the class -1, and classes are 0 or more"),
        (torch.full((2, 4, 4), -100), "the class -100"),
        ([torch.zeros(4, 4)] * 2, "not a list of float32 of shape (4, 4)"),
        (None, "not nothing"),
    ],
)
def test_masks_that_do_not_fit(mask: Any, said: str):
    output = (torch.zeros(2, 3, 4, 4),)
    assert said in sentence(DataError, lambda: TASK.loss(output, (None, mask)))
    assert said in sentence(DataError, lambda: TASK.meter(CPU).update(output, (None, mask)))


def test_classes_are_looked_at_without_an_ignored_one_too():
    task, mask = Segmentation(ignore=None), torch.full((1, 2, 2), -100)
    assert "the class -100" in sentence(
        DataError, lambda: task.meter(CPU).update((torch.zeros(1, 3, 2, 2),), (0, mask))
    )
