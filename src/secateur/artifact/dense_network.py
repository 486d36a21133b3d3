"""The dense network of an artifact, built from its recipe without its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import reading
from secateur.artifact import weights
from secateur.artifact.bounded_reading import entry, naming, whole_number
from secateur.artifact.document import inputs_like
from secateur.artifact.expected import ALWAYS, PER_COUNTED, PER_STORED, built_for, check_expected
from secateur.artifact.manifest import MEASUREMENT, NETWORK, RECIPE, check, manifest
from secateur.errors import ArtifactError
from secateur.models import build as build_by_name
from secateur.models import fit_classes
from secateur.models.onnx_files import from_skeleton, is_onnx
from secateur.models.sources import own_code
from secateur.recipe import Recipe
from secateur.spelling import said

_MOST_SKELETON = 64 * reading.MIB


def dense_network(
    place: Path,
    recipe: Recipe | None,
    measurement: dict[str, Any],
    stored: weights.Header,
    build: Callable[..., nn.Module] | None,
) -> nn.Module:
    """Build the untrained dense network without disturbing the caller's random numbers."""
    if NETWORK in manifest(place)["files"]:
        return _from_file(place, measurement, stored)
    if recipe is None:
        raise ArtifactError(
            f"{place} was made from a network in memory; "
            + said(
                "build that network and pass it as dense=",
                "read it in Python with secateur.load(..., dense=...), "
                "and write files that need no class with secateur.export_onnx, export_pt2 or export_source",
            )
        )
    if is_onnx(recipe.model):
        raise ArtifactError(
            f"{place} lacks {NETWORK}, the network of {reading.shown(recipe.model)}; "
            + said("copy the folder again, or pass the network as dense=", "copy the folder again")
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
        classes, images = built_for(recipe, measurement)

    def made() -> nn.Module:
        return (build or build_by_name)(str(recipe.model), classes=classes, **images)

    with torch.random.fork_rng(devices=[]), naming(place / RECIPE):
        if build is None:
            check_expected(made, measurement, stored, counted=not recipe.transfer)
        model = made()
        if recipe.transfer:  # a builder that knows one number of classes only
            fit_classes(model, classes, inputs_like(example, torch.device("cpu")))
        return model


def _from_file(place: Path, measurement: dict[str, Any], stored: weights.Header) -> nn.Module:
    """Build the network of an ONNX file from what the folder holds of that."""
    path = place / NETWORK
    check(place, [NETWORK])
    held = sum(torch.Size(shape).numel() for _, shape in stored.values())
    with naming(place / MEASUREMENT):
        made = whole_number(entry(entry(measurement, "before"), "counts"), "activations")
    with naming(path):
        content = reading.data(path, _MOST_SKELETON)
        most_made = ALWAYS + PER_COUNTED * made
        return from_skeleton(content, str(path), most=ALWAYS + PER_STORED * held, most_made=most_made)
