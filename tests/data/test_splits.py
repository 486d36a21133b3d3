from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.data.splits import holdout
from secateur.errors import DataError, SettingError

LABELS = st.lists(st.integers(0, 5), min_size=8, max_size=80).map(torch.tensor)
FRACTIONS = st.floats(0.02, 0.95)


@given(LABELS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_complete_and_stratified_within_one(labels, fraction, seed):
    kept, held = holdout(labels, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert len(held) >= 1
    for label in labels.unique():
        count, out = int((labels == label).sum()), int((labels[held] == label).sum())
        assert abs(out - fraction * count) <= 1
        assert out < count


@given(st.integers(2, 40), st.integers(2, 8), st.sampled_from([0.1, 0.125, 0.2, 0.29, 0.5]))
def test_the_total_is_the_rounded_fraction_when_classes_are_equal(count, classes, fraction):
    labels = torch.arange(classes).repeat_interleave(count)
    _, held = holdout(labels, fraction, 0)
    assert len(held) == max(1, round(fraction * len(labels)))


def test_same_seed_same_split_other_seed_other_split():
    labels = torch.arange(1000) % 10
    first, again, other = (holdout(labels, 0.1, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert set(first.tolist()) != set(other.tolist())


def test_held_images_do_not_come_class_by_class():
    labels = torch.arange(10).repeat_interleave(100)
    kept, held = holdout(labels, 0.5, 0)
    assert len(labels[kept][:100].unique()) == 10
    assert len(labels[held][:100].unique()) == 10


def test_every_image_can_be_held_out():
    labels = torch.zeros(20, dtype=torch.int64)
    seen = {int(row) for seed in range(60) for row in holdout(labels, 0.2, seed)[1]}
    assert seen == set(range(20))


@given(LABELS, FRACTIONS, st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_a_class_gives_several_images_or_none_where_they_are_to_be_found(labels, fraction, seed, parts):
    held, kept = [], labels
    for left in range(parts, 0, -1):
        if int(torch.bincount(kept).max()) < 4:
            with pytest.raises(DataError, match="are too few to hold out 2 of a class and keep 2"):
                holdout(kept, fraction, seed, paired=left)
            return
        rest, out = holdout(kept, fraction, seed, paired=left)
        assert torch.equal(out, holdout(kept, fraction, seed, paired=left)[1])
        assert sorted([*rest.tolist(), *out.tolist()]) == list(range(len(kept)))
        held.append(torch.bincount(kept[out], minlength=6))
        kept = kept[rest]
    assert all(bool(((counts == 0) | (counts >= 2)).all()) for counts in held)
    before, after = torch.bincount(labels, minlength=6), torch.bincount(kept, minlength=6)
    assert bool((after[before >= 2] >= 2).all())
    assert all(bool((counts[before >= 2 + 2 * parts] >= 2).all()) for counts in held)  # those that have enough
    assert bool((sum(held)[before >= 4] >= 2).all())


def test_where_every_class_has_many_images_they_are_held_out_as_ever():
    labels = torch.arange(8).repeat_interleave(40)
    for mine, usual in zip(holdout(labels, 0.1, 3, paired=2), holdout(labels, 0.1, 3), strict=True):
        assert torch.equal(mine, usual)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(DataError, match="strictly between 0 and 1"):
        holdout(torch.zeros(10, dtype=torch.int64), fraction, 0)


@pytest.mark.parametrize("seed", [-1, 2**70, 0.5])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(SettingError, match="seed must be a whole number of at least 0"):
        holdout(torch.arange(4) % 2, 0.5, seed)


def test_one_image_a_class_is_too_few():
    with pytest.raises(DataError, match="5 images of 5 classes are too few"):
        holdout(torch.arange(5), 0.2, 0)
