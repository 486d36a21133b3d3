"""The dense network of an artifact, built from its recipe without its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from secateur import reading
from secateur.artifact import weights
from secateur.artifact.bounded_reading import naming, whole_number
from secateur.artifact.document import inputs_like
from secateur.artifact.expected import check_expected
from secateur.artifact.manifest import MEASUREMENT
from secateur.errors import ArtifactError
from secateur.models import build as build_by_name
from secateur.models import fit_classes
from secateur.models.sources import own_code
from secateur.recipe import Recipe
from secateur.spelling import said

MOST_CLASSES = 2**16


def dense_network(
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
    known = None if measurement.get("classes") is None else whole_number(measurement, "classes")
    classes = recipe.classes or known or (output[1] if len(output) > 1 else None)
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
