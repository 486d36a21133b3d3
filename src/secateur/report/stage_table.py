"""The table of all networks that a run had, every cell ready to print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from secateur.outcome.network_stages import measured, quality_in
from secateur.report.numbers import EVEN, NONE, change, milliseconds, percent, short, signed
from secateur.tasks import Metric

Document = Mapping[str, Any]
_Values: TypeAlias = tuple[float | None, ...]

LATENCY = "Latency"
SAME = "no measurable difference"
"""What is said of two times whose difference is inside the noise; never a factor."""

RUNTIME_NAMES = {
    "eager": "PyTorch eager",
    "channels_last": "PyTorch channels-last",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


@dataclass(frozen=True)
class Row:
    """One measured quantity, every field ready to print.

    Attributes:
        label: what was measured, with its unit.
        values: of each network of ``outcome.measured``, a dash where it was not measured.
        ratio: the change in words, such as ``"2.00x fewer"`` or ``"-0.4 points"``; empty if unknown.
        interval: how sure that is, such as ``"95 % interval 1.96 to 2.03"``; empty if unknown, or nothing changed.
        worse: whether the change is one for the worse, as far as it is shown.
        kept: share that is left, for sizes; otherwise empty.
        removed: share that is gone, for sizes; otherwise empty.
    """

    label: str
    values: tuple[str, ...]
    ratio: str = ""
    kept: str = ""
    removed: str = ""
    interval: str = ""
    worse: bool = False

    @property
    def before(self) -> str:
        """Return the value of the dense network."""
        return self.values[0]

    @property
    def after(self) -> str:
        """Return the value of the network that came out."""
        return self.values[-1]


def rows(document: Document) -> list[Row]:
    """Return the table of all networks that a run had: metrics, loss, sizes and latency, as far as measured."""
    found = [*_metrics(document), _loss(document), _count(document, "params", "Parameters")]
    if any(part and part["counts"]["nonzero"] != part["counts"]["params"] for part in _parts(document)):
        found.append(_count(document, "nonzero", "Nonzero parameters"))
    found += [_count(document, "macs", "MACs"), _count(document, "activations", "Activations"), _latency(document)]
    return [row for row in found if row]


def faster(speed: Document) -> str:
    """Return a speed-up in words, such as ``2.00x faster``, unless it is inside the noise.

    Args:
        speed: what ``SpeedUp.to_dict`` returns.
    """
    return change(speed["ratio"], 1.0, "faster", "slower") if speed["differs"] else SAME


def interval(speed: Document) -> str:
    """Return the interval of a speed-up in the words of ``faster``; empty where there is no difference."""
    if not speed["differs"]:
        return ""
    low, high = sorted((speed["low"], speed["high"]) if speed["ratio"] > 1 else (1 / speed["high"], 1 / speed["low"]))
    return f"{100 * speed['confidence']:.0f} % interval {low:.2f} to {high:.2f}"


def _parts(document: Document) -> list[Any]:
    return list(measured(document).values())


def capital(name: str) -> str:
    """Return a name as a label; what is an abbreviation stays as it is."""
    return name[:1].upper() + name[1:] if name[1:2].islower() and name.partition(" ")[0].islower() else name


def metric_text(metric: Metric, value: float, digits: int | None = None) -> str:
    """Return a value of a metric as the tables write it."""
    return percent(value, metric.digits if digits is None else digits) if metric.unit == "%" else metric.text(value)


def metric_change(metric: Metric, before: float, after: float) -> str:
    """Return a difference of two values of a metric as the tables write it."""
    unit = "points" if metric.unit == "%" else metric.unit
    return f"{signed(metric.scale * (after - before), metric.digits)}{f' {unit}' if unit else ''}"


def _metrics(document: Document) -> list[Row]:
    found = [quality_in(part) for part in _parts(document)]
    first = next((one for one in found if one), None)
    if first is None:
        return []
    rows = list[Row]()
    for place, metric in enumerate(first.metrics):
        values = tuple(one.values[place] if one else None for one in found)
        before, after = values[0], values[-1]
        if before is None or after is None:
            gain, worse = "", False
        else:
            gain = metric_change(metric, before, after)
            worse = gain[:1] != EVEN and metric.lost(before, after) > 0
        rows.append(Row(capital(metric.name), _texts(values, partial(metric_text, metric)), gain, worse=worse))
    return rows


def _loss(document: Document) -> Row | None:
    found = [quality_in(part) for part in _parts(document)]
    values = tuple(one.loss if one else None for one in found)
    if all(value is None for value in values):
        return None
    before, after = values[0], values[-1]
    if before is None or after is None:
        gain, worse = "", False
    else:
        gain = signed(after - before, 3)
        worse = gain[:1] != EVEN and after > before
    return Row("Loss", _texts(values, lambda value: f"{value:.3f}"), gain, worse=worse)


def _count(document: Document, name: str, label: str) -> Row | None:
    values = _values(document, "counts", name)
    if values is None:
        return None
    before, after = values[0], values[-1]
    texts = _texts(values, short)
    if not before or after is None:
        return Row(label, texts)
    share = after / before
    gain = change(before, after, "fewer", "more")
    return Row(label, texts, gain, percent(share), percent(1 - share), worse=after > before)


def _latency(document: Document) -> Row | None:
    values = _values(document, "latency", "milliseconds")
    if values is None:
        return None
    before, after = values[0], values[-1]
    known = next(part["latency"] for part in _parts(document) if part and part["latency"])
    conditions = [f"batch of {known['batch_size']}", known["device"]]
    if known["device"] == "cpu":
        conditions.append(f"{known['threads']} thread{'s' if known['threads'] != 1 else ''}")
    speed = document.get("speed")  # results of earlier versions have none: their times were taken one after the other
    if speed and speed["clock"] == "processor":
        conditions.append("processor time")
    label = f"{LATENCY} in {RUNTIME_NAMES.get(known['runtime'], known['runtime'])} ({', '.join(conditions)})"
    if not speed:
        if not before or not after:
            return Row(label, _texts(values, milliseconds))
        gain = change(before, after, "faster", "slower")
        return Row(label, _texts(values, milliseconds), gain, worse=after > before)
    timed = (speed["milliseconds"][0], *[None] * (len(values) - 2), speed["milliseconds"][1])
    return Row(
        label,
        _texts(timed, milliseconds),
        faster(speed),
        interval=interval(speed),
        worse=speed["differs"] and speed["ratio"] < 1,
    )


def _values(document: Document, part: str, name: str) -> _Values | None:
    """Return one quantity for each of the stages; None if it was never measured."""
    found = tuple(whole[part][name] if whole[part] else None for whole in _parts(document))
    return None if all(value is None for value in found) else found


def _texts(values: _Values, text: Callable[[float], str]) -> tuple[str, ...]:
    return tuple(NONE if value is None else text(value) for value in values)
