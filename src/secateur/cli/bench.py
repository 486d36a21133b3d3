"""``bench``: the dense and the pruned network of a result, timed side by side in every runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secateur.cli import exports
from secateur.cli.command import Given
from secateur.cli.flags import Flag, flags_of
from secateur.cli.network import on_device
from secateur.cli.output import saved
from secateur.cli.selection import IMAGES, AsJson, Quiet, Trust
from secateur.cli.subject import example_of, images_of_folder, load
from secateur.cli.tables import say, say_json, table
from secateur.errors import ArtifactError, SecateurError, SettingError
from secateur.events import Event
from secateur.progress import Listener

if TYPE_CHECKING:
    from secateur.artifact import Loaded
    from secateur.events import Tell
    from secateur.measure import Runtime, SideBySide

DENSE, PRUNED = "dense", "pruned"


@dataclass(frozen=True)
class Conditions:
    """How the networks are timed.

    Attributes:
        runtime: in what to run them, one or several; all of float32 that are installed if not given, of which
            compile takes by far the longest.
        batch_size: images in a pass.
        threads: of the CPU; as many as torch takes if not given.
        seconds: how long to time each network in each runtime.
        device: where, such as cpu or cuda.
        save: keep the times in the result folder, and show them in its report.
        int8: write both networks as ONNX files in float32 and in int8 as well, and test and time all four.
    """

    runtime: tuple[
        Literal["eager", "channels_last", "compile", "onnxruntime", "openvino", "onnxruntime_int8", "openvino_int8"],
        ...,
    ] = ()
    batch_size: int = 1
    threads: int | None = None
    seconds: float = 2.0
    device: str = "cpu"
    save: bool = True
    int8: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be above 0, not {value}")


def flags(args: Sequence[str]) -> list[Flag]:
    """Return the flags of ``bench``."""
    from secateur.recipe import Recipe

    images = flags_of(Recipe, "recipe", "Images for int8 (those of the result if not given)", names=("data", *IMAGES))
    return [*flags_of(Conditions, "own", "Timing"), *images]


def bench(
    given: Given,
    folder: Annotated[Path, typer.Argument(help="A result folder.", show_default=False, metavar="DIR")],
    *,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time the dense and the pruned network of a result in turns, in every runtime that is installed.

    What a runtime computes is compared with PyTorch eager first. Times are medians of all passes; the speed-up is the
    median over the turns, with the interval that holds it with a confidence of 95 percent. With --int8 a second table
    has both networks in float32 and in int8: how well they do on the test images, the size of their files, the times.
    """
    from secateur.measure import missing

    conditions = Conditions(**given.of("own"))
    for runtime in conditions.runtime:
        if reason := missing(runtime, "cpu" if conditions.device == "cpu" else "cuda"):
            raise SettingError(reason)
    with Listener(quiet or as_json) as tell:
        tell(Event("load", "loading the networks"))
        loaded = load(folder, trust)
        four = _corners(given.of("recipe"), folder, loaded, conditions, tell) if conditions.int8 else {}
        found, left_out = _time(loaded, conditions, tell)
    document = {**_document(loaded, conditions, found, left_out), **four}
    if as_json:
        say_json({"network": str(folder), **document})
    else:
        _speak(document)
    if conditions.save:  # last, for the times are worth seeing in any case
        _keep(folder, document)


def _time(loaded: Loaded, conditions: Conditions, tell: Tell) -> tuple[list[SideBySide], dict[str, str]]:
    """Return the times, and why runtimes that were not asked for by name have none."""
    from secateur.measure import RUNTIMES, missing, side_by_side
    from secateur.measure.forward import repeated
    from secateur.measure.runtimes import INT8

    networks = {DENSE: on_device(loaded.dense, conditions.device), PRUNED: on_device(loaded.model, conditions.device)}
    example = repeated(example_of(loaded), conditions.batch_size)
    found: list[SideBySide] = []
    left_out: dict[str, str] = {}
    chosen: tuple[Runtime, ...] = conditions.runtime or tuple(it for it in RUNTIMES if not it.endswith(INT8))
    for runtime in dict.fromkeys(chosen):
        if reason := missing(runtime, conditions.device):
            left_out[runtime] = reason
            continue
        try:
            found.append(
                side_by_side(
                    networks, example, runtime, threads=conditions.threads, seconds=conditions.seconds, tell=tell
                )
            )
        except SecateurError as error:
            if conditions.runtime or runtime == "eager":
                raise
            left_out[runtime] = str(error)
    return found, left_out


