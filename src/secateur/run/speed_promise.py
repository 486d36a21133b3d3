"""What is promised of the speed of a network before the work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from secateur.measure import SpeedUp

FAR = 0.75
"""A warning is due where the speed-up is below this share of the ratio of the MACs."""

DEAR = 1.1
"""And where the widths that were asked for take this many times as long as those of ``multiple="auto"``."""

_LEAST_RATIO = 1.2


@dataclass(frozen=True)
class Foretold:
    """What a stand-in promises.

    Attributes:
        macs: how many times fewer MACs.
        speed: how many times faster, with its interval; None where it cannot be foretold.
        reasons: why the second is less than the first, the heaviest reason first; or why there is none.
        price: how many times as long the widths that were asked for take as those of ``multiple="auto"`` at the same
            target; None where no number was asked for.
        evenly: whether every group was taken to lose the same share, since the method decides only
            after long work.
    """

    macs: float
    speed: SpeedUp | None
    reasons: tuple[str, ...] = ()
    price: float | None = None
    evenly: bool = False

    @property
    def warns(self) -> bool:
        """Whether the network will not get as fast as its MACs, or other widths, promise."""
        if self.speed is None:
            return False
        return self.dear or (self.macs >= _LEAST_RATIO and self.speed.ratio < FAR * self.macs)

    @property
    def dear(self) -> bool:
        """Whether the widths that were asked for cost speed."""
        return self.price is not None and self.price > DEAR

    def sentence(self) -> str:
        """Return what to expect."""
        if self.speed is None:
            return f"the speed-up cannot be foretold here: {'; '.join(self.reasons)}"
        speed = self.speed
        change = f"about {speed.ratio:.2f} times the speed" if speed.differs else "no measurable difference in speed"
        text = (
            f"expect {change} in {speed.runtime} here (a stand-in of the same widths, {speed.low:.2f} to "
            f"{speed.high:.2f}), where the MACs fall {self.macs:.2f} times"
        )
        if self.evenly:
            text += ", if every group loses the same share"
        if self.price is not None and self.dear:
            text += f". Widths chosen for speed take {1 / self.price:.2f} times its time: leave the multiple out"
        return f"{text}. It gains less than its MACs promise: {'; '.join(self.reasons)}" if self.reasons else text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "speed": None if self.speed is None else self.speed.to_dict()}
