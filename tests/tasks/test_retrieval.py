from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score
from torch import Tensor
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from measured import measured, sentence
from secateur.errors import DataError, ModelError
from secateur.tasks import Retrieval, retrieval

TASK = Retrieval()


def on_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def brute_force(embeddings: Tensor, labels: Tensor) -> tuple[float, float]:
    """Each image against all others, one after the other, by torchmetrics, which takes no cosine below 0."""
    hits, precisions = list[Tensor](), list[Tensor]()
    for place, own in enumerate(embeddings):
        others = torch.arange(len(labels)) != place
        relevant = labels[others] == labels[place]
        if relevant.any():
            likeness = 2 + (embeddings[others].double() @ own.double())
            hits.append(retrieval_hit_rate(likeness, relevant, top_k=1))
            precisions.append(retrieval_average_precision(likeness, relevant))
    return torch.stack(hits).double().mean().item(), torch.stack(precisions).double().mean().item()


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: [e, None], lambda e: {"logits": e}])
def test_embeddings_have_length_one(wrap: Callable[[Tensor], Any]):
    found = TASK.output(wrap(torch.tensor([[3.0, 4], [0, 0]])))
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


@pytest.mark.parametrize("size", [300.0, 1e-6])
def test_halves_are_measured_in_single_precision(size: float):
    found = TASK.output(torch.full((1, 1000), size, dtype=torch.float16))
    assert found.norm().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(2, 3, 4), "float32 of shape (2, 3, 4)"),
        (torch.zeros(2, 3).long(), "int64 of shape (2, 3)"),
        ({"pooler_output": 1, "hidden": 2}, "a table of pooler_output, hidden"),
        (SimpleNamespace(embeds=1), "a SimpleNamespace"),
        ((), "a tuple of nothing"),
    ],
)
def test_what_came_out_instead_is_said(returned: Any, said: str):
    assert sentence(ModelError, lambda: TASK.output(returned)).endswith(f", not {said}")


