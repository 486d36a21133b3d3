"""The search engine: of many candidate plans, the one with the fewest errors, found exactly and cheaply."""

from secateur.search.best import best_of
from secateur.search.engine import Engine
from secateur.search.held_out import HeldOut
from secateur.search.runners import Ways

__all__ = ["Engine", "HeldOut", "Ways", "best_of"]
