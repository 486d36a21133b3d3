"""Where a run looks at images: on the accelerator if there is one, with a copy of a network that is elsewhere."""

from __future__ import annotations

import copy
import os

import torch
from torch import nn

from secateur.measure.forward import device_of
from secateur.training import Settings
from secateur.training.placement import device_type


def place_for(model: nn.Module, settings: Settings) -> torch.device:
    """Return the device on which a network of this run meets images outside of its trainings.

    Args:
        model: the network; one that is on an accelerator stays there.
        settings: of the training, whose device is taken. Where several processes train, each decides on its own CPU,
            so that all decide alike.

    Raises:
        TrainingError: if CUDA is asked for and there is none.
    """
    home = device_of(model)
    if home.type != "cpu" or int(os.environ.get("WORLD_SIZE", "1")) > 1 or device_type(settings) == "cpu":
        return home
    return torch.device("cuda", torch.cuda.current_device())


def put(model: nn.Module, place: torch.device) -> nn.Module:
    """Return the network if it is there, else a copy of it there; the network itself is never moved."""
    return model if device_of(model) == place else copy.deepcopy(model).to(place)
