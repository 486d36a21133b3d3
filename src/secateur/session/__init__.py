"""Pruning in somebody's own training loop: a network is cut in place, and what the loop holds goes with it."""

from secateur.session.cut import Cut
from secateur.session.session import Session

__all__ = ["Cut", "Session"]
