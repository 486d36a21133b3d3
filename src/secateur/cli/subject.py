"""The network that a question is about: one from a result folder, or a named one, with something to run it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import Given
from secateur.cli.flags import Flag, flags_of
from secateur.cli.selection import NETWORK, speaking_of_flags

if TYPE_CHECKING:
    from secateur.artifact import Loaded
    from secateur.data import Calibration, Data
    from secateur.recipe import Recipe
    from secateur.run import Subject

Folder = Annotated[
    Path | None, typer.Argument(help="A result folder, instead of --model.", show_default=False, metavar="DIR")
]


def network_flags(*more: str) -> list[Flag]:
    """Return the flags that name a network and its data."""
    from secateur.recipe import Recipe

    return flags_of(Recipe, "recipe", "Network and data", names=(*NETWORK, "seed", *more))


def subject_of(
    given: Given,
    folder: Path | None,
    trust: bool,
    *,
    test: bool = False,
    images: bool = False,
    download: bool = False,
) -> Subject:
    """Return the network of a folder, or of a name.

    Args:
        given: the flags of ``network_flags``.
        folder: a result folder; None for the network that ``--model`` names.
        trust: whether the user's own code may be run to build a folder's network.
        test: whether the data is needed, and not only the shape of an image.
        images: whether the unlabelled images are, which a folder's recipe or the flags name.
        download: fetch a missing data set.
    """
    from secateur import run

    asked = given.of("recipe")
    for name in ("leave", "free_outputs", "groups", "patience"):
        asked.pop(name, None)
    if folder is None:
        if "model" not in asked:
            raise typer.BadParameter("give a result folder, or name a network.", param_hint="'--model'")
        subject = run.subject_of(_recipe(asked), download=download)
        return replace(subject, model=subject.model.eval())
    for name in ("model", "weights", "transfer", "classes", *(() if "data" in asked else ("image",))):
        if name in asked:
            raise typer.BadParameter("a result folder holds its own.", param_hint=f"'--{name}'")
    loaded = load(folder, trust)
    unlabelled = None
    if images:
        data, unlabelled = images_of_folder(asked, folder, loaded, download)
    else:
        wanted = test or "data" in asked
        data = run.data_of(_recipe_of(asked, folder, loaded), download=download) if wanted else None
        if data is not None and "data" in asked:
            _warn_of_scale(asked, loaded, data)
    example = example_of(loaded) if data is None else data.example()
    return run.Subject(str(folder), loaded.model, data, unlabelled, example)


def images_of_folder(
    asked: Mapping[str, Any], folder: Path, loaded: Loaded, download: bool = False
) -> tuple[Data | None, Calibration | None]:
    """Return the labelled and the unlabelled images of a result, or those that flags name instead."""
    from secateur import run

    return run.images_again(_recipe_of(asked, folder, loaded), loaded.model, download=download)


def _recipe_of(asked: Mapping[str, Any], folder: Path, loaded: Loaded) -> Recipe:
    """Return the recipe of a folder with what flags say instead; one that says no more where it has none."""
    from secateur.models.onnx_files import is_onnx

    if not {"mean", "std"} & asked.keys():
        asked = {**asked, **_normalisation(folder, loaded.measurement)}
    if loaded.recipe is not None and is_onnx(loaded.recipe.model):  # which the folder holds; the file may be gone
        asked = {"image": _shape(loaded.recipe, loaded, asked), **asked, "model": "none"}
    return _recipe({"model": "none", **asked}) if loaded.recipe is None else replace(loaded.recipe, **asked)


def _shape(recipe: Recipe, loaded: Loaded, asked: Mapping[str, Any]) -> str:
    """Return the shape of the images that a network takes where neither its recipe nor a flag says a size."""
    sizes = tuple(example.shape[1:]) if hasattr(example := example_of(loaded), "shape") else ()
    named = "image_size" in asked or recipe.image or recipe.image_size is not None
    return recipe.image if named or len(sizes) != 3 else "x".join(map(str, sizes))


def _normalisation(folder: Path, measurement: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean and deviation of the images of a result as settings; nothing where it does not say them.

    Raises:
        ArtifactError: if they are none.
    """
    from secateur.artifact.bounded_reading import entry, naming
    from secateur.artifact.store import MEASUREMENT

    if measurement.get("normalisation") is None:
        return {}
    with naming(folder / MEASUREMENT):
        found = entry(measurement, "normalisation")
        named = {name: tuple(found[name]) for name in ("mean", "std")}
        _recipe({"model": "none", **named})  # which refuses what no mean or deviation can be
        return named


def _warn_of_scale(asked: Mapping[str, Any], loaded: Loaded, data: Data) -> None:
    """Warn where images are normalised as the unlabelled ones of a result were, and usually are otherwise."""
    from secateur import run
    from secateur.events import warn
    from secateur.progress import Listener

    if {"mean", "std"} & asked.keys() or loaded.recipe is None or loaded.recipe.data or loaded.recipe.mean:
        return
    usual = run.data_of(replace(loaded.recipe, **asked))
    if usual is None or len(usual.mean) != len(data.mean) or (usual.mean, usual.std) == (data.mean, data.std):
        return
    now, other = (_flags(*it) for it in ((data.mean, data.std), (usual.mean, usual.std)))
    with Listener(quiet=True) as tell:
        warn(
            f"images of {data.name} are normalised as those were that the network was pruned with ({now}), and usually "
            f"they are otherwise: give {other} if it was trained so, here and with --calibrate",
            tell,
        )


def _flags(mean: Sequence[float], std: Sequence[float]) -> str:
    first, second = (",".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return f"--mean {first} --std {second}"


def _recipe(asked: dict[str, Any]) -> Recipe:
    from secateur.recipe import Recipe

    values: dict[str, Any] = {**asked, "method": "none"}
    with speaking_of_flags():
        return Recipe(**values)


def load(folder: Path, trust: bool) -> Loaded:
    """Return what a result folder holds; with trust its recipe has leave to run the code that it names."""
    from secateur import artifact
    from secateur.models import build

    loaded = artifact.load(folder, build=build if trust else None)
    recipe = loaded.recipe.vouched() if trust and loaded.recipe is not None else loaded.recipe
    return replace(loaded, recipe=recipe)


def example_of(loaded: Loaded) -> Any:
    """Return inputs of the shapes that the network of a result folder takes."""
    import torch

    from secateur.artifact.document import inputs_like

    return inputs_like(loaded.measurement["example"], torch.device("cpu"))
