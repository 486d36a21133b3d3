"""Two runs are the same course if the same values enter the same operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.trace.course import Course

WEIGHT, OTHER = torch.randn(4, 4), torch.randn(4, 4)
X = torch.randn(4, 4)


def steps_of(program: Callable[[Tensor], Any]) -> list[tuple[object, ...]]:
    course = Course({id(WEIGHT): ("weight", WEIGHT), id(OTHER): ("other", OTHER)})

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            course.note("", func, args, kwargs, out)
            return out

    with Mode():
        program(X)
    return course.steps


def plain(x: Tensor) -> Tensor:
    y, z = x.relu(), x.tanh()
    return (y @ WEIGHT)[:2] + z[:2] + torch.cat([y, z])[:2]


def otherwise(parameter: Tensor, rows: int, swap: bool) -> Callable[[Tensor], Tensor]:
    def program(x: Tensor) -> Tensor:
        y, z = x.relu(), x.tanh()
        return (y @ parameter)[:rows] + z[:rows] + torch.cat([z, y] if swap else [y, z])[:rows]

    return program


def test_the_same_program_has_the_same_course() -> None:
    assert steps_of(plain) == steps_of(plain) == steps_of(otherwise(WEIGHT, 2, False))


@pytest.mark.parametrize(
    "program", [otherwise(OTHER, 2, False), otherwise(WEIGHT, 3, False), otherwise(WEIGHT, 2, True)]
)
def test_another_parameter_size_or_order_is_another_course(program: Callable[[Tensor], Tensor]) -> None:
    assert steps_of(program) != steps_of(plain)


def test_numbers_that_are_no_sizes_do_not_count() -> None:
    assert steps_of(lambda x: x * 0.5) == steps_of(lambda x: x * 0.25)
