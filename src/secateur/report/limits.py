"""What became of the limits that a run was given, as sentences for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report.summary import SAME, Document, milliseconds


def kept(document: Document) -> list[str]:
    """Return one sentence for each limit that had to be measured."""
    found = document.get("budget") or {}
    lines: list[str] = []
    if latency := found.get("latency"):
        threads = latency["threads"]
        share = f"{latency['measured']:.3g} of the dense network's"
        if latency.get("high"):  # measured when all was done
            share += f" (95 % interval {latency['low']:.3g} to {latency['high']:.3g})"
        if not latency.get("differs", True):
            share = f"{SAME} from the dense network"
        widths = "" if latency["multiple"] in (1, "auto") else f"; widths are multiples of {latency['multiple']}"
        lines.append(
            f"Latency in {latency['runtime']} ({threads} thread{'s' if threads != 1 else ''}): "
            f"{share}, {latency['asked']:.3g} was asked for "
            f"({milliseconds(latency['dense_milliseconds'])} before, {milliseconds(latency['milliseconds'])} after"
            f"{widths})."
        )
        lines += _shares(latency.get("shares"))
    if drop := found.get("drop"):
        lines.append(
            f"Accuracy on the validation images when the target was chosen: {100 * drop['found']:.2f} points lost, "
            f"at most {100 * drop['asked']:.2f} were allowed."
        )
    return lines


def _shares(shares: Mapping[str, Any] | None) -> list[str]:
    """Say by which shares the latency was met, and what the others would have been worth."""
    if shares is None:
        return []
    worth, by = shares["worth"], shares["by"]
    usual = f"{100 * worth['scope']:.1f} %"
    if "latency" not in worth:
        return [
            f"Shares: the method's own ({usual} {by}); no latency-aware ones meet the limit on this grid of widths."
        ]
    aware = f"{100 * worth['latency']:.1f} %"
    if shares["taken"] == "latency":
        return [f"Shares: latency-aware, with {aware} {by}; the method's own have {usual} within the same limit."]
    return [f"Shares: the method's own, with {usual} {by}; latency-aware ones have {aware} within the same limit."]
