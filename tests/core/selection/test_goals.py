"""How much goes is said once, in a measure that changes."""

from __future__ import annotations

import pytest

from secateur.core.selection import goals
from secateur.core.sizes.size import Target
from secateur.errors import SettingError, TargetError

HALF = Target(0.5, "nonzero")


def test_how_much_goes_is_said_once() -> None:
    goals.check_said(HALF, None, "ratio", "the ratio of each layer")
    goals.check_said(None, 0.0, "ratio", "the ratio of each layer")
    with pytest.raises(SettingError, match="both a target and a ratio say how much goes; give one of them"):
        goals.check_said(HALF, 0.0, "ratio", "the ratio of each layer")
    with pytest.raises(TargetError, match=r"a target \(target=\), or the ratio of each layer \(ratio=\)"):
        goals.check_said(None, None, "ratio", "the ratio of each layer")


def test_zeros_are_counted_in_nonzero() -> None:
    for target in (None, HALF, Target(1.0)):
        goals.check_zeros(target, "kernels")
    with pytest.raises(
        TargetError, match="zeroed kernels leave the params as they are; set the target in nonzero"
    ) as caught:
        goals.check_zeros(Target(0.5, "params"), "kernels")
    assert caught.value.reachable == 1.0
