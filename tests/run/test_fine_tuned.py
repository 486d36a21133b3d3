from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from secateur import Settings
from secateur.data import Data
from secateur.events import Event
from secateur.measure import Counts, Measurement, Quality
from secateur.run import prune
from secateur.run.fine_tuned import warn_if_worse
from secateur.spelling import spelt_for
from secateur.tasks import ACCURACY, Metric


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


def test_a_run_says_it_once_and_only_where_it_is_so(trained: nn.Module, data: Data, train: Settings) -> None:
    def warnings(lr: float) -> list[str]:
        heard: list[Event] = []
        settings = replace(train, lr=lr)
        prune(trained, None, "magnitude", 0.8, data=data, train=settings, latency=False, tell=heard.append)
        return [event.text for event in heard if event.stage == "warning" and "fine-tuning" in event.text]

    assert len(warnings(5.0)) == 1
    assert warnings(1e-4) == []
