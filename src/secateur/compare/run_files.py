"""What a run has found: one JSON file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from secateur import artifact, reading
from secateur.artifact.bounded_reading import MOST
from secateur.compare.requests import Request
from secateur.errors import ArtifactError, TrainingError
from secateur.spelling import elsewhere

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came out of one run. Qualities are in the unit of the metric, accuracies shares in [0, 1].

    Sizes are of one forward pass of one image.

    Attributes:
        name: of the request.
        method: name of the method; empty for the dense network.
        keep: the fraction asked for.
        seed: of everything random.
        dense: test quality of the network that went in.
        cut: the same after the cut, before any repair and training; None where nothing was cut, or not measured.
        repaired: the same after the repair, before any training; None where there was none.
        test: the same at the end.
        val: quality on the validation examples at the end.
        test_images: how many test examples there are.
        metric: what the qualities are, as a table; empty for accuracy.
        macs: at the end.
        params: at the end.
        dense_macs: of the network that went in.
        dense_params: the same.
        latency: milliseconds of a forward pass at the end; None if it was not timed.
        dense_latency: the same of the network that went in, timed in turns with the other.
        speed: what both say together, ``SpeedUp.to_dict``; None if they were not timed, or by an earlier version, which
            timed them one after the other.
        int8: of a pruned network both in float32 and in int8, ``Corners.to_dict``; None where it was not asked for.
        uncounted: operators that multiply and are in no count, and where; empty if there are none.
        uncounted_macs: MACs that they take at least.
        epochs: of all trainings after the dense network was there.
        verification: largest relative difference between pruned and silenced network.
        seconds: the run took.
        recipe: as TOML.
        plans: what was removed, round by round, as JSON.
        histories: of all trainings, epoch by epoch.
        environment: machine and versions.
    """

    name: str
    method: str
    keep: float
    seed: int
    dense: float
    cut: float | None
    test: float
    val: float
    test_images: int
    macs: int
    params: int
    dense_macs: int
    dense_params: int
    latency: float | None = None
    dense_latency: float | None = None
    epochs: int = 0
    verification: float = 0.0
    seconds: float = 0.0
    recipe: str = ""
    plans: tuple[str, ...] = ()
    histories: tuple[Mapping[str, Any], ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    speed: Mapping[str, Any] | None = None
    int8: Mapping[str, Any] | None = None
    repaired: float | None = None
    uncounted: str = ""
    uncounted_macs: int = 0
    metric: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "plans": list(self.plans), "histories": list(self.histories)}


def path_of(folder: Path, request: Request) -> Path:
    """Return where a run is kept."""
    return folder / "runs" / f"{request.name}.json"


def save(folder: Path, request: Request, run: Run) -> None:
    """Write a run.

    Raises:
        ArtifactError: if it cannot be written.
        TrainingError: if something that was measured is no finite number.
    """
    path = path_of(folder, request)
    try:
        text = json.dumps({"format": FORMAT, **run.to_dict()}, indent=1, allow_nan=False)
    except ValueError:
        raise TrainingError(
            "what was measured is no finite number, as after a training that diverged; train with a lower 'lr' or with "
            "'clip_grad'"
        ) from None
    try:
        artifact.write_file(path, f"{text}\n".encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; {elsewhere()}") from None


def load(folder: Path, request: Request) -> Run | None:
    """Return a run that was saved; None if there is none.

    Raises:
        ArtifactError: if the file is damaged or of a newer version.
    """
    path = path_of(folder, request)
    try:
        content: Any = reading.values(reading.text(path, MOST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"it is no JSON ({reading.wrong(error)})") from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no table")
    values = cast("dict[str, Any]", content)
    version = values.pop("format", None)
    if isinstance(version, int) and version > FORMAT:
        raise ArtifactError(f"{path} is of a newer version; run: pip install --upgrade secateur")
    for name, value in (("speed", None), ("int8", None), ("uncounted", ""), ("uncounted_macs", 0), ("metric", {})):
        values.setdefault(name, value)  # what earlier versions did not write
    if "repaired" not in values:  # a run of an earlier version, which measured once before training
        values["repaired"] = None
        if request.repair not in ("", "none"):
            values |= {"repaired": values.get("cut"), "cut": None}
    for entry in fields(Run):
        if entry.name not in values:
            raise _damaged(path, f"it lacks '{entry.name}'")
        kind = _KINDS.get(str(entry.type))
        if kind is not None and (not isinstance(values[entry.name], kind) or isinstance(values[entry.name], bool)):
            raise _damaged(path, f"'{entry.name}' is {reading.written(values[entry.name])}")
    known = {entry.name: values[entry.name] for entry in fields(Run)}
    known |= {"plans": tuple(known["plans"]), "histories": tuple(known["histories"])}
    if known["name"] != request.name:
        raise _damaged(path, f"it is of the run {reading.shown(known['name'])}")
    return Run(**known)


def same_network(run: Run, repair: str) -> str:
    """Return a text that runs share whose networks are the same: cut, repaired and trained alike, to the last bit.

    Args:
        run: whose name stands for its network where it has no plans.
        repair: what was done after the cut.
    """
    if not run.plans:
        return run.name
    edits = [json.loads(plan).get("edits") for plan in run.plans]
    epochs = [{k: v for k, v in row.items() if k != "seconds"} for history in run.histories for row in history["rows"]]
    known = (run.seed, edits, repair, run.dense, run.cut, run.repaired, run.test, run.val, run.macs, run.params, epochs)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": int | float,
    "float | None": int | float | None,
    "tuple[str, ...]": list,
    "tuple[Mapping[str, Any], ...]": list,
    "Mapping[str, Any]": dict,
    "Mapping[str, Any] | None": dict | None,
}


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {reason}; delete it and give the same command again")
