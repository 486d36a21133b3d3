from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from measured import sentence
from secateur.core.surgery.forward import count_of
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError, SettingError

SHARE = Metric("accuracy", "%", digits=2)
ERROR = Metric("error", "mm", higher_is_better=False, digits=1)
PLAIN = Metric("score")
Batch = namedtuple("Batch", "images labels")


@dataclass(frozen=True)
class Depth(Task):
    name = "depth"
    metrics = (ERROR,)
    places: tuple[int, ...] = (1, 2)
    weights: dict[str, float] | None = None
    code: Callable[[], None] | None = None

    def loss(self, output: Any, batch: Any) -> Tensor:
        return (output - self.target(batch)).square().mean()

    def meter(self, device: torch.device) -> Meter:
        raise NotImplementedError


class TestMetric:
    def test_a_share_is_shown_in_hundredths(self):
        assert SHARE.text(0.91234) == "91.23 %"
        assert (SHARE.scale, SHARE.title) == (100.0, "accuracy in %")

    def test_others_are_shown_as_they_are(self):
        assert ERROR.text(3.14159) == "3.1 mm"
        assert PLAIN.text(0.5) == "0.500"
        assert (ERROR.scale, ERROR.title, PLAIN.title) == (1.0, "error in mm", "score")

    def test_a_change_has_a_sign_and_shares_change_by_points(self):
        assert SHARE.change(0.9, 0.8855) == "-1.45 points"
        assert ERROR.change(1, 2) == "+1.0 mm"
        assert PLAIN.change(1, 0.5) == "-0.500"

    @pytest.mark.parametrize("after", [0.9, 0.9 - 1e-9, 0.9 + 1e-9])
    def test_no_change_that_can_be_seen_has_no_minus(self, after: float):
        assert SHARE.change(0.9, after) == "+0.00 points"

    def test_what_was_lost_is_positive_whatever_the_direction(self):
        assert SHARE.lost(0.9, 0.8) == pytest.approx(0.1)
        assert ERROR.lost(1, 3) == 2
        assert ERROR.lost(3, 1) == -2

    @pytest.mark.parametrize("metric", [SHARE, ERROR])
    def test_nan_is_never_a_gain(self, metric: Metric):
        assert metric.lost(0.9, math.nan) == math.inf
        assert metric.lost(math.nan, 0.9) == -math.inf
        assert metric.lost(math.nan, math.nan) == 0
        assert metric.lost(math.inf, math.inf) == 0

    @pytest.mark.parametrize(("metric", "worst_first"), [(SHARE, [None, 0.1, 0.9]), (ERROR, [math.nan, 9.0, 1.0])])
    def test_keys_grow_with_quality(self, metric: Metric, worst_first: list[float | None]):
        keys = [metric.key(value) for value in worst_first]
        assert keys == sorted(keys)
        assert len(set(keys)) == 3

    def test_extreme_values_are_shown(self):
        assert ERROR.text(math.nan) == "nan mm"
        assert ERROR.change(0, math.inf) == "+inf mm"

    @pytest.mark.parametrize("wrong", [{"name": ""}, {"name": 3}, {"digits": -1}, {"digits": 1.5}, {"unit": None}])
    def test_what_cannot_be_shown_is_refused(self, wrong: dict[str, Any]):
        assert f"'{next(iter(wrong))}'" in sentence(SettingError, lambda: Metric(**{"name": "score", **wrong}))


class TestBatches:
    images, labels = torch.zeros(3, 2), torch.tensor([0, 1, 2])

    @pytest.mark.parametrize("kind", [tuple, list, lambda parts: Batch(*parts)])
    def test_a_pair(self, kind: Any):
        batch = kind([self.images, self.labels])
        assert Depth().inputs(batch) is self.images
        assert Depth().target(batch) is self.labels
        assert Depth().count(batch) == 3

    @pytest.mark.parametrize("name", ["labels", "label", "targets", "target"])
    @pytest.mark.parametrize("kind", [dict, OrderedDict])
    def test_a_table(self, kind: Any, name: str):
        batch = kind(image=self.images, scale=torch.ones(3))
        batch[name] = self.labels
        inputs = Depth().inputs(batch, training=True)
        assert isinstance(inputs, dict)
        assert list(inputs) == ["image", "scale"]
        assert Depth().target(batch) is self.labels
        assert Depth().count(batch) == 3

    def test_several_inputs(self):
        assert Depth().count(((self.images, torch.zeros(3, 5)), self.labels)) == 3

    def test_an_input_without_rows_is_one_and_no_input_is_refused(self):
        assert Depth().count((torch.tensor(1.0), self.labels)) == 1
        with pytest.raises(DataError, match="must be tensors, and there are none in a list"):
            Depth().count(([], self.labels))

    @pytest.mark.parametrize(
        ("batch", "said"),
        [
            (torch.zeros(2), "one is a Tensor"),
            (None, "one is a NoneType"),
            ("ab", "one is a str"),
            (SimpleNamespace(images=1, labels=2), "one is a SimpleNamespace"),
            ((torch.zeros(2),), "one has 1 parts"),
            ([1, 2, 3], "one has 3 parts"),
        ],
    )
    def test_what_is_no_batch(self, batch: Any, said: str):
        assert said in sentence(DataError, lambda: Depth().inputs(batch))
        assert said in sentence(DataError, lambda: Depth().target(batch))

    def test_tables_that_lack_something(self):
        assert "it has image, and" in sentence(DataError, lambda: Depth().target({"image": self.images}))
        assert "it has nothing" in sentence(DataError, lambda: Depth().target({}))
        assert "without inputs; it has labels" in sentence(DataError, lambda: Depth().inputs({"labels": self.labels}))


