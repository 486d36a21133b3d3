"""Saving a result as a folder, and getting the network back from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from secateur.artifact import folder as folders
from secateur.artifact import weights
from secateur.artifact.document import FORMAT, document, inputs_like
from secateur.artifact.environment import environment
from secateur.core.blocks import execute
from secateur.core.plan import Plan
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.errors import ArtifactError, ModelError, PlanError, TraceError, first_line
from secateur.measure import deploy
from secateur.measure.forward import device_of
from secateur.models import build as build_by_name
from secateur.models import fit_classes
from secateur.recipe import Recipe

if TYPE_CHECKING:
    from secateur.run import Result

_SAFE_SOURCES = ("secateur", "torchvision", "timm")


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
    """

    model: nn.Module
    dense: nn.Module
    recipe: Recipe | None
    plans: tuple[Plan, ...]
    measurement: dict[str, Any]
    environment: dict[str, Any]

    def deploy(self, *, time: bool = True, seconds: float = 0.5, threads: int | None = None) -> nn.Module:
        """Return the pruned network ready to run, see ``secateur.measure.deploy``, which also says what it did."""
        example = inputs_like(self.measurement["example"], device_of(self.model))
        return deploy(self.model, example, time=time, seconds=seconds, threads=threads).model


def save(result: Result, folder: str | Path, *, force: bool = False) -> Path:
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
def saving(result: Result, folder: str | Path, *, force: bool = False) -> Generator[Path]:
    """Save a result together with what the block adds to it; yields where to, until all of it is there.

    Args:
        result: what ``prune`` returned.
        folder: where to, see ``save``.
        force: see ``save``.

    Raises:
        ArtifactError: see ``save``; also where a file of the block cannot be written.
    """
    folders.check_name(Path(folder))
    place = Path(folder).resolve()
    recipe = result.recipe
    with folders.replacing(place, force=force) as new:
        if recipe:
            folders.write_file(new / "recipe.toml", recipe.to_toml().encode())
        (new / "plans").mkdir()
        for number, plan in enumerate(result.plans, start=1):
            folders.write_file(new / "plans" / f"{number:03}.json", (plan.to_json() + "\n").encode())
        folders.write_file(new / "weights.safetensors", weights.to_bytes(result.model))
        _write_json(new / "measurement.json", document(result))
        _write_json(new / "environment.json", environment(result.method, recipe.seed if recipe else None))
        yield new


def load(
    folder: str | Path, *, dense: nn.Module | None = None, build: Callable[..., nn.Module] | None = None
) -> Loaded:
    """Rebuild the pruned network of an artifact: build the dense one, replay the plans, read the weights.

    Nothing that the folder holds is executed. If the recipe takes the network from the user's own Python
    code, that code is run only on request: through ``dense`` or ``build``.

    Args:
        folder: the artifact.
        dense: the dense network, untrained; left untouched. None builds it as the recipe says.
        build: builds the dense network from the recipe's ``model``, with the keywords ``classes``,
            ``channels`` and ``image`` of ``secateur.models.build``, the default but for the user's own code.

    Raises:
        ArtifactError: if the folder is missing, foreign, damaged, newer, or does not fit the network.
        ModelError: if the dense network cannot be built.
    """
    place = Path(folder).resolve()
    folders.recover(place)
    known: dict[str, Any] = folders.manifest(place)["files"]
    names = sorted((name for name in known if re.fullmatch(r"plans/\d+\.json", name)), key=_number)
    asked = ["recipe.toml"] if "recipe.toml" in known else []
    folders.check(place, [*asked, "measurement.json", "environment.json", "weights.safetensors", *names])
    recipe = Recipe.read(place / "recipe.toml") if asked else None
    measurement = _read_json(place / "measurement.json")
    if measurement.get("format", 0) > FORMAT:
        raise ArtifactError(f"{place / 'measurement.json'} is of a newer version; run: pip install --upgrade secateur")
    plans = tuple(Plan.from_json((place / name).read_text("utf-8")) for name in names)
    if dense is None:
        dense = _dense(place, recipe, measurement["example"], build)
    model = _replay(place, dense, plans, measurement["example"])
    weights.read_into(model, place / "weights.safetensors")
    execute(model, measurement.get("execution") or {})
    return Loaded(model.eval(), dense, recipe, plans, measurement, _read_json(place / "environment.json"))


def _dense(
    place: Path, recipe: Recipe | None, example: dict[str, Any], build: Callable[..., nn.Module] | None
) -> nn.Module:
    """Build the untrained dense network without disturbing the caller's random numbers."""
    if recipe is None:
        raise ArtifactError(f"{place} was made from a network in memory; build that network and pass it as dense=")
    source, colon, _ = recipe.model.rpartition(":")
    if build is None and ((colon and source not in _SAFE_SOURCES) or "/" in recipe.model):
        raise ArtifactError(
            f"the network of {place} comes from your own code, {recipe.model}, which is not run unasked: "
            "pass the dense network as dense=, or trust that code with --trust, in Python build=secateur.models.build"
        )
    shape, output = example.get("shape") or [], example.get("output") or []
    classes = recipe.classes or (output[1] if len(output) > 1 else None)
    images: dict[str, Any] = {"channels": 3, "image": None}
    if len(shape) == 4:
        images = {"channels": shape[1], "image": shape[2]}
    with torch.random.fork_rng(devices=[]):
        model = (build or build_by_name)(recipe.model, classes=classes, **images)
        if recipe.transfer:  # a builder that knows one number of classes only
            fit_classes(model, classes, inputs_like(example, torch.device("cpu")))
        return model


def _replay(place: Path, dense: nn.Module, plans: tuple[Plan, ...], example: dict[str, Any]) -> nn.Module:
    """Cut the dense network as it was cut in the run; an unpruned network is copied."""
    device = next((x.device for x in (*dense.parameters(), *dense.buffers())), torch.device("cpu"))
    inputs = inputs_like(example, device)
    model = dense
    try:
        for plan in plans or (Plan(),):
            model = apply(model, trace(model, inputs), plan)
    except (PlanError, TraceError, ModelError) as error:
        raise ArtifactError(f"the network given for {place} is not the one that was pruned: {error}") from error
    return model


def _number(name: str) -> int:
    return int(Path(name).stem)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    folders.write_file(path, (text + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}; restore it, or run the recipe again") from None
