"""Where a run looks at images: on the accelerator if there is one, with a copy of a network that is elsewhere."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from secateur.data import Data
from secateur.events import Event, Tell, ignore
from secateur.measure import Measurement, Quality, measure, quality
from secateur.measure.forward import ExampleInputs, device_of
from secateur.measure.quality import warn_of_nan
from secateur.tasks import Task
from secateur.training import Settings
from secateur.training.placement import device_type

T = TypeVar("T")


def several_processes() -> bool:
    """Tell whether several processes train together, all of which have to decide alike."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def place_for(model: nn.Module, settings: Settings | None = None) -> torch.device:
    """Return the device on which a network of this run meets images outside of its trainings.

    Args:
        model: the network; one that is on an accelerator stays there.
        settings: of the training, whose device is taken; None for the accelerator. Where several processes train, each
            decides on its own CPU, so that all decide alike.

    Raises:
        TrainingError: if CUDA is asked for and there is none.
    """
    home = device_of(model)
    if home.type != "cpu" or several_processes() or device_type(settings or Settings()) == "cpu":
        return home
    return torch.device("cuda", torch.cuda.current_device())


def there(model: nn.Module, place: torch.device, work: Callable[[nn.Module], T], tell: Tell) -> T:
    """Return what comes of work with the network on a device, or where the network is if memory does not suffice there.

    Args:
        model: the network; it is never moved, the work gets a copy of it if it is elsewhere.
        place: the device.
        work: what to do; begun again where it ran out of memory.
        tell: hears of that.
    """
    home = device_of(model)
    if place != home:
        try:
            return work(copy.deepcopy(model).to(place))
        except torch.OutOfMemoryError:
            tell(
                Event("warning", f"{place} has too little memory; what was tried there is done, slower, on the {home}")
            )
    return work(model)


def mended_there(
    dense: nn.Module, thin: nn.Module, place: torch.device, work: Callable[[nn.Module, nn.Module], T], tell: Tell
) -> T:
    """Return what comes of work with both networks on a device, see ``there``; the weights of the second come back.

    Args:
        dense: looked at; never moved.
        thin: changed in place, where it is.
        place: the device.
        work: what to do with both; it may change parameters and buffers of the second.
        tell: hears of too little memory.
    """

    def both(network: nn.Module) -> T:
        if network is dense:
            return work(dense, thin)
        moved = copy.deepcopy(thin).to(place)
        done = work(network, moved)
        thin.load_state_dict(moved.state_dict())
        return done

    return there(dense, place, both, tell)


def quality_at(
    model: nn.Module, batches: Iterable[Any], task: Task, place: torch.device, tell: Tell = ignore
) -> Quality:
    """Return how well a network does its task on labelled examples, measured on a device, see ``there``."""
    return there(model, place, lambda network: quality(network, batches, task, tell=tell), tell)


def measure_at(
    model: nn.Module, inputs: ExampleInputs, data: Data | None, place: torch.device, *, tell: Tell
) -> Measurement:
    """Return what ``measure`` does but for the time, with the quality on test examples, if any, from a device."""
    tested = None
    if data is not None:
        tell(Event("measure", "testing the network"))
        tested = quality_at(model, data.batches("test"), data.task, place, tell)
        warn_of_nan(tested, "the network", tell)
    return replace(measure(model, inputs, time=False, tell=tell), quality=tested)
