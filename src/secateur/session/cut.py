"""What one step of a session has done."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.core.plan import Plan
from secateur.core.sizes.size import Size


@dataclass(frozen=True)
class Cut:
    """What one call of ``Session.step`` has done; false where nothing was cut.

    Attributes:
        plan: what was removed; empty where nothing was.
        size: of the network as it is now.
        kept: what that is of the original network, in the measure of the goal.
        difference: between the network and the silenced one, see ``secateur.verify``; 0 where nothing was cut.
        note: what happened, in one sentence.
    """

    plan: Plan
    size: Size
    kept: float
    difference: float
    note: str

    def __bool__(self) -> bool:
        """Return whether anything was cut."""
        return bool(self.plan.edits)
