from __future__ import annotations

import pytest
import torch

from secateur.data.order import Order
from secateur.errors import DataError, SecateurError, SettingError

CPU = torch.device("cpu")


def order(split="train", batch_size=8, augment="none", shuffle=False, seed=0, rank=0, world=1):
    return Order(split, batch_size, augment, shuffle, seed, CPU, rank, world)


def lengths(size, **settings):
    return [len(range(size)[share]) for share in order(**settings).shares(size)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(16, [8, 8]), (17, [8, 8]), (18, [8, 8, 2]), (23, [8, 8, 7]), (5, [5])],
)
def test_the_last_training_batch_is_kept_unless_it_is_one_image(size, expected):
    assert lengths(size) == expected


def test_the_last_evaluation_batch_is_always_kept():
    assert lengths(17, split="val") == [8, 8, 1]
    assert lengths(1, split="test") == [1]


def test_batches_of_one_image_are_allowed_when_asked_for():
    assert lengths(3, batch_size=1) == [1, 1, 1]


def test_a_last_batch_too_small_for_all_processes_is_left_out_on_all():
    assert [lengths(19, rank=rank, world=4) for rank in range(4)] == [[2, 2]] * 4
    assert [lengths(21, rank=rank, world=4) for rank in range(4)] == [
        [2, 2, 2],
        [2, 2, 1],
        [2, 2, 1],
        [2, 2, 1],
    ]


def test_evaluation_leaves_some_processes_without_a_last_share():
    assert [lengths(17, split="val", rank=rank, world=2) for rank in range(2)] == [[4, 4, 1], [4, 4]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "valid"}, r"'split' must be one of train, val, test, not 'valid' \(did you mean 'val'\?\)"),
        ({"augment": "crop-flip"}, r"unknown augmentation 'crop-flip' \(did you mean 'crop_flip'\?\)"),
        ({"batch_size": 0}, "'batch_size' must be a whole number of at least 1, not 0"),
        ({"rank": 2, "world": 2}, "rank 2 does not exist among 2 processes"),
        ({"batch_size": 9, "world": 2}, "batch of 9 cannot be shared equally by 2 processes"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(SecateurError, match=message):
        order(**settings)


@pytest.mark.parametrize("seed", [-1, 2**70, 0.5])
def test_seeds_that_torch_cannot_take_are_refused(seed):
    with pytest.raises(SettingError, match="'seed' must be a whole number of at least 0"):
        order(seed=seed)


@pytest.mark.parametrize(("size", "world"), [(1, 1), (3, 4)])
def test_a_training_pass_without_any_batch_is_refused(size, world):
    with pytest.raises(DataError, match="do not fill one batch"):
        order(world=world).shares(size)
