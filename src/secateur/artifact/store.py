"""Saving a result as a folder, and getting the network back from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import reading
from secateur.arguments import checked
from secateur.artifact import folder as folders
from secateur.artifact import weights
from secateur.artifact.bounded_reading import MOST_PLAN, entry, naming, table_of, whole_number
from secateur.artifact.dense_network import dense_network
from secateur.artifact.document import FORMAT, document, inputs_as_well, inputs_like
from secateur.artifact.environment import environment
from secateur.artifact.locks import check_name
from secateur.artifact.manifest import (
    ENVIRONMENT,
    MEASUREMENT,
    NETWORK,
    PREDICTIONS,
    RECIPE,
    WEIGHTS,
    check,
    check_size,
    manifest,
)
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, apply
from secateur.core.surgery.forward import listed
from secateur.core.trace import traced
from secateur.core.zeros.block_execution import execute
from secateur.errors import ArtifactError, ModelError, PlanError, SettingError, TraceError
from secateur.measure import deploy
from secateur.measure.forward import device_of, length, moved, part, tensors
from secateur.models.onnx_files import OnnxNetwork
from secateur.outcome import Outcome
from secateur.recipe import Recipe
from secateur.rules import Seconds, Threads

MOST_PLANS = 2000
ENOUGH = 2**22
"""Numbers in the inputs that a network is traced with, if they are many examples."""

_QUICK = 128 * reading.MIB  # bytes that are hashed before a file is looked into


@checked
@dataclass(frozen=True)
class Loaded:
    """What an artifact holds.

    Attributes:
        model: the pruned network with its weights, in evaluation mode; block layers run as they did when it was saved
            (``secateur.measure.fastest`` chooses anew for another machine).
        dense: the network before pruning; untrained, unless it was given.
        recipe: what was asked; None if the run was made from Python objects.
        plans: what was removed, round by round.
        measurement: what came out, see ``document``.
        environment: on what it was made.
        example_inputs: that the dense network was run on; None: such as were recorded.
    """

    model: nn.Module
    dense: nn.Module
    recipe: Recipe | None
    plans: tuple[Plan, ...]
    measurement: dict[str, Any]
    environment: dict[str, Any]
    example_inputs: Any = None

    def deploy(self, *, time: bool = True, seconds: Seconds = 0.5, threads: Threads = None) -> nn.Module:
        """Return the pruned network ready to run, see ``secateur.measure.deploy``, which also says what it did."""
        example = self.example_inputs
        if example is None:
            example = inputs_like(self.measurement["example"], device_of(self.model))
        return deploy(self.model, example, time=time, seconds=seconds, threads=threads).model


@checked
def save(result: Outcome, folder: str | Path, *, force: bool = False) -> Path:
    """Write a result as a folder, whole or not at all.

    Args:
        result: what ``prune`` returned.
        folder: where to; must not exist, unless ``force``.
        force: replace the artifact (or empty folder) that is there; anything else is left alone.

    Returns:
        The folder.

    Raises:
        ArtifactError: if something is in the way or cannot be written; what was there is untouched then.
    """
    with saving(result, folder, force=force):
        pass
    return Path(folder)


@contextmanager
def saving(result: Outcome, folder: str | Path, *, force: bool = False, claim: bool = True) -> Generator[Path]:
    """Save a result together with what the block adds to it; yields where to, until all of it is there.

    Args:
        result: what ``prune`` returned.
        folder: where to, see ``save``.
        force: see ``save``.
        claim: keep other processes from saving there meanwhile; False where the caller does.

    Raises:
        ArtifactError: see ``save``; also where a file of the block cannot be written.
    """
    check_name(Path(folder))
    place = Path(folder).resolve()
    with folders.replacing(place, force=force, claim=claim) as new:
        if recipe := result.recipe:
            folders.write_file(new / RECIPE, recipe.to_toml().encode())
        (new / "plans").mkdir()
        for number, plan in enumerate(result.plans, start=1):
            folders.write_file(new / "plans" / f"{number:03}.json", (plan.to_json() + "\n").encode())
        folders.write_file(new / WEIGHTS, weights.to_bytes(result.model))
        if isinstance(result.dense, OnnxNetwork):
            folders.write_file(new / NETWORK, result.dense.interface.skeleton)
        _write_json(new / MEASUREMENT, document(result))
        if result.predictions:
            folders.write_file(new / PREDICTIONS, json.dumps(result.predictions, allow_nan=False).encode())
        _write_json(new / ENVIRONMENT, environment(result.method, recipe.seed if recipe else None))
        yield new


@checked
def load(
    folder: str | Path,
    *,
    dense: nn.Module | None = None,
    build: Callable[..., nn.Module] | None = None,
    example_inputs: Inputs | None = None,
) -> Loaded:
    """Rebuild the pruned network of an artifact: build the dense one, replay the plans, read the weights.

    Nothing that the folder holds is executed. If the recipe takes the network from the user's own Python
    code, that code is run only on request: through ``dense`` or ``build``. Whatever the files hold, they are read
    within bounds, and what does not fit together is refused.

    Args:
        folder: the artifact.
        dense: the dense network, untrained; left untouched. None builds it as the recipe says.
        build: builds the dense network from the recipe's ``model``, with the keywords ``classes``,
            ``channels`` and ``image`` of ``secateur.models.build``, the default but for the user's own code.
        example_inputs: what the dense network is run on. None: numbers of the recorded shapes and types, on which not
            every network runs: an artifact holds no values, and nothing but tensors, numbers, text and containers.

    Raises:
        ArtifactError: if the folder is missing, foreign, damaged, newer, or does not fit the network; it names the
            file, and what it was made from is its cause.
    """
    place = Path(folder).resolve()
    folders.recover(place)
    known: dict[str, Any] = manifest(place)["files"]
    names = sorted(
        (name for name in known if re.fullmatch(r"plans/[0-9]{1,9}\.json", name)), key=lambda name: int(Path(name).stem)
    )
    if len(names) > MOST_PLANS:
        raise ArtifactError(f"{place} holds {len(names):,} plans, and at most {MOST_PLANS:,} are read; check the path")
    asked = [RECIPE] if RECIPE in known else []
    check(place, [*asked, MEASUREMENT, ENVIRONMENT, *names])
    stored = _stored(place, known)
    recipe = None
    if asked:
        with naming(place / RECIPE):
            recipe = Recipe.read(place / RECIPE)
    measurement = _measurement(place)
    if dense is None:
        dense = dense_network(place, recipe, measurement, stored, build)
    model, plans = _replay(place, dense, names, measurement["example"], example_inputs)
    weights.read_into(model, place / WEIGHTS)
    with naming(place / MEASUREMENT):
        execute(model, entry({"execution": {}, **measurement}, "execution"))
    return Loaded(model.eval(), dense, recipe, plans, measurement, table_of(place / ENVIRONMENT), example_inputs)


def _stored(place: Path, known: dict[str, Any]) -> weights.Header:
    """Return what the weights are, checked against the manifest; of a large file not before its header is sound."""
    if check_size(place, WEIGHTS, known) <= _QUICK:
        check(place, [WEIGHTS])
        return weights.header(place / WEIGHTS)
    found = weights.header(place / WEIGHTS)
    check(place, [WEIGHTS])
    return found


def _measurement(place: Path) -> dict[str, Any]:
    """Return the content of measurement.json, as far as loading depends on it in the form that was written."""
    path = place / MEASUREMENT
    found = table_of(path)
    with naming(path):
        if whole_number({"format": 0, **found}, "format") > FORMAT:
            raise ArtifactError(f"{path} is of a newer version; run: pip install --upgrade secateur")
        for network in ("before", "after"):
            counts = entry(entry(found, network), "counts")
            for name in ("params", "nonzero", "macs", "activations"):
                whole_number(counts, name)
        entry(found, "example")
    return found


def _cut_again(model: nn.Module, inputs: Inputs, plan: Plan) -> nn.Module:
    """Apply a plan to the network as it was read in the run, with trials before the cut or without."""
    try:
        graph = traced(model, inputs, free_outputs=plan.free_outputs, tried=plan.tried, trials="where needed")
        return apply(model, graph, plan)
    except PlanError:
        return apply(model, traced(model, inputs, free_outputs=plan.free_outputs, tried=plan.tried), plan)


def _replay(
    place: Path, dense: nn.Module, names: Sequence[str], example: dict[str, Any], given: Inputs | None
) -> tuple[nn.Module, tuple[Plan, ...]]:
    """Cut the dense network as it was cut in the run, plan by plan; an unpruned network is copied."""
    device = next((x.device for x in (*dense.parameters(), *dense.buffers())), torch.device("cpu"))
    with naming(place / MEASUREMENT):
        inputs = _few(inputs_like(example, device)) if given is None else moved(given, device)
    model, plans = dense, list[Plan]()
    for path in [place / name for name in names] or [None]:
        with naming(path or place / MEASUREMENT):
            plan = Plan() if path is None else Plan.from_json(reading.text(path, MOST_PLAN))
            try:
                model = _cut_again(model, inputs, plan)
            except ModelError as error:
                raise ArtifactError(
                    f"the network given for {path or place} cannot be cut again ({reading.line(str(error))}); "
                    f"give the one that was pruned, and {inputs_as_well()}"
                ) from error
            except (PlanError, TraceError, SettingError) as error:
                raise ArtifactError(
                    f"the network given for {path or place} is not the one that was pruned: {reading.line(str(error))}"
                ) from error
        if path is not None:
            plans.append(plan)
    return model, tuple(plans)


def _few(inputs: Any) -> Any:
    """Return the first of many examples: a network is cut alike on one and on a thousand."""
    found = list(tensors(inputs))
    rows = {len(tensor) if tensor.dim() else 0 for tensor in found}
    if listed(inputs) is not None:
        rows = {length(inputs)}
    numbers = sum(tensor.numel() for tensor in found)
    if numbers <= ENOUGH or len(rows) != 1:
        return inputs
    return part(inputs, slice(max(1, ENOUGH * rows.pop() // numbers)))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    folders.write_file(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
