"""Several methods, keeps and seeds side by side, with the controls without which a comparison says little."""

from secateur.compare.comparison import CONTROLS, Comparison
from secateur.compare.entry import Entry
from secateur.compare.findings import Findings, Line, findings
from secateur.compare.outputs import write
from secateur.compare.requests import Request, distinct, requests
from secateur.compare.run_all import carry_out, gather
from secateur.compare.run_files import Run

__all__ = [
    "CONTROLS",
    "Comparison",
    "Entry",
    "Findings",
    "Line",
    "Request",
    "Run",
    "carry_out",
    "distinct",
    "findings",
    "gather",
    "requests",
    "write",
]
