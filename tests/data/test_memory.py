from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator import accelerator
from secateur.data import AUGMENTS, DATASETS, from_arrays
from secateur.data import memory as memory_module
from secateur.data.memory import Store


def make(count=50, *, val_fraction=0.2):
    """Image n is filled with the value n, so that a batch tells which images it holds."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 1, 4, 4).clone()
    test = (torch.full((7, 1, 4, 4), 200, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64))
    pair = (pixels, torch.arange(count) % 2)
    return from_arrays(pair, test, mean=[0.0], std=[1 / 255], layout="NCHW", val_fraction=val_fraction)


def passed(data, split="train", batch_size=8, **settings):
    return [(x.clone(), y) for x, y in data.batches(split, batch_size, **settings)]


def which(batches):
    return [x[:, 0, 2, 2].long().tolist() for x, _ in batches]


def test_splits_are_disjoint_and_complete():
    data = make()
    seen = [image for split in ("train", "val") for batch in which(passed(data, split)) for image in batch]
    assert sorted(seen) == list(range(50))
    assert (data.size("train"), data.size("val"), data.size("test")) == (40, 10, 7)
    assert which(passed(data, "test")) == [[200] * 7]


def test_images_keep_their_labels():
    for x, y in passed(make(), shuffle=True, seed=5):
        assert torch.equal(x[:, 0, 0, 0].long() % 2, y)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_batches_can_be_read_again_and_depend_on_the_seed_alone():
    data = make()
    batches = data.batches("train", 8, augment="crop_flip", shuffle=True, seed=3)
    first, again = list(batches), list(batches)
    torch.manual_seed(999)
    rebuilt = list(make().batches("train", 8, augment="crop_flip", shuffle=True, seed=3))
    for (x, y), (x2, y2), (x3, y3) in zip(first, again, rebuilt, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(x, x3)
        assert torch.equal(y, y2)
        assert torch.equal(y, y3)


def test_the_seed_permutes_the_images_only_when_they_are_shuffled():
    data = make()
    plain, first, other = (
        [n for batch in which(passed(data, shuffle=shuffle, seed=seed)) for n in batch]
        for shuffle, seed in ((False, 1), (True, 1), (True, 2))
    )
    assert sorted(plain) == sorted(first) == sorted(other)
    assert plain != first != other != plain
    assert plain == [n for batch in which(passed(data, seed=9)) for n in batch]


def test_a_pass_leaves_the_global_random_numbers_alone():
    data, state = make(), torch.get_rng_state()
    passed(data, augment="crop_flip", shuffle=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_passes_at_once_do_not_disturb_each_other():
    data = make()
    alone = which(passed(data, shuffle=True, seed=1))
    both = zip(data.batches("train", 8, shuffle=True, seed=1), passed(data, shuffle=True, seed=2), strict=True)
    assert which([first for first, _ in both]) == alone


def test_augmentation_never_changes_the_stored_images():
    data = make()
    before = which(passed(data))
    passed(data, augment="crop_flip")
    for x, _ in data.batches("train", 8):
        x.fill_(-1)
    assert which(passed(data)) == before


@settings(deadline=None)
@given(
    st.integers(12, 60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(AUGMENTS),
    st.booleans(),
    st.integers(0, 99),
)
def test_processes_together_see_the_batches_of_one(count, world, share, augment, shuffle, seed):
    data, batch_size = make(count), world * share
    pass_ = {"augment": augment, "shuffle": shuffle, "seed": seed}
    parts = [passed(data, batch_size=batch_size, rank=rank, world=world, **pass_) for rank in range(world)]
    single = passed(data, batch_size=batch_size, **pass_)
    assert {len(part) for part in parts} == {len(parts[0])}
    assert len(data.batches("train", batch_size, rank=world - 1, world=world)) == len(parts[0])
    dropped = len(single) - len(parts[0])
    assert dropped == 0 or (dropped == 1 and len(single[-1][1]) < world)
    for number in range(len(parts[0])):
        x, y = single[number]
        for rank, part in enumerate(parts):
            assert torch.equal(part[number][0], x[rank::world])
            assert torch.equal(part[number][1], y[rank::world])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_together_evaluate_every_image_once(world):
    data = make()
    seen = [
        n for rank in range(world) for batch in which(passed(data, "val", 4, rank=rank, world=world)) for n in batch
    ]
    assert sorted(seen) == sorted(n for batch in which(passed(data, "val")) for n in batch)


def test_example_is_the_first_validation_image():
    data = make()
    assert torch.equal(data.example(), passed(data, "val")[0][0][:1])


def test_a_device_gets_one_copy_of_a_small_set_and_none_of_a_large_one(monkeypatch):
    store, device = Store(torch.ones(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3)), torch.device("meta")
    assert store.on(torch.device("cpu"))[0] is store.images
    assert store.on(device)[0].device == device
    assert store.on(device)[0] is store.on(device)[0]
    monkeypatch.setattr(memory_module, "RESIDENT", 11)
    assert store.on(device)[0] is store.images


def test_an_accelerator_sees_the_same_pass():
    data, pass_ = make(), {"augment": "crop_flip", "shuffle": True, "seed": 2}
    here = passed(data, **pass_)
    with accelerator() as device:
        for (x, y), (x2, y2) in zip(here, passed(data, device=device, **pass_), strict=True):
            assert x2.device == y2.device == device
            torch.testing.assert_close(x, x2.cpu())
            assert torch.equal(y, y2.cpu())


def test_every_data_set_has_a_description():
    assert all(DATASETS.values())
