from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from measured import measured, sentence
from secateur.errors import DataError, ModelError
from secateur.tasks import Classification

ONE, MANY = Classification(), Classification(multi_label=True)
CPU = torch.device("cpu")


class ModelOutput(OrderedDict[str, Any]):
    """Like those of transformers: a table whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(12, 4)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(12) % 4


class TestOutput:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda s: s,
            lambda s: (s, torch.zeros(1)),
            lambda s: [s],
            lambda s: {"logits": s, "loss": torch.zeros(())},
            lambda s: ModelOutput(loss=None, logits=s),
            lambda s: SimpleNamespace(logits=s, aux_logits=None),
        ],
    )
    def test_scores_are_found(self, wrap: Any, scores: Tensor):
        assert ONE.output(wrap(scores)) is scores

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            (torch.zeros(2, 3, 4, 4), "float32 of shape (2, 3, 4, 4)"),
            (torch.zeros(2, 3, dtype=torch.long), "int64 of shape (2, 3)"),
            ({"out": torch.zeros(2, 3)}, "a table of out"),
            ([torch.zeros(2), 3], "a list of float32 of shape (2,), a int"),
            ([{"boxes": 1}], "a list of a table of boxes"),
            ((), "a tuple of nothing"),
            (None, "nothing"),
            ("scores", "a str"),
        ],
    )
    @pytest.mark.parametrize("task", [ONE, MANY])
    def test_what_came_out_instead_is_said(self, task: Classification, returned: Any, said: str):
        assert sentence(ModelError, lambda: task.output(returned)).endswith(f", not {said}")


class TestAccuracy:
    def test_by_hand(self):
        found = torch.tensor([[9.0, 1, 0], [0, 1, 2], [5, 6, 1], [0, 0, 1]])
        assert measured(ONE, (found, torch.tensor([0, 1, 1, 2]))) == (0.75,)
        assert ONE.right(found, (None, torch.tensor([0, 1, 1, 2]))) == 3

    def test_batches_count_by_their_images(self, scores: Tensor, labels: Tensor):
        parts = [(scores[a:b], labels[a:b]) for a, b in [(0, 7), (7, 7), (7, 8), (8, 12)]]
        expected = (scores.argmax(1) == labels).double().mean()
        assert measured(ONE, *parts) == measured(ONE, (scores, labels)) == (pytest.approx(expected.item()),)

    @pytest.mark.parametrize("label", range(3))
    def test_nan_is_wrong_for_every_label(self, label: int):
        one_nan = torch.zeros(1, 3).index_fill(1, torch.tensor([label]), math.nan)
        target = torch.tensor([label])
        assert measured(ONE, (one_nan, target)) == measured(ONE, (torch.full((1, 3), math.nan), target)) == (0.0,)

    def test_infinite_scores_are_scores(self):
        assert measured(ONE, (torch.tensor([[math.inf, 0], [-math.inf, 0]]), torch.tensor([0, 1]))) == (1.0,)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_precision(self, dtype: torch.dtype, scores: Tensor, labels: Tensor):
        exact = (10 * scores).round()
        assert measured(ONE, (exact.to(dtype), labels.int())) == measured(ONE, (exact, labels))


class TestBinary:
    def test_one_score_is_that_of_class_1_against_class_0(self):
        score, labels = torch.tensor([[2.0], [-1.0], [0.5]], requires_grad=True), torch.tensor([1, 0, 0])
        output = ONE.output(score)
        loss = ONE.loss(output, (None, labels))
        told = F.binary_cross_entropy_with_logits(score.flatten(), labels.float())
        assert loss.item() == pytest.approx(told.item())
        assert torch.autograd.grad(loss, score)[0].norm() > 0
        assert measured(ONE, (score.detach(), labels)) == (pytest.approx(2 / 3),)
        assert ONE.right(output, (None, labels)) == 2

    @pytest.mark.parametrize("labels", [torch.tensor([1, 0, 0]), torch.tensor([[1.0], [0], [0]])])
    def test_as_a_label_that_is_there_or_not(self, labels: Tensor):
        score = torch.tensor([[2.0], [-1.0], [0.5]])
        expected = F.binary_cross_entropy_with_logits(score, labels.reshape(3, 1).float())
        assert MANY.loss(MANY.output(score), (None, labels)).item() == pytest.approx(expected.item())
        assert measured(MANY, (score, labels)) == (1.0,)


class TestLabels:
    def test_by_hand(self):
        # class 0 is found at the places 1 and 3: (1 + 2/3) / 2; class 1 at place 2; class 2 is nowhere
        found = torch.tensor([[4.0, 1, 9], [3, 9, 9], [2, 0, 9]])
        target = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
        assert measured(MANY, (found, target)) == (pytest.approx((5 / 6 + 1 / 2) / 2),)

    def test_against_libraries(self):
        found, target = torch.randn(40, 5), torch.randint(2, (40, 5))
        value = measured(MANY, (found[:11], target[:11]), (found[11:], target[11:].float()))
        assert value == (pytest.approx(average_precision_score(target.numpy(), found.numpy())),)
        assert value == (pytest.approx(multilabel_average_precision(found, target, 5).item(), abs=1e-6),)

    def test_large_scores_are_no_ties(self):
        found, target = torch.tensor([[101.0], [102.0], [103.0]]), torch.tensor([[0], [0], [1]])
        assert measured(MANY, (found, target)) == (1.0,)

    def test_a_class_that_all_have(self):
        assert measured(MANY, (torch.randn(4, 1), torch.ones(4, 1))) == (1.0,)

    @pytest.mark.parametrize("wrong", [math.inf, -math.inf, 0.0])
    def test_scores_that_are_all_the_same_tell_nothing(self, wrong: float):
        target = torch.randint(2, (20, 3))
        assert measured(MANY, (torch.full((20, 3), wrong), target)) == (pytest.approx(target.double().mean().item()),)

    @pytest.mark.filterwarnings("error")
    def test_infinite_scores_are_scores(self):
        found = torch.tensor([[math.inf], [-math.inf], [0], [3e38], [-3e38]])
        assert measured(MANY, (found, torch.tensor([[1], [0], [0], [1], [0]]))) == (1.0,)
        assert measured(MANY, (found, torch.tensor([[0], [1], [0], [0], [0]]))) == (pytest.approx(1 / 5),)

    def test_all_nan_is_the_worst_there_is(self):
        target = torch.tensor([[0], [1], [0], [1]])
        assert measured(MANY, (torch.full((4, 1), math.nan), target)) == (
            pytest.approx(2 / 4),
        )  # found at once, at last

    @pytest.mark.parametrize("place", range(6))
    def test_a_nan_never_makes_it_better(self, place: int):
        found, target = torch.tensor([[6.0], [5], [4], [3], [2], [1]]), torch.tensor([[1], [0], [1], [1], [0], [0]])
        worse = found.clone()
        worse[place] = math.nan
        assert measured(MANY, (worse, target)) <= measured(MANY, (found, target))

    def test_without_any_label(self):
        said = sentence(DataError, lambda: measured(MANY, (torch.randn(3, 2), torch.zeros(3, 2))))
        assert "no image has any label" in said


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_the_cross_entropy(self, smoothing: float, scores: Tensor, labels: Tensor):
        task = ONE.smoothed(smoothing)
        wanted = (1 - smoothing) * F.one_hot(labels, 4) + smoothing / 4
        expected = -(wanted * scores.log_softmax(1)).sum(1).mean()
        assert task.loss(scores, (None, labels)).item() == pytest.approx(expected.item())
        assert task.label_smoothing == smoothing

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_the_binary_cross_entropy(self, smoothing: float, scores: Tensor):
        target = torch.randint(2, scores.shape)
        wanted = target * (1 - smoothing) + smoothing / 2
        p = scores.sigmoid()
        expected = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
        loss = MANY.smoothed(smoothing).loss(scores, (None, target))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("task", [ONE, MANY])
    def test_gradient_and_repetition(self, task: Classification, scores: Tensor, labels: Tensor):
        target = F.one_hot(labels, 4) if task.multi_label else labels
        grads = []
        for _ in range(2):
            own = scores.clone().requires_grad_()
            task.loss(task.output(own), (None, target)).backward()
            grads.append(own.grad)
        assert grads[0].norm() > 0
        assert torch.equal(*grads)

    def test_class_numbers_of_other_types(self, scores: Tensor, labels: Tensor):
        expected = ONE.loss(scores, (None, labels))
        for dtype in (torch.int32, torch.int16, torch.uint8):
            assert ONE.loss(scores, (None, labels.to(dtype))) == expected

    def test_classes_of_a_table(self, scores: Tensor, labels: Tensor):
        batch = {"pixel_values": torch.zeros(12, 3, 2, 2), "labels": labels}
        assert ONE.loss(scores, batch) == ONE.loss(scores, (None, labels))
        assert ONE.count(batch) == 12


class TestImitation:
    def test_of_softened_probabilities(self, scores: Tensor):
        taught, heat = torch.randn(12, 4), 3.0
        p, q = (taught / heat).softmax(1), (scores / heat).softmax(1)
        expected = heat**2 * (p * (p / q).log()).sum(1).mean()
        assert ONE.imitation(scores, taught.double(), heat).item() == pytest.approx(expected.item(), rel=1e-5)
        assert ONE.imitation(scores, scores, heat).item() == pytest.approx(0, abs=1e-6)

    def test_of_labels(self, scores: Tensor):
        own = torch.randn(12, 4, requires_grad=True)
        MANY.imitation(own, scores, 2.0).backward()
        expected = (own.sigmoid() - scores.sigmoid()) / own.numel()
        assert torch.allclose(own.grad, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("task", "target", "kind", "said"),
    [
        (ONE, torch.tensor([0, 1, 4]), DataError, "there is the label 4, but the model has 4 outputs"),
        (ONE, torch.tensor([0, -1, 1]), DataError, "there is the label -1"),
        (ONE, torch.tensor([0.0, 1, 2]), DataError, "not float32 of shape (3,)"),
        (ONE, torch.tensor([[0], [1], [2]]), DataError, "not int64 of shape (3, 1)"),
        (ONE, torch.tensor([0, 1]), ModelError, "3 rows of scores for 2 images"),
        (ONE, [0, 1, 2], DataError, "not a list of a int, a int, a int"),
        (ONE, None, DataError, "not nothing"),
        (MANY, torch.zeros(3, 5), DataError, "not float32 of shape (3, 5)"),
        (MANY, torch.tensor([0, 1, 2]), DataError, "for each of 4 classes"),
        (MANY, None, DataError, "not nothing"),
    ],
)
def test_targets_that_do_not_fit(task: Classification, target: Any, kind: Any, said: str):
    output = torch.zeros(3, 4, requires_grad=True)
    assert said in sentence(kind, lambda: task.loss(output, (None, target)))
    assert said in sentence(kind, lambda: task.meter(CPU).update(output.detach(), (None, target)))


@pytest.mark.parametrize("wrong", [2.0, -1.0, 0.5, math.nan])
def test_labels_that_are_neither_there_nor_not(wrong: float):
    target = torch.tensor([[0.0, wrong]])
    assert f"there is a {wrong:g}" in sentence(DataError, lambda: measured(MANY, (torch.zeros(1, 2), target)))


@pytest.mark.parametrize("task", [ONE, MANY])
@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))]])
def test_without_examples(task: Classification, batches: Any):
    if task.multi_label:
        batches = [(found, torch.zeros(0, 3)) for found, _ in batches]
    assert "no examples" in sentence(DataError, lambda: measured(task, *batches))
