"""The search engine: of many candidate plans, the one with the fewest errors, found exactly and cheaply."""

from secateur.search.racing.candidates import Ways
from secateur.search.racing.error_counts import Engine
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of

__all__ = ["Engine", "HeldOut", "Ways", "best_of"]
