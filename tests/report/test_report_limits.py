"""What is said of the limits of a run."""

from __future__ import annotations

from typing import Any

from secateur.report.limits import kept

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
