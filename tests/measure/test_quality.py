from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.errors import ArtifactError, DataError, ModelError
from secateur.events import Event
from secateur.measure import Quality, quality
from secateur.measure.quality import warn_of_nan
from secateur.tasks import ACCURACY, Classification, Metric


class Scores(nn.Module):
    """Returns its images as scores, wrapped as asked."""

    def __init__(self, wrap: Any = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False, momentum=0.5)
        self.dropout = nn.Dropout(0.9)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        scores = self.dropout(x.flatten(1)) + 0 * self.norm(x.flatten(1))
        return self.wrap(scores) if self.wrap else scores


def batch(rows: list[list[float]], labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows).reshape(-1, 3, 1, 1), torch.tensor(labels)


HAND = [
    batch([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 0]),
    batch([[0.0, 0.0, 5.0]], [2]),
]


def test_a_case_by_hand() -> None:
    result = quality(Scores(), HAND)
    losses = [
        math.log(math.exp(2) + 2) - 2,
        math.log(math.exp(3) + 2) - 3,
        math.log(math.exp(1) + 2),
        math.log(math.exp(5) + 2) - 5,
    ]
    assert result.value == 0.75
    assert result.examples == 4
    assert result.loss == pytest.approx(sum(losses) / 4, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 20), max_size=4), seed=st.integers(0, 100))
def test_the_split_into_batches_does_not_matter(cuts: list[int], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(20, 3, 1, 1, generator=rng), torch.randint(0, 3, (20,), generator=rng)
    edges = [0, *sorted(cuts), 20]
    batches = [(images[a:b], labels[a:b]) for a, b in pairwise(edges)]
    result = quality(Scores(), batches)
    assert result.examples == 20
    assert result.value == pytest.approx(float((images.flatten(1).argmax(1) == labels).double().mean()))
    assert result.loss == pytest.approx(quality(Scores(), [(images, labels)]).loss, rel=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: (scores, None),
        lambda scores: [scores],
        lambda scores: {"logits": scores},
        lambda scores: SimpleNamespace(logits=scores),
    ],
)
def test_scores_are_found_in_usual_outputs(wrap: Any) -> None:
    assert quality(Scores(wrap), HAND).value == 0.75


def test_the_model_stays_as_it_was_and_can_still_be_trained() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quality(model, HAND, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    model(HAND[0][0]).sum().backward()
    assert model[2].weight.grad is not None


def test_images_take_the_type_of_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3)).double()
    assert quality(model, HAND).examples == 4


@pytest.mark.parametrize("flatten", ["view", "reshape"])
def test_layouts_that_a_network_cannot_run_in_are_not_forced_on_it(flatten: str) -> None:
    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(getattr(self.convolution(x), flatten)(len(x), -1))

    torch.manual_seed(0)
    net, x, labels = Flattens(), torch.randn(20, 3, 6, 6), torch.arange(20) % 5
    with torch.no_grad():
        right = (net(x).argmax(1) == labels).double().mean()
    found = quality(net, [(x[:8], labels[:8]), (x[8:], labels[8:])])
    assert (found.value, found.examples) == (pytest.approx(float(right)), 20)


def test_progress_is_told() -> None:
    events: list[Event] = []
    quality(Scores(), HAND, tell=events.append)
    assert [(event.stage, event.step, event.total) for event in events] == [
        ("measure", 1, 2),
        ("measure", 2, 2),
    ]


def test_iterators_without_a_length() -> None:
    events: list[Event] = []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        yield from HAND

    assert quality(Scores(), stream(), tell=events.append).examples == 4
    assert events[-1].total is None


@pytest.mark.parametrize("batches", [[], [(torch.empty(0, 3, 1, 1), torch.empty(0, dtype=torch.int64))]])
def test_no_examples(batches: list[tuple[Tensor, Tensor]]) -> None:
    model = Scores().train()
    with pytest.raises(DataError, match="there are no examples to measure the accuracy on"):
        quality(model, batches)
    assert model.training


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            batch([[1.0, 0.0, 0.0]], [3]),
            "there is the label 3, but the model has 3 outputs, for the labels 0 to 2",
        ),
        (batch([[1.0, 0.0, 0.0]], [-1]), "there is the label -1"),
        (batch([[1.0, 0.0, 0.0]], [0, 1]), "it has 1 images but 2 labels: there must be one label for each image"),
        ((torch.ones(2, 3, 1, 1), torch.ones(2)), "must be class numbers"),
        ((torch.ones(2, 3, 1, 1), torch.ones(2, 3, dtype=torch.int64)), r"of shape \(2, 3\)"),
        ((torch.ones(2, 3, 1, 1), [0, 1]), r"must be class numbers of shape \(batch,\), not a list"),
        (
            ([1.0, 2.0], torch.ones(2, dtype=torch.int64)),
            "the inputs of a batch must be tensors, and there are none in",
        ),
        (torch.ones(2, 3), "must be a pair of inputs and targets, or a table of named ones, and one is a Tensor"),
        ((torch.ones(2, 3),), "must be a pair of inputs and targets, and one has 1 parts"),
    ],
)
def test_bad_batches_are_numbered(bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)batch 2.*{message}|{message}.*batch 2") as caught:
        quality(Scores(), [HAND[0], bad])
    assert "batch 2" in str(caught.value)


