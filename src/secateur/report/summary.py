"""The numbers of a run as text, so that the terminal and the page cannot disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from secateur.data.named import called
from secateur.measure import Quality
from secateur.outcome.network_stages import DISTILLED, measured, metric_of, quality_in, way_of
from secateur.recipe_rules import DATA_FREE
from secateur.report.metrics import capital, metric_change, metric_text
from secateur.report.numbers import EVEN, NONE, TIMES, change, milliseconds, percent, short, signed
from secateur.report.speed_words import SAME, faster, interval
from secateur.report.zeros_and_bits import bits_label

Document = Mapping[str, Any]
_Values: TypeAlias = tuple[float | None, ...]

MEASURES = {"macs": "MACs", "params": "parameters", "nonzero": "nonzero parameters", "units": "units"}
LATENCY = "Latency"
RUNTIME_NAMES = {
    "eager": "PyTorch eager",
    "channels_last": "PyTorch channels-last",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "onnxruntime_int8": "ONNX Runtime in int8",
    "openvino_int8": "OpenVINO in int8",
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
    if any(part and part["counts"]["nonzero"] != part["counts"]["params"] for part in measured(document).values()):
        found.append(_count(document, "nonzero", "Nonzero parameters"))
    found += [_count(document, "macs", "MACs"), _bit_operations(document)]
    found += [_count(document, "activations", "Activations"), _latency(document)]
    return [row for row in found if row]


def outcome(document: Document) -> str:
    """Return one sentence on what came out."""
    by_label = {
        row.label.partition(" ")[0] if row.label.startswith(LATENCY) else row.label: row for row in rows(document)
    }
    macs, params = by_label["MACs"], by_label["Parameters"]
    partly = "counted " if document["after"]["counts"].get("uncounted") else ""
    text = (
        f"{subject(document)} keeps {macs.kept} of its {partly}MACs ({macs.ratio}) and {params.kept} of its parameters"
    )
    counts = document["after"]["counts"]
    if "Nonzero parameters" in by_label and counts["nonzero"] < counts["params"]:
        text += f", {percent(counts['nonzero'] / counts['params'])} of which are not zero"
    images, _, said = str(document.get("calibration") or "").partition(" (")  # which may have been looked at otherwise
    steps = dict.fromkeys(done["step"] for done in document.get("repairs", ()) if done["layers"])
    if said and not DATA_FREE.issuperset(steps):
        text += f", repaired from {images}"
    elif steps and DATA_FREE.issuperset(steps):
        text += f", repaired without images ({' and '.join(steps)})"
    if (minutes := document.get("minutes")) and minutes["gained"]:
        text += f", {way_of(minutes)} in {minutes['training']:.0f} s"
    metric = metric_of(document)
    if quality := by_label.get(capital(metric.name)):
        gain = f" ({quality.ratio})" if quality.ratio else ""
        names = list(measured(document))[1:]
        parts = [f"{value} {name}" for name, value in zip(names, quality.values[1:], strict=True) if value != NONE]
        way = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0] if parts else NONE
        text += f"; its test {metric.name} goes from {quality.before} to {way}{gain}"
    if latency := by_label.get(LATENCY):
        place = latency.label.removeprefix(LATENCY).partition(" (")[0]
        gain = f"shows {latency.ratio}" if latency.ratio == SAME else f"is {latency.ratio}"
        sure = f"{latency.interval}; " if latency.interval else ""
        text += f"; a forward pass{place} {gain} ({sure}{latency.before} before, {latency.after} after)"
    return text + "."


def subject(document: Document) -> str:
    """Return the network and the data in words, without folders."""
    model = str(document["model"]).replace("\\", "/").rpartition("/")[2].removeprefix("secateur:")
    data = called(str(document["data"]).replace("\\", "/"))
    return f"{model} on {data}" if data else model


def target(document: Document) -> str:
    """Return what was asked for and what was reached, as one sentence."""
    keep, of = document["target"]["keep"], document["target"]["of"]
    if keep is None:
        return "No target was set: the method's own settings decided how much to remove."
    asked = f"Asked: keep at most {percent(keep)} of the {MEASURES.get(of, of)}"
    before, after = (document[when]["counts"] for when in ("before", "after"))
    if of not in before or not before[of]:
        return asked + "."
    partly = " of those that are counted" if of == "macs" and after.get("uncounted") else ""
    return f"{asked}. Reached: {percent(after[of] / before[of])}{partly}."


def verification(document: Document) -> str:
    """Return how far the pruned network was from the silenced original, as one sentence."""
    difference = document["verification"]["difference"]
    size = NONE if difference is None else f"{difference:.1e}"
    if document["verification"]["exact"]:
        repaired, minutes = bool(document.get("repairs")), document.get("minutes")
        trained = document["training"]["rounds"] or (minutes and minutes["gained"])
        training = "distillation" if way_of(minutes) == DISTILLED else "fine-tuning"
        later = [*(["its repair"] if repaired else []), *([training] if trained else [])]
        start = f"Before {' and '.join(later)}, the" if later else "The"
        far = (
            f": the largest difference was {size} of the largest output, which is rounding"
            if difference
            else ", exactly"
        )
        return f"{start} pruned network computed what the original computes with {_removed(document)}{far}."
    return (
        f"The pruned network differs from the original with {_removed(document)} by {size} of the largest output, "
        "which is more than rounding."
    )


def _removed(document: Document) -> str:
    """Return what the original is compared without: channels, unless all layers are as wide as before."""
    counts = (document.get("cut") or document["after"])["counts"]
    if counts["nonzero"] == counts["params"] or any(w["before"] != w["after"] for w in document["widths"]):
        return "the removed channels silenced"
    return "the removed weights set to zero"


def training(document: Document) -> str:
    """Return how much more the pruned network was trained than the dense one; empty if it was not."""
    epochs = sum(len(history["rows"]) for history in document["training"]["rounds"])
    if not epochs:
        return ""
    return (
        f"The pruned network was trained for {epochs} more epoch{'s' if epochs > 1 else ''} than the dense one: "
        f"what that alone would have changed is part of the difference in {metric_of(document).name}."
    )


def timing(document: Document) -> str:
    """Return how the latencies were taken, in sentences; empty if they were not."""
    latency, speed = document["after"]["latency"], document.get("speed")
    if not latency:
        return ""
    half = f"half of them lie within {milliseconds(latency['spread'], 2)}"
    text = f"Latency is the median of {latency['runs']} runs; {half}"
    if not speed:
        return f"{text}."
    text += (
        f", by the wall clock. The two networks were timed in {speed['rounds']} turns when all else was done; "
        "the change is the median over the turns"
    )
    if speed["clock"] == "processor":
        wall = f" (by the wall clock it was {speed['wall_ratio']:.2f}{TIMES})" if speed["differs"] else ""
        text += f", in processor time, which other programs disturb the least{wall}"
    return f"{text}."


def repairs(document: Document) -> list[str]:
    """Return one sentence for each repair without training: what it did to the metric on validation examples."""
    texts: list[str] = []
    for done in document.get("repairs", ()):
        if not done["layers"]:
            texts.append(f"{done['step']} found nothing to mend.")
            continue
        text = f"{done['step']} ({done['layers']} layer{'' if done['layers'] == 1 else 's'})"
        known = [Quality.from_dict(done[when]) for when in ("before", "after") if done[when]]
        if len(known) == 2:
            before, after = (metric_text(found.metric, found.value, 1) for found in known)
            text += f": validation {known[0].metric.name} from {before} to {after}"
        else:
            text += "; what it brought is not known without labelled images"
        texts.append(f"{text}.")
    return texts


def calibration(document: Document) -> list[str]:
    """Return the sentence that says how many unlabelled images were used, if any were."""
    text = str(document.get("calibration") or "")
    return [f"{text}."] if text else []


def _metrics(document: Document) -> list[Row]:
    found = [quality_in(part) for part in measured(document).values()]
    rows = list[Row]()
    for place, metric in enumerate(next((one.metrics for one in found if one), ())):
        values = tuple(None if one is None or math.isnan(one.values[place]) else one.values[place] for one in found)
        before, after = values[0], values[-1]
        gain = "" if before is None or after is None else metric_change(metric, before, after)
        worse = gain[:1] != EVEN and before is not None and metric.key(after) < metric.key(before)
        rows.append(Row(capital(metric.name), _texts(values, partial(metric_text, metric)), gain, worse=worse))
    return rows


def _loss(document: Document) -> Row | None:
    found = [quality_in(part) for part in measured(document).values()]
    values = tuple(one.loss if one else None for one in found)
    if all(value is None for value in values):
        return None
    before, after = values[0], values[-1]
    texts = _texts(values, lambda value: f"{value:.3f}")
    if before is None or after is None:
        return Row("Loss", texts)
    gain = signed(after - before, 3)
    return Row("Loss", texts, gain, worse=gain[:1] != EVEN and after > before)


def _count(document: Document, name: str, label: str) -> Row | None:
    values = _values(document, "counts", name)
    return None if values is None else _sized(label, values)


def _sized(label: str, values: _Values) -> Row:
    before, after = values[0], values[-1]
    texts = _texts(values, short)
    if not before or after is None:
        return Row(label, texts)
    share = after / before
    gain = change(before, after, "fewer", "more")
    return Row(label, texts, gain, percent(share), percent(1 - share), worse=after > before)


def _bit_operations(document: Document) -> Row | None:
    found = document.get("bit_operations")
    between = [None] * (len(measured(document)) - 2)
    return _sized(bits_label(document), (found["before"], *between, found["after"])) if found else None


def _latency(document: Document) -> Row | None:
    values = _values(document, "latency", "milliseconds")
    if values is None:
        return None
    before, after = values[0], values[-1]
    known = next(part["latency"] for part in measured(document).values() if part and part["latency"])
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
        return Row(label, _texts(values, milliseconds), change(before, after, "faster", "slower"), worse=after > before)
    timed = (speed["milliseconds"][0], *[None] * (len(values) - 2), speed["milliseconds"][1])
    slower = speed["differs"] and speed["ratio"] < 1
    return Row(label, _texts(timed, milliseconds), faster(speed), interval=interval(speed), worse=slower)


def _values(document: Document, part: str, name: str) -> _Values | None:
    """Return one quantity for each of the stages; None if it was never measured."""
    found = tuple(whole[part][name] if whole[part] else None for whole in measured(document).values())
    return None if all(value is None for value in found) else found


def _texts(values: _Values, text: Callable[[float], str]) -> tuple[str, ...]:
    return tuple(NONE if value is None else text(value) for value in values)
