from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from secateur import Budget, Settings
from secateur.artifact.document import document
from secateur.data import Data
from secateur.events import Event
from secateur.measure import Counts, Measurement, Quality, quality
from secateur.report.limits import kept
from secateur.run import prune
from secateur.run.fine_tuned import warn_if_worse
from secateur.spelling import spelt_for
from secateur.tasks import ACCURACY, Metric
from secateur.tasks.retrieval import RECALL_AT_1


def measured(value: float | None, metric: Metric = ACCURACY) -> Measurement:
    quality = None if value is None else Quality((metric,), (value,), None, 1000)
    return Measurement(Counts(1, 1, 1, 1), quality)


def said(before: Measurement, after: Measurement, augment: str = "crop_flip") -> list[str]:
    heard: list[Event] = []
    warn_if_worse(before, after, Settings(epochs=1, lr=0.1, augment=augment), heard.append)
    return [event.text for event in heard]


def test_a_training_that_costs_more_than_chance_is_said_with_what_to_change() -> None:
    with spelt_for("flags"):
        (text,) = said(measured(0.939), measured(0.886))
    assert text == (
        "fine-tuning has left the accuracy at 88.60 %, and it was 93.90 % before: give it more --epochs, another --lr "
        "(now 0.1), other images than --augment crop_flip, or leave fine-tuning out"
    )
    assert "augment" not in said(measured(0.939), measured(0.886), "none")[0]


@pytest.mark.parametrize(("before", "after"), [(0.939, 0.93), (0.939, 0.96), (1.0, 0.999), (None, 0.5), (0.5, None)])
def test_chance_is_not_worth_a_word(before: float | None, after: float | None) -> None:
    assert said(measured(before), measured(after)) == []


def test_other_metrics_are_judged_in_their_direction() -> None:
    error = Metric("error", higher_is_better=False)
    assert said(measured(2.0, error), measured(1.0, error)) == []
    assert "1.000 before" in said(measured(1.0, error), measured(2.0, error))[0]
    assert said(measured(1.0, error), measured(float("nan"), error))


def test_shares_that_count_no_examples_are_judged_by_their_value() -> None:
    found = Metric("mean IoU", "%")
    assert said(measured(0.2, found), measured(0.191, found)) == []
    assert "19.000 %" in said(measured(0.21, found), measured(0.19, found))[0]
    assert said(measured(0.2, RECALL_AT_1), measured(0.18, RECALL_AT_1)) == []


def test_a_run_says_it_once_and_only_where_it_is_so(trained: nn.Module, data: Data, train: Settings) -> None:
    def warnings(lr: float) -> list[str]:
        heard: list[Event] = []
        settings = replace(train, lr=lr)
        prune(trained, None, "magnitude", 0.8, data=data, train=settings, latency=False, tell=heard.append)
        return [event.text for event in heard if event.stage == "warning" and "fine-tuning" in event.text]

    assert len(warnings(5.0)) == 1
    assert warnings(1e-4) == []


def test_a_drop_is_measured_again_once_the_network_is_trained(trained: nn.Module, data: Data, train: Settings) -> None:
    for lr, allowed in ((5.0, False), (1e-4, True)):
        heard: list[Event] = []
        result = prune(
            trained, None, "magnitude", budget=Budget(max_macs=0.8, max_drop=0.3), data=data,
            train=replace(train, lr=lr), latency=False, tell=heard.append,
        )  # fmt: skip
        dense, thin = (quality(network, data.batches("val")).value for network in (trained, result.model))
        drop = result.budget["drop"]
        assert drop["trained"] == pytest.approx(dense - thin)
        assert (drop["trained"] <= 0.3) is allowed
        warned = [event.text for event in heard if "a loss of more than was allowed" in event.text]
        assert len(warned) == (not allowed)
        assert all(text.endswith("or leave fine-tuning out") for text in warned)
        (line,) = kept(document(result))
        assert f"{100 * drop['trained']:.2f} points lost after the training; at most 30.00 points might" in line
    earlier = {**document(result), "budget": {"drop": {"asked": 0.3, "found": -0.02}}}
    assert kept(earlier)[0].endswith("was chosen: 2.00 points gained; at most 30.00 points might be lost.")
