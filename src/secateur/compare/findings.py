"""What the runs say: means, spreads, and which differences are more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.compare.comparison import CONTROLS, Comparison
from secateur.compare.requests import Request, requests
from secateur.compare.run_files import Run, same_network
from secateur.compare.significance import Spread, Verdict, holm, verdict, welch
from secateur.core.operator_macs import remark
from secateur.measure.confidence_interval import differs
from secateur.report.numbers import TIMES
from secateur.report.speed_words import SAME
from secateur.tasks import ACCURACY, Metric


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: a method at one keep, over all seeds. Qualities are in the unit of the metric.

    Attributes:
        label: what it is called.
        method: its name; empty for the dense network.
        control: whether it is a control.
        keep: what was asked for; None for the dense network.
        test: test quality at the end.
        val: validation quality at the end.
        repair: what was done after the cut without training, in words; empty where nothing was cut.
        cut: test quality after the cut, before any repair and training; None where nothing was cut.
        repaired: test quality after the repair, before any training; None where there was none.
        dense: test quality of the network that went in.
        macs: share of the MACs left, of those that are counted.
        uncounted: what is not, and what that means for the target, in words; empty if everything is.
        params: share of the parameters left.
        latency: milliseconds of a forward pass; None if not timed.
        speedup: latency of the dense network over that of the pruned one; None if not timed.
        interval: holds it with 95 % confidence: the mean of the intervals of the runs; None if not timed in turns.
        runtime: in what it was timed; empty if not timed in turns.
        networks: a text for each seed that only runs with the same network share.
        same_as: names of other lines at the same keep that have the very same networks.
        epochs: of training after the dense network was there.
        seeds: of the runs.
        metric: what the qualities are.
        tried: how many settings of this label there were, of which this one did best on the validation images.
        settings: of the method, in words; shown where several were tried.
        against_random: comparison with random units at the same keep and with the same repair; None for these
            themselves or without.
        against_best: comparison with the method of the best mean at the same keep; None for this one.
    """

    label: str
    method: str
    control: bool
    keep: float | None
    test: Spread
    val: Spread
    cut: Spread | None
    dense: Spread
    macs: float
    params: float
    latency: Spread | None
    speedup: float | None
    epochs: int
    seeds: tuple[int, ...]
    metric: Metric
    tried: int = 1
    settings: str = ""
    repair: str = ""
    repaired: Spread | None = None
    uncounted: str = ""
    against_random: Verdict | None = None
    against_best: Verdict | None = None
    interval: tuple[float, float] | None = None
    runtime: str = ""
    networks: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the label with the repair, if there was one."""
        return self.label if self.repair in ("", "none") else f"{self.label} + {self.repair}"

    @property
    def faster(self) -> str:
        """Return the speed-up as text: a factor, or that the difference is inside the noise; empty if not timed."""
        if self.speedup is None:
            return ""
        if self.interval is not None and not differs(self.speedup, *self.interval):
            return SAME
        return f"{self.speedup:.2f}{TIMES}"


@dataclass(frozen=True)
class Findings:
    """The whole table.

    Attributes:
        lines: keep by keep, the best mean first; controls that have no keep last.
        left_out: settings that did worse on the validation images than others of the same label.
        done: how many runs there are.
        total: how many there will be.
        dense: test quality of the networks that went in, one per seed; of weights that were given there is one.
    """

    lines: tuple[Line, ...]
    left_out: tuple[Line, ...]
    done: int
    total: int
    dense: Spread | None = None

    @property
    def metric(self) -> Metric:
        """Return what the qualities are."""
        return self.lines[0].metric if self.lines else ACCURACY

    @property
    def several(self) -> bool:
        """Say whether any line has more than one seed, and so a spread."""
        return any(len(line.seeds) > 1 for line in self.lines)

    @property
    def complete(self) -> bool:
        """Say whether all runs are there."""
        return self.done == self.total

    def at(self, keep: float | None) -> list[Line]:
        """Return the lines of one keep."""
        return [line for line in self.lines if line.keep == keep]


def findings(comparison: Comparison, found: Sequence[tuple[Request, Run]]) -> Findings:
    """Make the table of the runs that are there.

    Where several settings have one label, that of the best mean validation quality is chosen for each keep, and
    the first of those that tie; test qualities are not looked at.
    """
    lines: list[Line] = []
    left_out: list[Line] = []
    for keep in comparison.keeps:
        here = [(request, run) for request, run in found if request.kind != "dense" and request.keep == keep]
        chosen, worse = _chosen(comparison, here)
        lines += _compared(chosen)
        left_out += worse
    dense = [(request, run) for request, run in found if request.kind == "dense"]
    if dense:
        lines.append(_line(dense, keep=None))
    total = len(requests(comparison))
    return Findings(tuple(lines), tuple(left_out), len(found), total, _dense(comparison, found))


def _dense(comparison: Comparison, found: Sequence[tuple[Request, Run]]) -> Spread | None:
    went_in = {run.seed: run.dense for _, run in found}
    one = comparison.base.weights and comparison.base.pretrain is None and not comparison.base.transfer
    return Spread(tuple(went_in.values())[: 1 if one else None]) if went_in else None


def _chosen(comparison: Comparison, here: Sequence[tuple[Request, Run]]) -> tuple[list[Line], list[Line]]:
    labels: dict[tuple[str, str], dict[int, list[tuple[Request, Run]]]] = {}
    for request, run in here:
        labels.setdefault((request.label, request.repair), {}).setdefault(request.entry, []).append((request, run))
    chosen: list[Line] = []
    worse: list[Line] = []
    for variants in labels.values():
        made = [_line(same, comparison=comparison) for same in variants.values()]
        best = max(made, key=lambda line: line.metric.key(line.val.mean))
        chosen.append(replace(best, tried=len(made)))
        worse += [line for line in made if line is not best]
    return chosen, worse


def _line(
    same: Sequence[tuple[Request, Run]], *, comparison: Comparison | None = None, keep: float | None = -1.0
) -> Line:
    request, (runs) = same[0][0], [run for _, run in same]
    times = [run.latency for run in runs if run.latency is not None]
    ratios = [run.dense_latency / run.latency for run in runs if run.latency and run.dense_latency]
    cuts = [run.cut for run in runs if run.cut is not None]
    repaired = [run.repaired for run in runs if run.repaired is not None]
    entry = comparison.all_entries()[request.entry] if comparison and request.entry >= 0 else None
    changes = {**entry.options, **entry.train, **{f"shape.{k}": v for k, v in entry.shape.items()}} if entry else {}
    return Line(
        label=request.label,
        method=runs[0].method,
        control=request.control,
        keep=request.keep if keep == -1.0 else keep,
        test=Spread(tuple(run.test for run in runs)),
        val=Spread(tuple(run.val for run in runs)),
        repair=request.repair,
        cut=Spread(tuple(cuts)) if cuts else None,
        repaired=Spread(tuple(repaired)) if repaired else None,
        dense=Spread(tuple(run.dense for run in runs)),
        macs=statistics.fmean(run.macs / run.dense_macs for run in runs),
        params=statistics.fmean(run.params / run.dense_params for run in runs),
        uncounted=_uncounted(runs[0], request),
        latency=Spread(tuple(times)) if times else None,
        speedup=statistics.fmean(ratios) if ratios else None,
        epochs=max(run.epochs for run in runs),
        seeds=tuple(run.seed for run in runs),
        metric=Metric(**runs[0].metric) if runs[0].metric else ACCURACY,
        settings=_words(changes),
        interval=_interval([run.speed for run in runs if run.speed is not None]),
        networks=tuple(same_network(run, request.repair) for run in runs),
        runtime=", ".join(dict.fromkeys(str(run.speed["dense"]["runtime"]) for run in runs if run.speed is not None)),
    )


def _uncounted(run: Run, request: Request) -> str:
    keep = request.keep if run.method and request.recipe.of == "macs" else None
    return remark(run.uncounted, run.uncounted_macs, run.dense_macs, run.macs, keep)


def _interval(speeds: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Return the mean of intervals, which is wider than an interval of the mean."""
    if not speeds:
        return None
    return statistics.fmean(it["low"] for it in speeds), statistics.fmean(it["high"] for it in speeds)