class TestMetrics:
    def test_by_hand(self):
        # 0 finds 10 (class 1), 30: 1/2; 30 finds 10, 0: 1/2; 10 finds 0, 30, 90: 1/3; 90 finds 30, 10: 1/2
        value = measured(TASK, (on_circle(0, 30, 10, 90), torch.tensor([0, 0, 1, 1])))
        assert value == (0.0, pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4))
        value = measured(TASK, (on_circle(0, 20, 70, 90, 60), torch.tensor([3, 3, 5, 5, 3])))
        # 0: 20, 60; 20: 0, 60; 60: 70, 90, 20, 0; 70: 60, 90; 90: 70
        assert value == (3 / 5, pytest.approx((1 + 1 + (1 / 3 + 2 / 4) / 2 + 1 / 2 + 1) / 5))

    @pytest.mark.parametrize("held", [1, 200, 1000, 2**23])
    def test_against_brute_force(self, held: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(retrieval, "_HELD", held)
        labels = torch.randint(9, (90,))
        labels[13] = 99  # which has no other
        embeddings = torch.randn(90, 6) + 0.4 * torch.nn.functional.one_hot(labels % 6, 6)
        value = measured(
            TASK, (embeddings[:7], labels[:7]), (embeddings[7:7], labels[:0]), (embeddings[7:], labels[7:])
        )
        assert value == pytest.approx(brute_force(TASK.output(embeddings), labels), rel=1e-5)

    def test_against_scikit_learn(self):
        embeddings, labels = TASK.output(torch.randn(40, 5)), torch.arange(40) % 4
        others = ~torch.eye(40, dtype=torch.bool)
        relevant = (labels[:, None] == labels)[others].reshape(40, 39)
        cosines = (embeddings @ embeddings.T)[others].reshape(40, 39)
        expected = label_ranking_average_precision_score(relevant.numpy(), cosines.numpy())
        assert measured(TASK, (embeddings, labels))[1] == pytest.approx(expected, rel=1e-6)

    def test_the_order_of_images_does_not_matter(self):
        embeddings, labels, order = torch.randn(30, 4), torch.arange(30) % 5, torch.randperm(30)
        assert measured(TASK, (embeddings, labels)) == measured(TASK, (embeddings[order], labels[order]))

    @pytest.mark.parametrize("collapsed", [torch.ones(8, 3), torch.zeros(8, 3), torch.full((8, 3), math.nan)])
    def test_a_network_that_tells_nothing_apart_finds_nothing(self, collapsed: Tensor):
        labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        last = sum(k / (4 + k) for k in (1, 2, 3)) / 3
        assert measured(TASK, (collapsed, labels)) == (0.0, pytest.approx(last))

    @pytest.mark.parametrize("place", range(5))
    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_an_embedding_that_is_no_number_makes_nothing_better(self, place: int, wrong: float):
        embeddings, labels = on_circle(0, 20, 70, 90, 60), torch.tensor([3, 3, 5, 5, 3])
        sound = measured(TASK, (embeddings, labels))
        embeddings[place, 0] = wrong
        worse = measured(TASK, (embeddings, labels))
        assert all(now < before for now, before in zip(worse, sound, strict=True))

    def test_where_nothing_can_be_found(self):
        said = sentence(DataError, lambda: measured(TASK, (torch.randn(3, 2), torch.tensor([0, 1, 2]))))
        assert "no class has two images among these 3" in said
        assert "no examples" in sentence(DataError, lambda: measured(TASK))

    def test_one_class_is_always_found(self):
        assert measured(TASK, (torch.randn(5, 3), torch.zeros(5, dtype=torch.long))) == (1.0, 1.0)


class TestLoss:
    def test_batch_hard_by_hand(self):
        # class 0 at 0 and 90, class 1 at 60 and 120, class 2 alone at 180, which only holds others away
        embeddings = on_circle(0, 90, 60, 120, 180)
        labels = torch.tensor([0, 0, 1, 1, 2])

        def away(degrees: float) -> float:
            return 1 - math.cos(math.radians(degrees))

        margin = 0.2
        terms = [
            away(90) - away(60) + margin,
            away(90) - away(30) + margin,
            away(60) - away(30) + margin,
            away(60) - away(30) + margin,
        ]
        assert TASK.loss(embeddings, (None, labels)).item() == pytest.approx(sum(terms) / 4, rel=1e-5)

    def test_what_is_far_enough_costs_nothing(self):
        embeddings, labels = on_circle(0, 1, 180, 181), torch.tensor([0, 0, 1, 1])
        assert TASK.loss(embeddings, (None, labels)).item() == 0
        assert Retrieval(margin=3.0).loss(embeddings, (None, labels)).item() > 0.9

    @pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]])
    def test_a_batch_without_both_kinds_of_neighbours_teaches_nothing(self, labels: list[int]):
        raw = torch.randn(4, 3, requires_grad=True)
        loss = TASK.loss(TASK.output(raw), (None, torch.tensor(labels)))
        loss.backward()
        assert loss.item() == 0
        assert raw.grad is not None
        assert raw.grad.norm() == 0

    def test_gradient_and_repetition(self):
        raw, labels, grads = torch.randn(8, 3), torch.arange(8) % 2, []
        for _ in range(2):
            own = raw.clone().requires_grad_()
            TASK.loss(TASK.output(own), (None, labels)).backward()
            grads.append(own.grad)
        assert grads[0].isfinite().all()
        assert grads[0].norm() > 0
        assert torch.equal(*grads)

    def test_nan_is_not_hidden(self):
        embeddings = on_circle(0, 20, 70, 90)
        embeddings[0] = math.nan
        assert math.isnan(TASK.loss(embeddings, (None, torch.tensor([0, 0, 1, 1]))))

    def test_imitation_is_of_cosines_whatever_the_size_of_embeddings(self):
        own, taught = on_circle(0, 60), torch.eye(2, 5, dtype=torch.float64)
        assert TASK.imitation(own, taught, 1.0).item() == pytest.approx(2 * 0.5**2 / 4)
        assert TASK.imitation(own, own, 1.0).item() == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.zeros(3), "of shape (3,), not float32 of shape (3,)"),
        (torch.zeros(2).long(), "not int64 of shape (2,)"),
        (torch.zeros(3, 1).long(), "not int64 of shape (3, 1)"),
        ([0, 1, 2], "not a list"),
        (None, "not nothing"),
    ],
)
def test_targets_that_do_not_fit(target: Any, said: str):
    output = torch.eye(3)
    assert said in sentence(DataError, lambda: TASK.loss(output, (None, target)))
    assert said in sentence(DataError, lambda: TASK.meter(torch.device("cpu")).update(output, (None, target)))
