"""How the minutes that a run was given were used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Spent:
    """How the minutes were used.

    Attributes:
        minutes: how many there were.
        repair: seconds that the repair took, which always runs to its end.
        training: seconds that training took, with its looks at the held-out images.
        way: ``"fine-tuning"`` with labels, ``"distillation"`` from the dense network without any, or ``"none"``.
        steps: of the optimizer.
        passes: over the training images.
        held_out: how many images judged; 0 without training.
        before: loss on these of the network as training found it: cross-entropy with labels, else the squared error of
            the outputs against those of the dense network, relative to their squares. None without training.
        after: the same of the network that was kept.
        metric_before: the metric on these, such as the share of right answers; None without labels.
        metric_after: the same of the network that was kept.
        gained: whether training has found anything better; if not, the network is the one that training found.
        ended: why there is no more of it, in words.
    """

    minutes: float
    repair: float
    training: float = 0.0
    way: Literal["none", "fine-tuning", "distillation"] = "none"
    steps: int = 0
    passes: float = 0.0
    held_out: int = 0
    before: float | None = None
    after: float | None = None
    metric_before: float | None = None
    metric_after: float | None = None
    gained: bool = False
    ended: str = ""