def _corners(
    asked: Mapping[str, Any], folder: Path, loaded: Loaded, conditions: Conditions, tell: Tell
) -> dict[str, Any]:
    """Return what ``secateur.export.corners`` says, first of all, for it can be refused."""
    from secateur.export.corners import ENGINES, corners

    if conditions.device != "cpu":
        raise SettingError("int8 is timed on the CPU only; leave out --int8, or choose --device cpu")
    tell(Event("images", "reading the images of the result"))
    data, images = images_of_folder(asked, folder, loaded)
    found = corners(
        {DENSE: loaded.dense, PRUNED: loaded.model},
        example_of(loaded),
        **exports.images_for(("onnx-int8",), data, images),
        untested=(DENSE,),  # a result holds its measurements, and not its weights
        engines=[engine for engine in ENGINES if engine in (conditions.runtime or ENGINES)],
        batch_size=conditions.batch_size,
        threads=conditions.threads,
        seconds=conditions.seconds,
        tell=tell,
    )
    four = found.to_dict()
    measured = loaded.measurement["before"]["quality"] if any(it["quality"] for it in four["corners"]) else None
    for corner in four["corners"]:
        if corner["network"] == DENSE:
            corner |= {"int8": None, "quality": measured if corner["precision"] == "float32" else None}
    four["left_out"].append("what the dense network answers in int8, for a result does not keep its trained weights")
    return {"int8": four}


def _document(
    loaded: Loaded, conditions: Conditions, found: Sequence[SideBySide], left_out: dict[str, str]
) -> dict[str, Any]:
    before, after = loaded.measurement["before"]["counts"], loaded.measurement["after"]["counts"]
    first = found[0].latencies[DENSE]
    return {
        "format": 1,
        "batch_size": first.batch_size,
        "threads": first.threads,
        "device": first.device,
        "macs": {DENSE: before["macs"], PRUNED: after["macs"]},
        "uncounted": after.get("uncounted", ""),
        "runtimes": [
            {
                "runtime": it.runtime,
                "speedup": it.ratio(DENSE, PRUNED),
                "speedup_low": it.interval(DENSE, PRUNED)[0],
                "speedup_high": it.interval(DENSE, PRUNED)[1],
                "differs": it.differ(DENSE, PRUNED),
                "rounds": len(it.turns[DENSE]),
                "clock": it.clock,
                **{name: _entry(it, name) for name in (DENSE, PRUNED)},
            }
            for it in found
        ],
        "left_out": left_out,
        "environment": _environment(),
    }


def _entry(it: SideBySide, name: str) -> dict[str, Any]:
    latency = it.latencies[name]
    return {
        "milliseconds": latency.milliseconds,
        "spread": latency.spread,
        "runs": latency.runs,
        "difference": it.differences[name],
    }


def _environment() -> dict[str, str]:
    """Return what the times depend on beside the networks."""
    from secateur.artifact.environment import version
    from secateur.measure.machine import processor

    packages = {name: version(name) for name in ("torch", "onnxruntime", "openvino")}
    return {"processor": processor(), **{name: it for name, it in packages.items() if it}}


def _keep(folder: Path, document: dict[str, Any]) -> None:
    """Write the times into the result folder and into its report."""
    from secateur import artifact, report
    from secateur.report.page import NAME
    from secateur.report.speed import NAME as BENCH

    path = folder / BENCH
    try:
        artifact.write_file(path, (json.dumps(document, indent=1) + "\n").encode())
        artifact.record(folder, path.name)
        saved(path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; time with --no-save") from None
    if (folder / NAME).is_file():
        report.write(folder)


def _speak(document: dict[str, Any]) -> None:
    """Print the table and what belongs to it."""
    from secateur.report import speed

    headings = ("Runtime", "Dense, ms", "Pruned, ms", "Speed-up")
    say(table(headings, speed.rows(document), numbers=(1, 2), whole=(0,)), "", speed.conditions(document))
    if four := document.get("int8"):
        headings = speed.corner_headings(four)
        say("", table(headings, speed.corner_rows(four), numbers=range(1, len(headings))), "", speed.CORNERS)
    for reason in [*document["left_out"].values(), *(four["left_out"] if four else [])]:
        say(f"Left out: {reason}.")
