"""What two networks make of test examples, where people would rather look: the worst disagreements, drawn."""

from __future__ import annotations

from secateur.predictions.looking import LOOKED_AT, MOST, SHOWN, answers, drawn, painter_of, some_batches

__all__ = ["LOOKED_AT", "MOST", "SHOWN", "answers", "drawn", "painter_of", "some_batches"]
