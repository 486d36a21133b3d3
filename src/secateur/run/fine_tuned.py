"""Whether fine-tuning has helped: a training that leaves a network worse than it was is said, with what to change."""

from __future__ import annotations

import math

from secateur.events import Tell, warn
from secateur.measure import Measurement
from secateur.spelling import setting, setting_as
from secateur.tasks import ACCURACY
from secateur.tasks.retrieval import RECALL_AT_1
from secateur.training import Settings

_CHANCE = 2.0  # standard errors of a share
_COUNTED = (ACCURACY.name, RECALL_AT_1.name)  # shares of examples, each of them right or wrong
_ELSE = {"%": 0.05}  # of the value, for metrics of which no error is known, by their unit
_LITTLE = 0.01  # the same in other units


def warn_if_worse(before: Measurement, after: Measurement, train: Settings, tell: Tell) -> None:
    """Warn where a network does clearly worse on the test examples than before its fine-tuning.

    What chance alone may move is not worth a word: two binomial standard errors of a share of the examples, a twentieth
    of other percentages, such as those over classes and boxes, and a hundredth of what is left.

    Args:
        before: the network as it was cut and repaired.
        after: the same once it was trained.
        train: how.
        tell: hears the warning.
    """
    if before.quality is None or after.quality is None:
        return
    metric, was, now = before.quality.metric, before.quality.value, after.quality.value
    chance = _ELSE.get(metric.unit, _LITTLE) * abs(was)
    if metric.name in _COUNTED:
        chance = _CHANCE * math.sqrt(max(was * (1 - was), 1 / before.quality.examples) / before.quality.examples)
    if metric.lost(was, now) > chance:
        moved = f", other images than {setting_as('augment', train.augment)}" if train.augment != "none" else ""
        warn(
            f"fine-tuning has left the {metric.name} at {metric.text(now)}, and it was {metric.text(was)} before: give "
            f"it more {setting('epochs')}, another {setting('lr')} (now {train.lr:g}){moved}, or leave fine-tuning out",
            tell,
        )
