"""What may follow a training that leaves weights on a grid of few bits: nothing that moves them."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.method import Method
from secateur.errors import SettingError
from secateur.methods import name_of
from secateur.training import Settings


def on_grids(
    methods: Sequence[Method],
    shape: Settings | None,
    train: Settings | None,
    repair: tuple[str, ...],
    *,
    repair_asked: bool,
    minutes: float | None,
) -> tuple[Settings | None, Settings | None, tuple[str, ...]]:
    """Return the training before the decision, that after it, and the repairs, so that weights stay on their grids.

    A training that is given alone is the one before the decision, and nobody's repairs are none.

    Raises:
        SettingError: if somebody has asked for a training after the decision as well.
    """
    leaving = [method for method in methods if method.grids()]
    if not leaving or (shape is None and train is None):
        return shape, train, repair
    if minutes or (shape is not None and train is not None):
        what = "minutes of training" if minutes else "a fine-tuning"
        raise SettingError(
            f"{name_of(leaving[0])} trains weights on a grid of {min(leaving[0].grids())} bits before it decides, and "
            f"{what} after the cut would move them off it; give its own training alone"
        )
    return shape or train, None, repair if repair_asked else ()