def test_models_that_are_no_classifiers() -> None:
    with pytest.raises(
        ModelError, match=r"class scores of shape \(batch, classes\), not float32 of shape \(3, 3, 1, 1\)"
    ):
        quality(nn.Identity(), HAND)
    with pytest.raises(ModelError, match="not a str"):
        quality(Scores(lambda scores: "cat"), HAND)
    with pytest.raises(ModelError, match="cannot run on inputs of shape"):
        quality(nn.Conv2d(5, 1, 1), HAND)
    with pytest.raises(ModelError, match="1 rows of scores for 3 images"):
        quality(Scores(lambda scores: scores[:1]), HAND)


def test_a_metric_that_is_not_defined_is_worth_a_warning() -> None:
    told = list[str]()

    def tell(event: Event) -> None:
        told.append(event.text)

    for loss in (0.5, math.inf):
        warn_of_nan(Quality((ACCURACY, Metric("depth")), (math.nan, 0.1), loss, 7), "lenet5", tell)
    warn_of_nan(Quality((ACCURACY,), (0.2,), 0.5, 7), "lenet5", tell)
    assert told == [
        "the accuracy of lenet5 on 7 examples is NaN: look at how the task computes it",
        "the accuracy of lenet5 on 7 examples is NaN: look at what the network returns, whose loss is no number either",
    ]


def test_there_and_back_through_a_dict() -> None:
    value = Quality(Classification().metrics, (0.5,), loss=1.25, examples=8)
    assert Quality.from_dict(json.loads(json.dumps(value.to_dict()))) == value
    several = Quality((*Classification().metrics, Metric("MAE", "m", higher_is_better=False)), (0.5, 2.0), None, 8)
    assert Quality.from_dict(json.loads(json.dumps(several.to_dict()))) == several
    assert several.loss_or_error == 0.5


def test_the_accuracy_of_an_earlier_version_is_read() -> None:
    old = {"top1": 0.5, "loss": 1.25, "examples": 8}
    assert Quality.from_dict(old) == Quality(Classification().metrics, (0.5,), 1.25, 8)
    assert old == {"top1": 0.5, "loss": 1.25, "examples": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": []}, "it must have metrics, at least one"),
        ({"metrics": None}, "NoneType"),
        ({"metrics": [{"value": 0.5}]}, "name"),
        ({"metrics": [3]}, "int"),
        ({"metrics": [{"name": "accuracy", "value": "much"}]}, "'much' is no number"),
        ({"metrics": [{"name": "accuracy", "value": True}]}, "True is no number"),
        ({"metrics": [{"name": "accuracy"}]}, "it lacks 'value'"),
        ({"metrics": [{"name": 3, "value": 0.5}]}, "'name' must be"),
        ({"metrics": [{"name": "accuracy", "value": 0.5, "colour": "red"}]}, "colour"),
        ({"loss": "small"}, "'small' is no number"),
        ({"examples": 1.5}, "'examples' must be"),
        ({"speed": 3}, "and nothing else"),
        ({"metrics": 3}, "int"),
    ],
)
def test_damage_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    whole = Quality(Classification().metrics, (0.5,), loss=1.25, examples=8).to_dict()
    with pytest.raises(ArtifactError, match=f"^the stored quality is damaged: .*{re.escape(message)}"):
        Quality.from_dict({**whole, **changes})


@pytest.mark.parametrize("name", ["metrics", "loss", "examples"])
def test_an_entry_that_is_missing_is_named(name: str) -> None:
    whole = Quality(Classification().metrics, (0.5,), loss=1.25, examples=8).to_dict()
    del whole[name]
    with pytest.raises(ArtifactError, match=r"^the stored quality is damaged: it "):
        Quality.from_dict(whole)


def test_a_value_that_is_not_defined_is_null_in_a_file() -> None:
    value = Quality(Classification().metrics, (math.nan,), loss=1.25, examples=8)
    written = json.loads(json.dumps(value.to_dict()).replace("NaN", "null"))
    assert math.isnan(Quality.from_dict(written).value)


@pytest.mark.parametrize("top1", ["x", [], True])
def test_a_damaged_accuracy_of_an_earlier_version_is_one_sentence(top1: object) -> None:
    with pytest.raises(ArtifactError, match=r"^the stored quality is damaged: .* is no number"):
        Quality.from_dict({"top1": top1, "loss": 1.0, "examples": 2})
