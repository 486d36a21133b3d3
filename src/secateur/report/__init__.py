"""The account of a run for people: one self-contained HTML page, and the same numbers as plain rows."""

from __future__ import annotations

from secateur.report.page import write
from secateur.report.summary import Row, outcome, rows

__all__ = ["Row", "outcome", "rows", "write"]