class TestImitation:
    def test_the_relative_squared_error_of_each_tensor(self):
        own = {"a": torch.tensor([1.0, 2.0], requires_grad=True), "b": torch.tensor([[3.0]])}
        told = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[2.0]])}
        loss = Depth().imitation(own, told, 4.0)
        assert loss.item() == pytest.approx((1 / 2 + 1 / 4) / 2)
        loss.backward()
        assert own["a"].grad is not None
        assert own["a"].grad.tolist() == pytest.approx([0, 0.5])

    def test_a_network_that_returns_the_same_has_nothing_to_learn(self):
        same = (torch.zeros(2, 3), torch.randn(2, 3))
        assert Depth().imitation(same, same, 1.0).item() == 0

    def test_halves_do_not_overflow(self):
        own, told = torch.full((1000,), 300.0, dtype=torch.float16), torch.full((1000,), 200.0, dtype=torch.float16)
        assert Depth().imitation(own, told, 1.0).item() == pytest.approx(0.25)

    def test_what_cannot_be_imitated(self):
        whole = torch.zeros(2, dtype=torch.long)
        assert "set 'distill' to 0" in sentence(SettingError, lambda: Depth().imitation(whole, whole, 1.0))

    @pytest.mark.parametrize("told", [torch.zeros(2, 4), (torch.zeros(2, 3), torch.zeros(1)), None])
    def test_a_teacher_that_returns_something_else(self, told: Any):
        said = sentence(ModelError, lambda: Depth().imitation(torch.zeros(2, 3), told, 1.0))
        assert "learns from it of shape (2, 3)" in said


class TestTask:
    def test_the_first_metric_decides(self):
        assert Depth().metric is ERROR

    def test_defaults(self):
        task, returned = Depth(), object()
        assert task.output(returned) is returned
        assert task.right(torch.zeros(2), (None, None)) is None
        assert task.judges_loss

    def test_labels_that_are_no_classes_cannot_be_smoothed(self):
        task = Depth()
        assert task.smoothed(0.0) is task
        assert "depth has none" in sentence(SettingError, lambda: task.smoothed(0.1))

    def test_it_is_recorded_in_what_json_has(self):
        assert json.loads(json.dumps(Depth().to_dict())) == {
            "name": "depth",
            "places": [1, 2],
            "weights": None,
            "code": None,
        }

    def test_what_json_lacks_is_left_out(self):
        task = Depth(places=(1, 2), weights={"a": torch.ones(1)}, code=print)  # type: ignore[dict-item]
        assert json.loads(json.dumps(task.to_dict())) == {"name": "depth", "places": [1, 2]}

    def test_a_task_need_not_be_a_dataclass(self):
        class Plain(Task):
            name = "plain"
            metrics = (PLAIN,)
            loss = Depth.loss
            meter = Depth.meter

        assert Plain().to_dict() == {"name": "plain"}


@pytest.mark.parametrize(
    ("inputs", "count"),
    [
        (torch.zeros(4, 3, 8, 8), 4),
        ({"mask": torch.zeros(2, 5), "image": torch.zeros(2, 3)}, 2),
        ([torch.zeros(3, 8, 8)] * 2, 2),
        (([torch.zeros(3, 8, 8)] * 5,), 5),
        (torch.tensor(1.0), 1),
        (((), {"a": []}), None),
    ],
)
def test_examples_are_rows_or_the_images_of_a_list(inputs: object, count: int | None) -> None:
    assert count_of(inputs) == count
