"""``explain``, ``evaluate``, ``measure`` and ``export``: questions to one network, dense or pruned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import exports
from secateur.cli.carrying_out import without_missing
from secateur.cli.command import Given
from secateur.cli.flags import Flag, flags_of
from secateur.cli.network_flags import Files, Quantising, Testing, Timing
from secateur.cli.output import saved
from secateur.cli.selection import IMAGES, OUTPUT, AsJson, Download, Force, Quiet, Trust
from secateur.cli.subject import Folder, network_flags, subject_of
from secateur.cli.tables import (
    counts_rows,
    explanation_document,
    explanation_table,
    latency_rows,
    quality_rows,
    say,
    say_json,
    table,
)
from secateur.errors import ArtifactError, DataError, SettingError, TargetError, first_line
from secateur.events import Event
from secateur.progress import Listener

if TYPE_CHECKING:
    from torch import nn


def flags_of_explain(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``explain``."""
    return network_flags("leave", "free_outputs", "groups", "patience")


def flags_of_evaluate(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``evaluate``."""
    return [*network_flags(), *flags_of(Testing, "own", "Testing")]


def flags_of_measure(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``measure``."""
    return [*network_flags(), *flags_of(Timing, "own", "Timing")]


def flags_of_export(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``export``."""
    from secateur.recipe import Recipe

    images = flags_of(Recipe, "recipe", "Images for int8 (those of the result if not given)", names=("data", *IMAGES))
    return [*flags_of(Files, "own", OUTPUT), *flags_of(Quantising, "int8", "Files in int8"), *images]


def explain(
    given: Given,
    folder: Folder = None,
    *,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say of every layer how much of it can be removed, with what, or why not."""
    from secateur.core.sizes.limits import Limits
    from secateur.core.trace import trace
    from secateur.report.limits import sentence
    from secateur.run import preflight

    subject = subject_of(given, folder, trust, download=download)
    asked = given.of("recipe")
    leave, groups, patience = asked.get("leave", ()), asked.get("groups", "all"), asked.get("patience")
    free = asked.get("free_outputs", ())
    with Listener(quiet or as_json) as tell:
        try:
            graph = preflight.read(
                subject.model, subject.example, leave, free_outputs=free, groups=groups, patience=patience, tell=tell
            )
        except TargetError:  # nothing can be pruned: that is what is to be explained
            graph = trace(subject.model, subject.example, free_outputs=free, seconds=patience)
            graph = graph.without(*leave).choose(groups)
    explanation, limits = graph.explain(), Limits()
    multiples = {group.name: limits.multiple_of(group) for group in graph.free}
    if as_json:
        spared = {"spared": graph.spared} if graph.spared else {}
        say_json({**explanation_document(explanation), "multiples": multiples, "note": limits.note(graph), **spared})
        return
    whole = sum(row.prunable == row.width for row in explanation.rows)
    say(explanation_table(explanation, multiples), "")
    say(f"{whole} of {len(explanation.rows)} layers can be pruned throughout, {len(graph.free)} groups in all.")
    say(f"The smallest network that can be reached keeps {100 * explanation.reachable:.3g} % of the MACs.")
    say(*([f"Not counted: {explanation.uncounted}."] if explanation.uncounted else []))
    say(*([sentence(graph.spared)] if graph.spared else []))
    say(f"By default {limits.note(graph)}.")


def evaluate(
    given: Given,
    folder: Folder = None,
    *,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure how well a network does on data that it was not trained on."""
    from secateur.measure.quality import warn_of_nan
    from secateur.run.device_placement import place_for, quality_at

    testing = Testing(**given.of("own"))
    subject = subject_of(given, folder, trust, test=True, download=download)
    if subject.data is None:
        raise DataError("there is no data to evaluate on; name a data set with --data")
    with Listener(quiet or as_json) as tell:
        tell(Event("measure", f"testing {subject.name}"))
        batches = subject.data.batches(testing.split, testing.batch_size)
        found = quality_at(subject.model, batches, subject.data.task, place_for(subject.model), tell)
        warn_of_nan(found, subject.name, tell)
    scaled = {"mean": list(subject.data.mean), "std": list(subject.data.std)}
    if as_json:
        about = {"network": subject.name, "data": subject.data.name, "split": testing.split, **scaled}
        say_json({**about, **found.to_dict()})
        return
    say(
        table(
            (subject.name, f"{subject.data.name}, {testing.split}"),
            quality_rows(found, subject.data.task),
            numbers=(1,),
        ),
        "",
    )
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in scaled.values())
    say(f"Images normalised with --mean {mean} --std {std}.")


def measure(
    given: Given,
    folder: Folder = None,
    *,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Count parameters, MACs and activations, and time a forward pass.

    Counts are of one image; times of a batch.
    """
    from secateur.measure import Measurement, count
    from secateur.measure import latency as time
    from secateur.measure.forward import repeated

    timing = Timing(**given.of("own"))
    subject = subject_of(given, folder, trust, download=download)
    with Listener(quiet or as_json) as tell:
        tell(Event("measure", f"measuring {subject.name}"))
        counts = count(subject.model, subject.example)
        timed = None
        if timing.latency:
            model, batch = on_device(subject.model, timing.device), repeated(subject.example, timing.batch_size)
            timed = time(model, batch, threads=timing.threads, seconds=timing.seconds, runtime=timing.runtime)
    if as_json:
        say_json({"network": subject.name, **Measurement(counts, None, timed).to_dict()})
        return
    rows = [*counts_rows(counts), *(latency_rows(timed) if timed else [])]
    say(table((subject.name, ""), rows, numbers=(1,)))


def export(
    given: Given,
    folder: Annotated[Path, typer.Argument(help="A result folder.", show_default=False, metavar="DIR")],
    *,
    force: Force = False,
    trust: Trust = False,
    download: Download = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the network of a result as a file that runs without Secateur.

    Each file is reloaded and compared with the network, as it was trained, before it is kept: one in int8 by the
    metric on the validation images, or without labels by its answers. An export that is there already is made anew,
    but for one that has changed since.
    """
    from secateur import artifact
    from secateur.export import BESIDE, FILES
    from secateur.recipe_rules import EXPORTS

    asked, quantising = Files(**given.of("own")), Quantising(**given.of("int8"))
    formats = asked.kinds() or without_missing(EXPORTS)
    for kind in formats:
        if not force:
            weights = [Path(FILES[kind]).with_suffix(BESIDE[kind]).name] if kind in BESIDE else []
            _spare(folder, FILES[kind], *weights)
    int8 = any(map(exports.in_int8, formats))
    with Listener(quiet or as_json) as tell:
        tell(Event("load", "loading the network"))
        subject = subject_of(given, folder, trust, images=int8, download=download)
        settings = {**exports.images_for(formats, subject.data, subject.images), **vars(quantising), "tell": tell}
        model, example, written = subject.model, subject.example, list[exports.Written]()
        made = exports.ready(model, example, formats, time=asked.latency, tell=tell) if asked.fold else None
        for kind in formats:
            tell(Event(f"export {kind}", f"exporting as {kind} and comparing"))
            written.append(exports.write(kind, model, made, example, folder / FILES[kind], settings))
            artifact.record(folder, *(file.name for file in written[-1].file.files))
            saved(folder)
    if as_json:
        say_json({"exports": [each.to_dict() for each in written]})
        return
    say(*exports.said_of(made), *(each.line() for each in written))


def _spare(folder: Path, *names: str) -> None:
    """Refuse to replace what is no export of this result as it was written.

    Raises:
        ArtifactError: naming the file.
    """
    from secateur import artifact
    from secateur.artifact.manifest import manifest

    for name in names:
        if not (folder / name).exists():
            continue
        try:
            own = name in manifest(folder)["files"]
            artifact.check(folder, [name] if own else [])
        except ArtifactError:
            own = False
        if not own:
            raise ArtifactError(
                f"{folder / name} exists already and is no export as this result has noted it; move it away, or "
                "replace it with --force"
            )


def on_device(model: nn.Module, device: str) -> nn.Module:
    """Move a network to a device by its name."""
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"cannot use the device '{device}' ({first_line(error)}); use --device cpu") from None
