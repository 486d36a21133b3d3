"""What to keep in mind when reading the table of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from secateur.compare.comparison import CONTROLS
from secateur.compare.findings import Findings, Line
from secateur.compare.significance import LEVEL, SAME_NETWORKS
from secateur.tasks import Metric

UNEQUAL = 2.0
"""Points of the MACs by which lines of one keep may differ without a note."""
UNLIKE = 5.0
"""Points of test accuracy by which dense networks of different seeds may differ without a note."""


def notes(found: Findings) -> list[str]:
    """Return what to keep in mind when reading the table, one sentence each."""
    lines = [line for line in found.lines if line.keep is not None]
    out: list[str] = []
    if not found.complete:
        out.append(f"Only {found.done} of {found.total} runs are there: means are over the seeds that are done.")
    if found.lines and not found.several:
        out.append("One seed: no standard deviation, and nothing can be said about differences; ask for three or more.")
    elif any(len(line.seeds) == 1 for line in found.lines):
        out.append("Lines with one seed have no standard deviation: nothing can be said about their differences.")
    out += [f"{text[:1].upper()}{text[1:]}." for text in dict.fromkeys(line.uncounted for line in found.lines) if text]
    sentences = [_dense_of(found.lines)]
    for keep in dict.fromkeys(line.keep for line in lines):
        sentences += [_best_of(found.at(keep), keep), _sizes_of(found.at(keep), keep), *_same_of(found.at(keep), keep)]
    out += [sentence for sentence in sentences if sentence]
    epochs = {line.name: line.epochs for line in lines if line.label != CONTROLS["scratch"]}
    if len(set(epochs.values())) > 1:
        usual = statistics.mode(epochs.values())
        others = [f"{label} {count}" for label, count in epochs.items() if count != usual]
        out.append(
            f"Not all were trained for {usual} epochs, which counts for them or against them: {', '.join(others)}."
        )
    return out


def _best_of(lines: Sequence[Line], keep: float | None) -> str:
    best = next((line for line in lines if not line.control), None)
    if best is None or keep is None or best.test.std is None:
        return ""
    others = [line for line in lines if line.against_best and line.against_best.text != SAME_NETWORKS]
    unsure = [(line.name, line.against_best) for line in others if line.against_best]
    unsure = [(name, verdict) for name, verdict in unsure if (verdict.p or 0) >= LEVEL]
    close = [name for name, verdict in unsure if not verdict.larger]
    untold = [name for name, verdict in unsure if verdict.larger]
    unknown = [line.name for line in others if line.against_best and line.against_best.p is None]
    text = f"Keep {keep:g}: {best.name} has the best mean of the methods"
    if close:
        text += f"; within noise of it: {', '.join(close)}"
    elif len(unknown) < len(others):
        text += "; no other line is within noise of it"
    text += f"; too few seeds to tell it from {', '.join(untold)}" if untold else ""
    text += f"; nothing can be said about {', '.join(unknown)}" if unknown else ""
    return f"{text}."


def _dense_of(lines: Sequence[Line]) -> str:
    """Return a warning if the networks that went in are not alike, as when training fails from some new weights."""
    went_in = [value for line in lines for value in line.dense.values]
    if not went_in or not _unlike(went_in, lines[0].metric):
        return ""
    metric = lines[0].metric
    return (
        f"The dense networks that went in have a test {metric.name} of {_range(went_in, metric)}, "
        "depending on the seed, which covers what the methods do; train them longer, or at a lower rate."
    )


def _unlike(values: Sequence[float], metric: Metric) -> bool:
    """Tell whether dense networks differ by more than seeds explain; of numbers without bounds nobody knows."""
    return metric.unit == "%" and 100 * (max(values) - min(values)) >= UNLIKE


def _range(values: Sequence[float], metric: Metric) -> str:
    low, high = metric.scale * min(values), metric.scale * max(values)
    return f"{low:.1f} to {high:.1f} {metric.unit}".strip()


def _same_of(lines: Sequence[Line], keep: float | None) -> list[str]:
    """Return a sentence for each set of lines that have the very same networks, whose numbers count once."""
    names = dict.fromkeys(tuple(it.name for it in lines if it.networks == line.networks) for line in lines)
    return [f"Keep {keep:g}: {' and '.join(some)} are the same networks." for some in names if len(some) > 1]


def _sizes_of(lines: Sequence[Line], keep: float | None) -> str:
    """Return a warning if the lines of one keep are not of one size; steps of whole units can be coarse."""
    shares = [100 * line.macs for line in lines]
    if max(shares) - min(shares) < UNEQUAL:
        return ""
    return (
        f"Keep {keep:g}: the networks really have {min(shares):.1f} to {max(shares):.1f} % of the MACs, which favours "
        "the larger ones; compare them on the charts."
    )
