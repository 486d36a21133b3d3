from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score
from torch import Tensor

from measured import measured, sentence
from secateur.errors import DataError, ModelError
from secateur.tasks import Regression

TASK = Regression()


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: (n, None), lambda n: SimpleNamespace(logits=n)])
def test_numbers_are_found(wrap: Any):
    assert TASK.output(wrap(torch.zeros(3, 2))).shape == (3, 2)
    assert TASK.output(wrap(torch.zeros(3))).shape == (3, 1)
    assert TASK.output(wrap(torch.zeros(0))).shape == (0, 1)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(3, 2, 1), "float32 of shape (3, 2, 1)"),
        (torch.zeros(3).long(), "int64 of shape (3,)"),
        (torch.tensor(1.0), "float32 of shape ()"),
        ({"out": 1}, "a table of out"),
        (None, "nothing"),
    ],
)
def test_what_came_out_instead_is_said(returned: Any, said: str):
    assert sentence(ModelError, lambda: TASK.output(returned)).endswith(f", not {said}")


class TestMetrics:
    def test_by_hand(self):
        # squared errors 1, 0, 0, 1; the squared distances from the mean of 3 are 4, 0, 0, 4
        found, wanted = torch.tensor([2.0, 3, 3, 4]), torch.tensor([1.0, 3, 3, 5])
        assert measured(TASK, (found, wanted)) == (pytest.approx(1 - 2 / 8), pytest.approx(0.5))

    @pytest.mark.parametrize("scale", [1e-5, 1.0, 1e6])
    @pytest.mark.parametrize("offset", [0.0, 1e4])
    def test_against_scikit_learn(self, scale: float, offset: float):
        wanted = torch.randn(30, 3, dtype=torch.float64) * scale + offset
        found = wanted + torch.randn(30, 3, dtype=torch.float64) * scale
        r_squared, error = measured(TASK, (found, wanted))
        assert r_squared == pytest.approx(r2_score(wanted.numpy(), found.numpy()))
        assert error == pytest.approx(mean_absolute_error(wanted.numpy(), found.numpy()))
        parts = measured(TASK, (found[:1], wanted[:1]), (found[1:30], wanted[1:30]), (found[30:], wanted[30:]))
        assert parts == (pytest.approx(r_squared), pytest.approx(error))

    def test_a_target_that_never_changes(self):
        assert measured(TASK, (torch.ones(3), torch.ones(3)))[0] == 1
        assert measured(TASK, (torch.tensor([1.0, 1, 2]), torch.ones(3)))[0] == 0

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
    def test_outputs_that_are_no_numbers_are_worse_than_any(self, wrong: float):
        values = measured(TASK, (torch.tensor([1.0, wrong, 3]), torch.tensor([1.0, 2, 3])))
        for metric, value in zip(TASK.metrics, values, strict=True):
            assert metric.key(value) == -math.inf

    def test_whole_targets_are_numbers(self):
        big = 2**24 + 1
        assert measured(TASK, (torch.tensor([0.0, 0], dtype=torch.float64), torch.tensor([0, big])))[1] == big / 2

    @pytest.mark.parametrize(
        ("seen", "said"), [([], "no examples"), ([(torch.ones(1), torch.ones(1))], "two examples")]
    )
    def test_too_few_examples(self, seen: Any, said: str):
        assert said in sentence(DataError, lambda: measured(TASK, *seen))


class TestLoss:
    @pytest.mark.parametrize("target", [torch.tensor([1.0, 2, 4]), torch.tensor([[1], [2], [4]])])
    def test_the_mean_squared_error(self, target: Tensor):
        found = torch.tensor([[1.0], [1], [2]], requires_grad=True)
        loss = TASK.loss(TASK.output(found), (None, target))
        loss.backward()
        assert loss.item() == pytest.approx(5 / 3)
        assert found.grad.flatten().tolist() == pytest.approx([0, -2 / 3, -4 / 3])

    def test_halves_do_not_overflow(self):
        found = torch.zeros(2, 1, dtype=torch.float16, requires_grad=True)
        loss = TASK.loss(TASK.output(found), (None, torch.tensor([1e5, 300.0])))
        assert loss.item() == pytest.approx((1e10 + 9e4) / 2)

    def test_imitation_is_of_the_numbers(self):
        own = torch.tensor([[1.0, 2.0]], requires_grad=True)
        TASK.imitation(own, torch.tensor([[1.0, 1.0]]), 1.0).backward()
        assert own.grad.tolist() == [[0, pytest.approx(1.0)]]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.zeros(2, 3), "of shape (3, 2), not float32 of shape (2, 3)"),
        (torch.zeros(6), "not float32 of shape (6,)"),
        (torch.zeros(3, 1), "not float32 of shape (3, 1)"),
        (torch.zeros(3, 2, dtype=torch.complex64), "not complex64"),
        (torch.full((3, 2), math.nan), "a target is NaN"),
        (torch.full((3, 2), math.inf), "a target is NaN or infinite"),
        ([1.0, 2.0], "not a list"),
        (None, "not nothing"),
    ],
)
def test_targets_that_do_not_fit(target: Any, said: str):
    output = torch.zeros(3, 2)
    assert said in sentence(DataError, lambda: TASK.loss(output, (None, target)))
    assert said in sentence(DataError, lambda: TASK.meter(torch.device("cpu")).update(output, (None, target)))
