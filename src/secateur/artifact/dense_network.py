"""The dense network of an artifact, built from its recipe without its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import reading
from secateur.artifact import weights
from secateur.artifact.bounded_reading import naming
from secateur.artifact.document import inputs_like
from secateur.artifact.expected import built_for, check_expected
from secateur.artifact.manifest import MEASUREMENT, RECIPE
from secateur.errors import ArtifactError
from secateur.models import build as build_by_name
from secateur.models import fit_classes
from secateur.models.sources import own_code
from secateur.recipe import Recipe
from secateur.spelling import said


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
