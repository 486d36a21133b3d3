from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassF1Score

from measured import measured, sentence
from secateur.errors import DataError, ModelError, SettingError
from secateur.tasks import Custom

CPU = torch.device("cpu")


def closeness(output: Tensor, target: Tensor) -> float:
    return -(output - target).abs().mean().item()


def task(**options: Any) -> Custom:
    return Custom(**{"criterion": F.mse_loss, "score": closeness, **options})


@dataclass
class Scene:
    points: Tensor
    depth: Tensor


class Summed:
    """The least that sees all batches."""

    def __init__(self) -> None:
        self.sum = 5.0

    def reset(self) -> None:
        self.sum = 0.0

    def update(self, output: Tensor, target: Tensor) -> None:
        self.sum += float((output * target).sum())

    def compute(self) -> float:
        return self.sum


def test_its_metric_is_called_as_wanted():
    (metric,) = task(title="F1", unit="%", higher_is_better=False).metrics
    assert (metric.name, metric.unit, metric.higher_is_better) == ("F1", "%", False)
    assert task(title="F1").to_dict() == {"name": "a task of your own", "metric": "F1"}


def test_loss_and_gradient():
    output = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = task().loss(output, (None, torch.tensor([0.0, 0.0])))
    loss.backward()
    assert loss.item() == 2.5
    assert output.grad is not None
    assert output.grad.tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_loss_of_one_number_is_a_scalar(shape: tuple[int, ...]):
    loss = task(criterion=lambda o, t: (o - t).sum().reshape(shape)).loss(torch.ones(2), (None, torch.zeros(2)))
    assert loss.shape == ()


def test_weights_of_a_loss_follow_the_output():
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3))
    loss = task(criterion=criterion).loss(
        torch.zeros(2, 3, device="meta"), (None, torch.zeros(2, dtype=torch.long, device="meta"))
    )
    assert loss.device.type == "meta"
    assert criterion.weight is not None
    assert criterion.weight.device.type == "meta"


class TestScore:
    def test_examples_count_the_same(self):
        found, wanted = torch.randn(7, 2), torch.randn(7, 2)
        batches = [((found[a:b]), wanted[a:b]) for a, b in [(0, 4), (4, 4), (4, 7)]]
        meter = task().meter(CPU)
        for output, target in batches:
            meter.update(output, (torch.zeros(len(output), 3), target))
        assert meter.compute() == (pytest.approx(closeness(found, wanted)),)

    @pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), torch.tensor([[0.5]]), torch.tensor(0.5).numpy()])
    def test_any_number(self, value: Any):
        meter = task(score=lambda o, t: value).meter(CPU)
        meter.update(torch.zeros(2), (torch.zeros(2), torch.zeros(2)))
        assert meter.compute() == (0.5,)

    def test_nan_is_worse_than_any(self):
        custom = task()
        meter = custom.meter(CPU)
        for output in (torch.zeros(2), torch.full((2,), math.nan)):
            meter.update(output, (torch.zeros(2), torch.zeros(2)))
        assert custom.metric.key(meter.compute()[0]) == -math.inf

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("0.9", "not a str"),
            (b"0.9", "not a bytes"),
            (None, "not nothing"),
            (torch.zeros(2), "not float32 of shape (2,)"),
            ({"f1": 1.0}, "not a table of f1"),
            ([1.0], "not a list of a float"),
            (1j, "not a complex"),
        ],
    )
    @pytest.mark.parametrize("whole", [False, True])
    def test_what_is_no_number(self, value: Any, said: str, whole: bool):
        score = Summed() if whole else lambda o, t: value
        if whole:
            score.compute = lambda: value  # type: ignore[method-assign]
        meter = task(score=score).meter(CPU)

        def ask() -> None:
            meter.update(torch.zeros(2), (torch.zeros(2), torch.zeros(2)))
            meter.compute()

        assert sentence(DataError, ask) == f"the score of the task must be a number, {said}"


class TestWhole:
    def test_a_metric_of_torchmetrics_sees_all_batches(self):
        found, labels = torch.randn(20, 3), torch.arange(20) % 3
        score = MulticlassF1Score(3, average="macro")
        expected = score(found, labels).item()
        assert measured(task(score=score), (found[:6], labels[:6]), (found[6:], labels[6:])) == (
            pytest.approx(expected),
        )
        assert score.compute().item() == pytest.approx(expected)  # and the user's own is left alone

    def test_anything_that_can_do_the_same(self):
        ones = torch.ones(3)
        assert measured(task(score=Summed()), (ones, ones), (ones[:1], ones[:1])) == (4.0,)

    def test_two_meters_do_not_mix(self):
        custom, ones = task(score=MeanAbsoluteError()), torch.ones(2)
        first, second = custom.meter(CPU), custom.meter(CPU)
        first.update(ones, (None, ones))
        second.update(ones, (None, 3 * ones))
        assert (first.compute(), second.compute()) == ((0.0,), (2.0,))

    def test_one_that_fails(self):
        meter = task(score=MeanAbsoluteError()).meter(CPU)
        said = sentence(ModelError, lambda: meter.update(torch.ones(2), (None, torch.ones(3))))
        assert said.startswith("the score of the task does not take what the network returned (float32 of shape (2,))")

    def test_one_that_cannot_be_asked_or_reset(self):
        broken = Summed()
        broken.compute = lambda: 1 / 0  # type: ignore[method-assign]
        meter = task(score=broken).meter(CPU)
        meter.update(torch.ones(1), (None, torch.ones(1)))
        assert "cannot be computed: ZeroDivisionError" in sentence(ModelError, meter.compute)
        broken.reset = lambda: 1 / 0  # type: ignore[method-assign]
        assert "cannot be copied and reset" in sentence(SettingError, lambda: task(score=broken).meter(CPU))


