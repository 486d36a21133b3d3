"""What may act on a network while it trains."""

from __future__ import annotations

from torch import Tensor


class Shaper:
    """Acts on a network while it trains; the default does nothing."""

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss, or None."""
        return None

    def after_step(self, step: int) -> None:
        """Act after an optimizer step; ``step`` counts from 0 over the whole training."""
