"""How much faster one network is than another, with how sure that is and how it was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from secateur.arguments import checked
from secateur.measure.confidence_interval import CONFIDENCE, differs
from secateur.measure.latency import Latency
from secateur.measure.side_by_side import Clock, SideBySide
from secateur.typed import check_types

DENSE, PRUNED = "dense", "pruned"


@checked
@dataclass(frozen=True)
class SpeedUp:
    """How many times faster the pruned network is than the dense one, both timed in turns.

    Attributes:
        dense: of the dense network, by the clock on the wall.
        pruned: of the pruned network, by the clock on the wall.
        dense_processor: median of the processor time of the same passes, in milliseconds; None on a GPU.
        pruned_processor: the same of the pruned network.
        clock: which of the two decides; the other is kept beside it.
        ratio: time of the dense network over that of the pruned one by that clock, the median over the turns.
        low: lower end of the interval of that median.
        high: upper end.
        confidence: with which the interval holds the median.
        wall_ratio: the ratio by the clock on the wall.
        processor_ratio: the ratio of processor times; None on a GPU.
        rounds: how many turns there were.
    """

    dense: Latency
    pruned: Latency
    dense_processor: float | None
    pruned_processor: float | None
    clock: Clock
    ratio: float
    low: float
    high: float
    confidence: float
    wall_ratio: float
    processor_ratio: float | None
    rounds: int

    def __post_init__(self) -> None:
        check_types(self)

    @staticmethod
    def of(found: SideBySide, dense: str = DENSE, pruned: str = PRUNED) -> SpeedUp:
        """Return what a measurement in turns says about two of its networks."""
        low, high = found.interval(dense, pruned)
        wall, processor = found.by("wall"), found.by("processor")
        assert wall is not None  # there is always a wall
        return SpeedUp(
            dense=wall.latencies[dense],
            pruned=wall.latencies[pruned],
            dense_processor=processor.latencies[dense].milliseconds if processor else None,
            pruned_processor=processor.latencies[pruned].milliseconds if processor else None,
            clock=found.clock,
            ratio=found.ratio(dense, pruned),
            low=low,
            high=high,
            confidence=CONFIDENCE,
            wall_ratio=wall.ratio(dense, pruned),
            processor_ratio=processor.ratio(dense, pruned) if processor else None,
            rounds=len(found.turns[dense]),
        )

    @property
    def runtime(self) -> str:
        """Return how the networks ran."""
        return self.dense.runtime

    @property
    def threads(self) -> int:
        """Return how many threads of the CPU they had."""
        return self.dense.threads

    @property
    def differs(self) -> bool:
        """Say whether there is a difference; where there is none, the ratio is noise and no factor to be told."""
        return differs(self.ratio, self.low, self.high)

    @property
    def milliseconds(self) -> tuple[float, float]:
        """Return the times of the dense and the pruned network by the clock that decides."""
        if self.clock == "processor" and self.dense_processor is not None and self.pruned_processor is not None:
            return self.dense_processor, self.pruned_processor
        return self.dense.milliseconds, self.pruned.milliseconds

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, strings and two dicts, ready for JSON, with what follows from them."""
        return {**asdict(self), "differs": self.differs, "milliseconds": list(self.milliseconds)}
