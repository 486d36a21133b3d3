"""The table of ``bench``."""

from __future__ import annotations

from typing import Any

from secateur.report import speed
from secateur.report.numbers import TIMES

TIME = {"milliseconds": 4.0, "spread": 0.1, "runs": 99, "difference": 1e-7}


def document(**entry: Any) -> dict[str, Any]:
    runtime = {"runtime": "openvino", "speedup": 1.52, "dense": TIME, "pruned": TIME, **entry}
    return {
        "format": 1,
        "batch_size": 1,
        "threads": 1,
        "device": "cpu",
        "macs": {"dense": 4, "pruned": 2},
        "runtimes": [runtime],
        "left_out": {},
    }


def test_a_speed_up_has_an_interval_unless_it_is_noise() -> None:
    interval = {"speedup_low": 1.48, "speedup_high": 1.57, "clock": "processor"}
    told = document(differs=True, **interval)
    assert speed.rows(told) == [("openvino", "4 ± 0.1", "4 ± 0.1", f"1.52{TIMES}\n(1.48 to 1.57)")]
    assert "CPU, 1 thread, processor time; " in speed.conditions(told)
    assert "holds the speed-up with 95 % confidence" in speed.conditions(told)
    assert speed.rows(document(differs=False, **interval))[0][-1] == "no measurable difference"


def test_times_of_earlier_versions_are_told_as_they_were() -> None:
    assert speed.rows(document())[0][-1] == f"1.52{TIMES}"
    assert "confidence" not in speed.conditions(document())
