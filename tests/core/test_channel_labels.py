from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.core import channel_labels as L


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[torch.Tensor, list[int], list[int]]:
    """A layer, the shape of its tensor, and a shape with as many elements."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=5))

    def cut() -> list[int]:
        shape: list[int] = []
        part = 1
        for factor in factors:
            part *= factor
            if draw(st.booleans()):
                shape.append(part)
                part = 1
        shape.append(part)
        if draw(st.booleans()):
            shape.insert(draw(st.integers(0, len(shape))), 1)
        return shape

    old, new = cut(), cut()
    varying = [draw(st.booleans()) for _ in old]
    sizes = [n if v else 1 for n, v in zip(old, varying, strict=True)]
    values = draw(st.lists(st.integers(0, 4), min_size=math.prod(sizes), max_size=math.prod(sizes)))
    return torch.tensor(values).reshape(sizes), old, new


@given(reshapes())
def test_reshaping_labels_is_reshaping_the_expanded_labels(case: tuple[torch.Tensor, list[int], list[int]]) -> None:
    layer, old, new = case
    found = L.reshape(layer, old, new)
    assert found is not None
    assert found.dim() == len(new)
    assert torch.equal(found.expand(new), layer.expand(old).reshape(new))


@given(reshapes())
def test_compact_labels_say_the_same_in_the_smallest_form(case: tuple[torch.Tensor, list[int], list[int]]) -> None:
    layer, old, _ = case
    small = L.compact(layer.expand(old))
    assert torch.equal(small.expand(old), layer.expand(old))
    for dim in L.varying(small):
        assert not torch.equal(small, small.narrow(dim, 0, 1).expand(small.shape))


def test_large_weights_are_never_spelled_out() -> None:
    layer = torch.arange(1, 5).reshape(4, 1)
    found = L.reshape(layer, (4, 10**12), (2, 2, 10**6, 10**6))
    assert found is not None
    assert found.shape == (2, 2, 1, 1)


def test_tensors_without_elements_have_no_labels() -> None:
    assert L.reshape(torch.ones(1, 1), (0, 3), (3, 0)) is None


def test_shapes_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="different numbers of elements"):
        L.reshape(torch.ones(1, 1), (2, 3), (5,))


def test_joining_puts_fixed_positions_where_there_are_no_labels() -> None:
    one = torch.tensor([1, 2]).reshape(1, 2, 1)
    joined = L.concatenate([one, None, one], [2, 3, 2], 1, 3)
    assert joined is not None
    assert joined.flatten().tolist() == [1, 2, 0, 0, 0, 1, 2]
    assert L.concatenate([None, None], [2, 3], 1, 3) is None


def test_alignment_is_that_of_broadcasting() -> None:
    assert L.align(torch.ones(3, 1), 4).shape == (1, 1, 3, 1)
    assert L.along(torch.arange(6).reshape(2, 3), 1).tolist() == [[0, 3], [1, 4], [2, 5]]
