"""Whether fine-tuning has helped: a training that leaves a network worse than it was is said, with what to change."""

from __future__ import annotations

import math

from secateur.events import Tell, warn
from secateur.measure import Measurement
from secateur.spelling import setting, setting_as
from secateur.training import Settings

_CHANCE = 2.0  # standard errors of a share
_NOTHING = 0.01  # of the value, for metrics of which no error is known


def warn_if_worse(before: Measurement, after: Measurement, train: Settings, tell: Tell) -> None:
    """Warn where a network does clearly worse on the test examples than before its fine-tuning.

    What chance alone may move is not worth a word: two binomial standard errors of a share, a hundredth of other
    metrics.

    Args:
        before: the network as it was cut and repaired.
        after: the same once it was trained.
        train: how.
        tell: hears the warning.
    """
    if before.quality is None or after.quality is None:
        return
    metric, was, now = before.quality.metric, before.quality.value, after.quality.value
    chance = _NOTHING * abs(was)
    if metric.unit == "%" and 0 <= was <= 1:
        chance = _CHANCE * math.sqrt(max(was * (1 - was), 1 / before.quality.examples) / before.quality.examples)
    if metric.lost(was, now) > chance:
        moved = f", other images than {setting_as('augment', train.augment)}" if train.augment != "none" else ""
        warn(
            f"fine-tuning has left the {metric.name} at {metric.text(now)}, and it was {metric.text(was)} before: give "
            f"it more {setting('epochs')}, another {setting('lr')} (now {train.lr:g}){moved}, or leave fine-tuning out",
            tell,
        )
