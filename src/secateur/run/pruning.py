"""The front verb: prune a network."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.method import Method
from secateur.core.select import Limits
from secateur.core.size import Target
from secateur.data import Data, load_data
from secateur.errors import DataError, ModelError, SettingError
from secateur.events import Event, Tell, ignore
from secateur.methods import find
from secateur.models import build
from secateur.run.job import Job
from secateur.run.result import Result
from secateur.training import Settings


def prune(
    model: nn.Module | str,
    example_inputs: Any = None,
    method: Method | str = "magnitude",
    target: Target | float | None = None,
    data: Data | str | None = None,
    *,
    train: Settings | None = None,
    rounds: int = 1,
    leave: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    seed: int = 0,
    latency: bool = True,
    work: str | Path | None = None,
    tell: Tell = ignore,
) -> Result:
    """Make a network smaller by a published method, and prove that nothing else changed.

    The given network is never modified: the result holds a new one.

    Args:
        model: a network, or the name of one (``secateur.models.build``).
        example_inputs: a tensor, tuple or dict that the network runs on; an image of ``data`` if None.
        method: a method or its name.
        target: what to keep; a number is a fraction of the MACs. None: the method's own rates decide.
        data: a data set or its name; for methods that measure, for accuracies and for fine-tuning.
        train: how to fine-tune after each round; None for not at all.
        rounds: in how many equal steps (on a logarithmic scale) the target is approached.
        leave: patterns of layer names that keep all their channels.
        limits: floors and multiples of widths.
        seed: of everything random.
        latency: whether to time the networks.
        work: folder for checkpoints; a run that was killed goes on from there when called again.
        tell: hears the progress.

    Returns:
        The pruned network with all measurements.

    Raises:
        SecateurError: one of its kinds, with one sentence on what to do.
    """
    asked = find(method)() if isinstance(method, str) else method
    goal = Target(target) if isinstance(target, (int, float)) else target
    if rounds < 1:
        raise SettingError(f"rounds must be at least 1, not {rounds}")
    images = load_data(data, seed=seed) if isinstance(data, str) else data
    if isinstance(model, str):
        shape = images.shape if images else (3, 224, 224)
        model = build(model, classes=images.classes if images else None, channels=shape[0], image=shape[1])
    if example_inputs is None:
        if images is None:
            raise DataError("give example_inputs, or data to take one image from")
        example_inputs = images.example()
    if train is not None and images is None:
        raise DataError("fine-tuning needs data; give it, or leave train out")
    _check_weights(model)
    _warn_of_optimizers(model, tell)
    job = Job(model, example_inputs, asked, goal, images, train, leave, limits, seed, latency, work, tell)
    return job.run(rounds)


def _check_weights(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"'{name}' contains NaN or infinite values; load sound weights before pruning")


def _warn_of_optimizers(model: nn.Module, tell: Tell) -> None:
    """An optimizer goes on training the network that it was made for, which is not the one that comes out."""
    own = {id(parameter) for parameter in model.parameters()}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.optim.Optimizer) and any(  # isinstance would wake lazy objects
            id(parameter) in own for group in thing.param_groups for parameter in group["params"]
        ):
            text = (
                f"{type(thing).__name__} holds the parameters of the dense network; the pruned network has new ones: "
                "make a new optimizer for it"
            )
            tell(Event("warning", text))
            warnings.warn(text, UserWarning, stacklevel=3)
            return
