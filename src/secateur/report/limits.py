"""What became of the limits that a run was given, as sentences for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.core.task import Metric
from secateur.outcome.network_stages import metric_of
from secateur.report.metrics import capital, metric_text
from secateur.report.numbers import TIMES, milliseconds
from secateur.report.speed_words import SAME
from secateur.report.summary import Document


def kept(document: Document) -> list[str]:
    """Return one sentence for each limit that had to be measured, the first on what is in no count of MACs."""
    found = document.get("budget") or {}
    text = document.get("uncounted")
    lines = [sentence(text)] if text else []
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
            f"{share}, {latency['asked']:.3g} was asked for{_tolerated(latency)} "
            f"({milliseconds(latency['dense_milliseconds'])} before, {milliseconds(latency['milliseconds'])} after"
            f"{widths})."
        )
        lines += _shares(latency.get("shares"), document)
    if drop := found.get("drop"):
        metric = metric_of(document)
        trained = f", {_lost(metric, drop['trained'])} after the training" if "trained" in drop else ""
        lines.append(
            f"{capital(metric.name)} on the validation images when the target was chosen: "
            f"{_lost(metric, drop['found'])}{trained}; at most {_amount(metric, drop['asked'])} might be lost."
        )
    return lines


def _lost(metric: Metric, lost: float) -> str:
    """Return how much of a metric was lost, or gained, in its unit."""
    return f"{_amount(metric, abs(lost))} {'lost' if lost >= 0 else 'gained'}"


def _amount(metric: Metric, value: float) -> str:
    unit = "points" if metric.unit == "%" else metric.unit
    return f"{metric.scale * value:.{max(2, metric.digits)}f} {unit}".rstrip()


def _tolerated(latency: Mapping[str, Any]) -> str:
    """Say that a limit was missed by no more than a measurement may differ from the next."""
    over = latency["measured"] / latency["asked"] - 1
    return f" and is met within {100 * over:.1f} %" if over > 0 else ""


def widths(document: Document) -> list[str]:
    """Return one sentence for each reason why widths are as they are; none for results of earlier versions."""
    return [sentence(note) for note in dict.fromkeys(document.get("notes") or ())]


def foretold(document: Document) -> list[str]:
    """Return a sentence on what was promised before the work, beside what was measured; none if nothing was."""
    promise = document.get("foretold") or {}
    if not promise:
        return []
    speed, reasons = promise["speed"], "; ".join(promise["reasons"])
    if speed is None:
        return [sentence(f"the speed-up could not be foretold: {reasons}")]
    change = f"{speed['ratio']:.2f}{TIMES} the speed" if speed["differs"] else SAME
    text = f"foretold before the work, by an untrained stand-in whose widths may be others: {change}"
    if promise["price"] is not None:
        text += f"; widths chosen for speed would have taken {1 / promise['price']:.2f} times its time"
    return [sentence(f"{text}; {reasons}" if reasons else text)]


def sentence(text: str) -> str:
    """Return a text that begins small and ends without a full stop as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def _shares(shares: Mapping[str, Any] | None, document: Document) -> list[str]:
    """Say by which shares the latency was met, and what the others would have been worth."""
    if shares is None:
        return []
    by, metric = shares["by"], metric_of(document)
    if by.startswith(metric.name):
        sign = 1 if metric.higher_is_better else -1  # a worth is larger the better a network is
        worth = {name: metric_text(metric, sign * value, 1) for name, value in shares["worth"].items()}
    else:
        worth = {name: f"{100 * value:.1f} %" for name, value in shares["worth"].items()}
    usual = worth["scope"]
    if "latency" not in worth:
        return [
            f"Shares: the method's own ({usual} {by}); no latency-aware ones meet the limit on this grid of widths."
        ]
    aware = worth["latency"]
    if shares["taken"] == "latency":
        return [f"Shares: latency-aware, with {aware} {by}; the method's own have {usual} within the same limit."]
    return [f"Shares: the method's own, with {usual} {by}; latency-aware ones have {aware} within the same limit."]