@pytest.mark.parametrize("score", [closeness, Summed()])
def test_without_examples(score: Any):
    assert "no examples" in sentence(DataError, lambda: measured(task(score=score)))


class TestBatches:
    batch = Scene(torch.zeros(4, 3), torch.ones(4))

    def test_of_any_kind(self):
        custom = task(network_inputs=lambda scene: (scene.points,), targets=lambda scene: scene.depth)
        assert custom.inputs(self.batch, training=True) == (self.batch.points,)
        assert custom.target(self.batch) is self.batch.depth
        assert custom.count(self.batch) == 4

    def test_usual_ones_need_nothing(self):
        assert task().inputs({"a": 1, "labels": 2}) == {"a": 1}
        assert task().target((1, 2)) == 2

    @pytest.mark.parametrize("name", ["network_inputs", "targets"])
    def test_what_fails_on_a_batch(self, name: str):
        custom = task(**{name: lambda batch: batch["x"]})
        ask = custom.inputs if name == "network_inputs" else custom.target
        said = sentence(DataError, lambda: ask(self.batch))
        assert said.startswith(f"{name} of the task does not take a batch (a Scene): TypeError")

    @pytest.mark.parametrize("found", [None, 3, SimpleNamespace()])
    def test_what_no_network_is_called_with(self, found: Any):
        assert "network_inputs" in sentence(
            DataError, lambda: task(network_inputs=lambda batch: found).inputs(self.batch)
        )


class TestFaults:
    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (torch.zeros(2), "not float32 of shape (2,)"),
            (1.5, "not a float"),
            (None, "not nothing"),
            ((torch.zeros(()), 3), "not a tuple of float32 of shape (), a int"),
        ],
    )
    def test_a_loss_that_is_no_scalar(self, value: Any, said: str):
        custom = task(criterion=lambda o, t: value)
        assert sentence(DataError, lambda: custom.loss(torch.zeros(2), (None, torch.zeros(2)))).endswith(said)

    @pytest.mark.parametrize("detached", [lambda o, t: o.detach().sum(), lambda o, t: (o.argmax() == t).sum()])
    def test_a_loss_without_gradient(self, detached: Any):
        custom, output = task(criterion=detached), {"a": torch.zeros(2, requires_grad=True)}
        custom = task(criterion=lambda o, t: detached(o["a"], t))
        assert "without gradient" in sentence(DataError, lambda: custom.loss(output, (None, torch.tensor(0))))
        judged = {"a": torch.zeros(2)}
        assert custom.loss(judged, (None, torch.tensor(0))).shape == ()

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("one\ntwo"),
            KeyError("x"),
            AssertionError(),
            ZeroDivisionError("0"),
            OSError("gone"),
            Exception(),
        ],
    )
    def test_callables_that_raise(self, error: Exception):
        def fail(output: Any, target: Any) -> Any:
            raise error

        batch = (torch.zeros(2), torch.zeros(2))
        custom = task(criterion=fail, score=fail)
        for name, ask in (("criterion", custom.loss), ("score", custom.meter(CPU).update)):
            said = sentence(ModelError, lambda ask=ask: ask({"out": 1}, batch))
            assert f"the {name} of the task does not take what the network returned (a table of out)" in said
            assert type(error).__name__ in said

    @pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), DataError("told"), KeyboardInterrupt()])
    def test_what_has_nothing_to_do_with_them_goes_on(self, error: BaseException):
        def fail(output: Any, target: Any) -> Any:
            raise error

        with pytest.raises(type(error)) as caught:
            task(criterion=fail).loss(torch.zeros(2), (None, torch.zeros(2)))
        assert caught.value is error

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"criterion": 3}, "'criterion'"),
            ({"score": 3}, "score of a task must be a function"),
            ({"score": "accuracy"}, "it is a str"),
            ({"score": None}, "it is nothing"),
            ({"title": ""}, "'name' must be"),
            ({"unit": 3}, "'unit'"),
            ({"higher_is_better": "no"}, "'higher_is_better'"),
            ({"network_inputs": 3}, "'network_inputs'"),
        ],
    )
    def test_settings_of_another_kind(self, wrong: dict[str, Any], said: str):
        assert said in sentence(SettingError, lambda: task(**wrong))


def test_what_returns_nothing_that_another_could_imitate():
    assert "'distill'" in sentence(SettingError, lambda: task().imitation("text", "text", 1.0))


@pytest.mark.parametrize("value", [50.0, 1.1, -0.2])
def test_a_share_that_is_none_is_refused(value: float):
    class Said(Summed):
        def compute(self) -> float:
            return value

    def found(own: Custom) -> tuple[float, ...]:
        meter, ones = own.meter(CPU), torch.ones(2)
        meter.update(ones, (ones, ones))
        return tuple(meter.compute())

    for score in (lambda output, target: value, Said()):
        said = sentence(DataError, lambda score=score: found(task(score=score, unit="%")))
        assert f"must be a fraction in 0..1, and it is {value:g}" in said
        assert found(task(score=score)) == (value,)
