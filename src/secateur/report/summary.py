"""The numbers of a run as text, so that the terminal and the page cannot disagree."""

from __future__ import annotations

from secateur.measure import Quality
from secateur.outcome.network_stages import DISTILLED, measured, metric_of, way_of
from secateur.recipe_rules import DATA_FREE
from secateur.report.numbers import NONE, TIMES, milliseconds, percent
from secateur.report.stage_table import LATENCY, SAME, Document, capital, metric_text, rows

MEASURES = {"macs": "MACs", "params": "parameters", "nonzero": "nonzero parameters", "units": "units"}
ZEROS = 0.01  # share of the parameters from which on they are worth a sentence
# by benchmarks/strided_conv.py on an AMD EPYC with AVX2, one thread, batch of 1
BREAK_EVEN = (
    "On one core of a server processor the fastest sparse product found caught up with the dense convolution only "
    "where 84 to 97 % of a layer's kernels were zero, with 64 to 256 maps, and never with 16."
)


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
    data = str(document["data"]).partition(":")[0]
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
        return (
            f"{start} pruned network computed what the original computes with the removed channels silenced: "
            f"the largest difference was {size} of the largest output, which is rounding."
        )
    return (
        f"The pruned network differs from the original with its channels silenced by {size} of the largest output, "
        "which is more than rounding."
    )


def zeros(document: Document) -> str:
    """Return what zeros among the parameters that stay are worth; empty if a plan has not set any to zero."""
    counts = document["after"]["counts"]
    share = 1.0 - counts["nonzero"] / counts["params"] if counts["params"] else 0.0
    if share < ZEROS:
        return ""
    strided = sum(way == "strided" for way in document.get("execution", {}).values())
    text = f"{percent(share)} of the parameters that stay are zero: less to store in a sparse format, but the MACs"
    if strided:
        plural = "s whose zeros follow" if strided > 1 else " whose zeros follow"
        return (
            f"{text} are counted in full. {strided} layer{plural} a regular pattern run{'' if strided > 1 else 's'} as "
            "a smaller dense product, which was the faster way here."
        )
    return f"{text} and the time stay: dense runtimes compute with zeros as with any number. {BREAK_EVEN}"


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
        f" on the clock on the wall. The two networks were timed in {speed['rounds']} turns when all else was done; "
        "the change is the median over the turns"
    )
    if speed["clock"] == "processor":
        wall = f": on the wall it was {speed['wall_ratio']:.2f}{TIMES}" if speed["differs"] else ""
        text += f", in processor time, which other programs disturb the least{wall}"
    return f"{text}."


def repairs(document: Document) -> list[str]:
    """Return one sentence for each repair without training: what it did to the metric on validation examples."""
    texts: list[str] = []
    for done in document.get("repairs", ()):
        text = f"{done['step']} ({done['layers']} layer{'' if done['layers'] == 1 else 's'})"
        known = [Quality.from_dict(done[when]) for when in ("before", "after") if done[when]]
        if len(known) == 2:
            before, after = (metric_text(found.metric, found.value) for found in known)
            text += f": validation {known[0].metric.name} from {before} to {after}"
        else:
            text += "; what it brought is not known without labelled images"
        texts.append(f"{text}.")
    return texts


def calibration(document: Document) -> list[str]:
    """Return the sentence that says how many unlabelled images were used, if any were."""
    text = str(document.get("calibration") or "")
    return [f"{text}."] if text else []
