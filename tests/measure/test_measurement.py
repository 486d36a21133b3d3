from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import ArtifactError, DataError
from secateur.events import Event
from secateur.measure import Counts, Latency, Measurement, Quality, count, measure
from secateur.tasks import Classification

COUNTS = Counts(params=10, nonzero=8, macs=100, activations=20)
WHOLE = Measurement(
    COUNTS, Quality(Classification().metrics, (0.5,), 0.7, 4), Latency(1.0, 0.1, 30, 1, 2, "cpu", "eager")
)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_all_parts_of_a_network() -> None:
    torch.manual_seed(0)
    model, example = net(), torch.randn(1, 3, 8, 8)
    labels = model(torch.zeros(6, 3, 8, 8)).argmax(1)
    events: list[Event] = []
    result = measure(model, example, [(torch.zeros(6, 3, 8, 8), labels)], seconds=0.01, tell=events.append)
    assert result.counts == count(model, example)
    assert result.quality is not None
    assert (result.quality.value, result.quality.examples) == (1.0, 6)
    assert result.latency is not None
    assert result.latency.milliseconds > 0
    assert {event.stage for event in events} == {"measure"}
    assert Measurement.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_parts_that_were_not_asked_for_are_none() -> None:
    result = measure(net(), torch.randn(1, 3, 8, 8), time=False)
    assert result.quality is None
    assert result.latency is None
    assert Measurement.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_empty_batches_are_not_taken_for_none() -> None:
    with pytest.raises(DataError, match="no examples"):
        measure(net(), torch.randn(1, 3, 8, 8), [], time=False)


def changed(**parts: Any) -> dict[str, Any]:
    return {**WHOLE.to_dict(), **parts}


def test_whole_numbers_are_read_as_floats_where_floats_belong() -> None:
    [metric] = changed()["quality"]["metrics"]
    value = Measurement.from_dict(changed(quality={"metrics": [{**metric, "value": 1}], "loss": 0, "examples": 4}))
    assert value.quality is not None
    assert isinstance(value.quality.value, float)
    assert isinstance(value.quality.loss, float)


@pytest.mark.parametrize("accuracy", [None, {"top1": 1, "loss": 0, "examples": 4}])
def test_the_measurement_of_an_earlier_version_is_read(accuracy: dict[str, Any] | None) -> None:
    old = {**changed(), "accuracy": accuracy}
    del old["quality"]
    quality = None if accuracy is None else Quality(Classification().metrics, (1.0,), 0.0, 4)
    assert Measurement.from_dict(old) == Measurement(COUNTS, quality, WHOLE.latency)
    with pytest.raises(ArtifactError, match="unknown entry 'accuracy'"):
        Measurement.from_dict(changed(accuracy=accuracy))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(counts=None), "lacks 'counts'"),
        (changed(speed=3), "'speed'"),
        (changed(quality=0.9), "'quality' in the stored measurement must be a table"),
        (changed(counts={"params": 1}), "the stored counts lacks 'nonzero'"),
        (changed(counts={**COUNTS.to_dict(), "flops": 1}), "'flops'"),
        (
            changed(counts={**COUNTS.to_dict(), "params": 1.5}),
            "'params' in the stored counts must be int, not 1.5",
        ),
        (changed(counts={**COUNTS.to_dict(), "params": True}), "must be int, not True"),
        (changed(quality={"top1": "1", "loss": 0.1, "examples": 1}), "stored quality is damaged: '1' is no number"),
    ],
)
def test_damaged_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Measurement.from_dict(values)
