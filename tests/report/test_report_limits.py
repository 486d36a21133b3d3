"""What is said of the limits of a run."""

from __future__ import annotations

from typing import Any

from secateur.report.limits import kept
from secateur.report.summary import outcome, target

FOUND: dict[str, Any] = {
    "asked": 0.98,
    "measured": 0.97,
    "dense_milliseconds": 10.0,
    "milliseconds": 9.7,
    "runtime": "onnxruntime",
    "threads": 1,
    "multiple": 8,
}


def test_a_latency_is_told_with_its_interval_unless_it_is_noise() -> None:
    assert kept({"budget": {"latency": FOUND}}) == [  # of an earlier version
        "Latency in onnxruntime (1 thread): 0.97 of the dense network's, 0.98 was asked for (10 ms before, 9.7 ms "
        "after; widths are multiples of 8)."
    ]
    [line] = kept({"budget": {"latency": FOUND | {"low": 0.95, "high": 0.98, "differs": True}}})
    assert "0.97 of the dense network's (95 % interval 0.95 to 0.98), 0.98 was asked for" in line
    [line] = kept({"budget": {"latency": FOUND | {"low": 0.95, "high": 1.02, "differs": False}}})
    assert "(1 thread): no measurable difference from the dense network, 0.98 was asked for" in line
    assert kept({}) == []


def test_a_target_is_not_said_to_be_met_on_a_partial_count() -> None:
    text = "at least 960 MACs in fft in 'mix' are not counted: the target of 0.5 of the MACs is met only if ..."
    assert kept({"uncounted": text}) == ["A" + text[1:] + "."]
    assert kept({"uncounted": ""}) == []
    counts = {"params": 10, "nonzero": 10, "activations": 1, "uncounted": "fft in 'mix'", "uncounted_macs": 960}
    document: dict[str, Any] = {
        "model": "net",
        "data": "",
        "target": {"keep": 0.5, "of": "macs"},
        "before": {"counts": counts | {"macs": 100}, "quality": None, "latency": None},
        "after": {"counts": counts | {"macs": 40}, "quality": None, "latency": None},
        "middle": None,
    }
    assert target(document).endswith("Reached: 40.0 % of those that are counted.")
    assert "keeps 40.0 % of its counted MACs" in outcome(document)
    whole = {"uncounted": "", "uncounted_macs": 0}
    document["after"]["counts"] |= whole
    assert target(document).endswith("Reached: 40.0 %.")
    assert "of its MACs" in outcome(document)
