"""Saving a result as a folder, and getting the network back from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from secateur import reading
from secateur.arguments import checked
from secateur.artifact import folder as folders
from secateur.artifact import weights
from secateur.artifact.bounded_reading import MOST_PLAN, entry, naming, table_of, whole_number
from secateur.artifact.document import FORMAT, document, inputs_as_well, inputs_like
from secateur.artifact.environment import environment
from secateur.artifact.expected import check_expected
from secateur.artifact.locks import check_name
from secateur.artifact.manifest import check, check_size, manifest
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, apply
from secateur.core.surgery.forward import listed
from secateur.core.trace import trace
from secateur.core.zeros.block_execution import execute
from secateur.errors import ArtifactError, ModelError, PlanError, SettingError, TraceError
from secateur.measure import deploy
from secateur.measure.forward import device_of, length, moved, part, tensors
from secateur.models import build as build_by_name
from secateur.models import fit_classes
from secateur.models.sources import own_code
from secateur.outcome import Outcome
from secateur.recipe import Recipe
from secateur.rules import Seconds, Threads
from secateur.spelling import said

WEIGHTS, MEASUREMENT = "weights.safetensors", "measurement.json"
PREDICTIONS = "predictions.json"
MOST_PLANS = 2000
MOST_CLASSES = 2**16
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
    recipe = result.recipe
    with folders.replacing(place, force=force, claim=claim) as new:
        if recipe:
            folders.write_file(new / "recipe.toml", recipe.to_toml().encode())
        (new / "plans").mkdir()
        for number, plan in enumerate(result.plans, start=1):
            folders.write_file(new / "plans" / f"{number:03}.json", (plan.to_json() + "\n").encode())
        folders.write_file(new / WEIGHTS, weights.to_bytes(result.model))
        _write_json(new / MEASUREMENT, document(result))
        if result.predictions:
            folders.write_file(new / PREDICTIONS, json.dumps(result.predictions, allow_nan=False).encode())
        _write_json(new / "environment.json", environment(result.method, recipe.seed if recipe else None))
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
    asked = ["recipe.toml"] if "recipe.toml" in known else []
    check(place, [*asked, MEASUREMENT, "environment.json", *names])
    stored = _stored(place, known)
    recipe = None
    if asked:
        with naming(place / "recipe.toml"):
            recipe = Recipe.read(place / "recipe.toml")
    measurement = _measurement(place)
    if dense is None:
        dense = _dense(place, recipe, measurement, stored, build)
    model, plans = _replay(place, dense, names, measurement["example"], example_inputs)
    weights.read_into(model, place / WEIGHTS)
    with naming(place / MEASUREMENT):
        execute(model, entry({"execution": {}, **measurement}, "execution"))
    return Loaded(model.eval(), dense, recipe, plans, measurement, table_of(place / "environment.json"), example_inputs)


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


def _dense(
    place: Path,
    recipe: Recipe | None,
    measurement: dict[str, Any],
    stored: weights.Header,
    build: Callable[..., nn.Module] | None,
) -> nn.Module:
    """Build the untrained dense network without disturbing the caller's random numbers."""
    if recipe is None:
        raise ArtifactError(
            f"{place} was made from a network in memory; "
            + said("build that network and pass it as dense=", "read it in Python with secateur.load(..., dense=...)")
        )
    if build is None and (own_code(recipe.model) or "/" in recipe.model):
        raise ArtifactError(
            f"the network of {place} comes from your own code, {reading.shown(recipe.model)}, which is not run "
            + said(
                "unasked: pass the dense network as dense=, or trust that code with build=secateur.models.build",
                "unasked: trust it with --trust",
            )
        )
    example = measurement["example"]
    with naming(place / MEASUREMENT):
        classes, images = _asked(recipe, measurement)

    def made() -> nn.Module:
        return (build or build_by_name)(str(recipe.model), classes=classes, **images)

    with torch.random.fork_rng(devices=[]), naming(place / "recipe.toml"):
        if build is None:
            check_expected(made, measurement, stored, counted=not recipe.transfer)
        model = made()
        if recipe.transfer:  # a builder that knows one number of classes only
            fit_classes(model, classes, inputs_like(example, torch.device("cpu")))
        return model


def _asked(recipe: Recipe, measurement: Mapping[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Return the number of classes, and the channels and height of the images."""
    example = measurement["example"]
    output = _sizes(example.get("output") or [], "output")
    classes = recipe.classes or (output[1] if len(output) > 1 else None)
    if "classes" in measurement and recipe.data:  # earlier versions knew data with classes alone
        known = None if measurement["classes"] is None else whole_number(measurement, "classes")
        classes = recipe.classes or known
    if classes is not None and classes > MOST_CLASSES:
        raise reading.Unfit(f"the output has {classes:,} classes, and at most {MOST_CLASSES:,} are read")
    shape = _sizes(_image(example), "shape")
    return classes, {"channels": shape[-3], "image": shape[-2]} if len(shape) > 2 else {"channels": 3, "image": None}


def _image(example: Mapping[str, Any]) -> Any:
    """Return the shape of what a network takes for an image, alone or in a list; nothing if it takes something else."""
    items: Any = example.get("items")
    if isinstance(items, list) and len(cast("list[Any]", items)) == 1 and isinstance(items[0], Mapping):
        return _image(cast("Mapping[str, Any]", items[0]))
    shape: Any = example.get("shape") or []
    return shape if not isinstance(shape, list) or len(cast("list[Any]", shape)) in (3, 4) else []


def _sizes(sizes: Any, name: str) -> list[int]:
    if not isinstance(sizes, list):
        raise reading.Unfit(f"the {name} of its example is {reading.written(sizes)} and no list of sizes")
    return [whole_number({name: size}, name) for size in cast("list[Any]", sizes)]


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
                graph = trace(model, inputs, free_outputs=plan.free_outputs, tried=plan.tried)
                model = apply(model, graph, plan)
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
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    folders.write_file(path, (text + "\n").encode())
