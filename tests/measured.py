"""What tests of tasks share: the values of a meter, and the one sentence with which something is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from secateur.errors import SecateurError
from secateur.tasks import Task


def measured(task: Task, *seen: tuple[Any, Any]) -> tuple[float, ...]:
    """The metrics over batches, each given as what the network returned and its targets."""
    meter = task.meter(torch.device("cpu"))
    for returned, target in seen:
        meter.update(task.output(returned), (None, target))
    return tuple(meter.compute())


def sentence(kind: type[SecateurError], call: Callable[[], Any]) -> str:
    """What is said when something is refused: one line of the very kind."""
    with pytest.raises(SecateurError) as caught:
        call()
    said = str(caught.value)
    assert type(caught.value) is kind
    assert said
    assert "\n" not in said
    return said
