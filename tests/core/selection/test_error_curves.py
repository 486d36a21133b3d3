from __future__ import annotations

import json
import math

import pytest

from secateur.core.selection.error_curves import ErrorCurve
from secateur.errors import SettingError


def test_damage_is_the_rise_and_beyond_the_end_not_known() -> None:
    curve = ErrorCurve("g", (3, 1, 0), (0.25, 0.25, 0.75))
    assert [curve.damage(gone) for gone in range(5)] == [0.0, 0.0, 0.5, math.inf, math.inf]


def test_a_curve_survives_json() -> None:
    for curve in (
        ErrorCurve("layer1.0.conv1", (2, 0, 1), (0.0, 0.5, 0.75, math.inf)),
        ErrorCurve("g", (), (0.0,)),
        ErrorCurve("stream", (1, 0), (0.0, 0.25, 1.0), ((), (0,)), 3.0),
    ):
        assert ErrorCurve.from_dict(json.loads(json.dumps(curve.to_dict(), allow_nan=False))) == curve


@pytest.mark.parametrize(
    "error", [(), (0.0, 0.5, 0.4), (0.0, math.nan), (math.inf,), (math.nan,), (0.0, 0.1, 0.2, 0.3)]
)
def test_what_is_no_curve_is_refused_with_its_group(error: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="the error curve of group 'conv9' must begin with a finite error"):
        ErrorCurve("conv9", (0, 1), error)
