"""What a kill looks like from the inside."""

from __future__ import annotations


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""
