"""Read a network into groups of units by running it once with channel labels beside every tensor."""

from secateur.core.trace.run import trace, traced
from secateur.core.trace.trial import Trials

__all__ = ["Trials", "trace", "traced"]