def _compared(lines: Sequence[Line]) -> list[Line]:
    """Compare the lines of one keep with random units of the same repair and with the best; put the best first.

    What was not cut is compared with the first random units, the best of them.
    """
    ordered = sorted(lines, key=lambda line: -line.metric.key(line.test.mean))
    randoms = [line for line in ordered if line.label == CONTROLS["random"]]
    best = next((line for line in ordered if not line.control), None)
    alike = [next((r for r in randoms if line.repair in (r.repair, "")), None) for line in ordered]
    to_random, to_best = _verdicts(ordered, alike), _verdicts(ordered, [best] * len(ordered))
    return [
        replace(
            line,
            against_random=a,
            against_best=b,
            same_as=tuple(it.name for it in ordered if it is not line and it.networks == line.networks),
        )
        for line, a, b in zip(ordered, to_random, to_best, strict=True)
    ]


def _verdicts(lines: Sequence[Line], references: Sequence[Line | None]) -> list[Verdict | None]:
    pairs = [(line, None if one is line else one) for line, one in zip(lines, references, strict=True)]
    raw = [
        None if other is None or other.networks == line.networks else welch(line.test.values, other.test.values)
        for line, other in pairs
    ]
    return [
        None if other is None else verdict(line.test, other.test, p, line.metric, same=other.networks == line.networks)
        for (line, other), p in zip(pairs, holm(raw), strict=True)
    ]


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items())
