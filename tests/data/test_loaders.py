from __future__ import annotations

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from secateur.data import from_loaders
from secateur.errors import DataError


def dataset(count=10, classes=3):
    return TensorDataset(torch.arange(count * 12.0).view(count, 3, 2, 2), torch.arange(count) % classes)


def loaders():
    return [DataLoader(dataset(count), batch_size=4) for count in (10, 6, 5)]


def test_batches_pass_through_as_they_are():
    mine = loaders()
    data = from_loaders(*mine, classes=3)
    assert (data.shape, data.classes, data.mean, data.std) == ((3, 2, 2), 3, (0.0,) * 3, (1.0,) * 3)
    for split, loader in zip(("train", "val", "test"), mine, strict=True):
        batches = data.batches(split, 99, augment="crop_flip", shuffle=True, seed=1)
        assert len(batches) == len(loader)
        assert data.size(split) == len(loader.dataset)
        for (x, y), (x2, y2) in zip(batches, loader, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert torch.equal(data.example(), torch.arange(12.0).view(1, 3, 2, 2))


def test_lists_of_batches_and_half_precision_are_taken():
    batches = [(torch.ones(4, 1, 2, 2, dtype=torch.float16), torch.zeros(4, dtype=torch.int32))] * 3
    data = from_loaders(batches, batches, batches, classes=1)
    assert data.size("train") == 12
    x, y = next(iter(data.batches("train", 4)))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_a_sampler_that_leaves_images_out_is_counted():
    some = DataLoader(dataset(10), batch_size=4, sampler=SubsetRandomSampler([1, 2, 3]))
    assert from_loaders(some, some, some, classes=3).size("train") == 3


def test_the_test_loader_is_not_touched():
    class Closed:
        def __iter__(self):
            raise AssertionError("touched")

    train, val, _ = loaders()
    assert from_loaders(train, val, Closed(), classes=3).size("val") == 6


def test_several_processes_need_a_distributed_sampler():
    data = from_loaders(*loaders(), classes=3)
    with pytest.raises(DataError, match="2 processes would all see the same images of the train loader"):
        data.batches("train", 4, rank=0, world=2)


def test_a_distributed_sampler_shares_the_images_and_follows_the_seed():
    seen = {}
    for rank in range(2):
        sampler = DistributedSampler(dataset(), num_replicas=2, rank=rank, shuffle=True)
        train = DataLoader(dataset(), batch_size=5, sampler=sampler)
        data = from_loaders(train, loaders()[1], loaders()[2], classes=3)
        assert data.size("train") == 10
        for seed in (0, 1):
            (x, _), *_ = data.batches("train", 10, seed=seed, rank=rank, world=2)
            seen[rank, seed] = (x[:, 0, 0, 0] / 12).long().tolist()
    for seed in (0, 1):
        assert sorted(seen[0, seed] + seen[1, seed]) == list(range(10))
    assert seen[0, 0] != seen[0, 1]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(3, 2, 2), 0)] * 4)


def test_a_stream_works_but_has_no_length():
    stream = DataLoader(Stream(), batch_size=2)
    data = from_loaders(stream, stream, stream, classes=1)
    assert len(list(data.batches("train", 2))) == 2
    with pytest.raises(DataError, match="has no length"):
        len(data.batches("train", 2))
    with pytest.raises(DataError, match="does not tell how many images"):
        data.size("train")


IMAGES, LABELS = torch.ones(2, 3, 4, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (IMAGES, r"yields a Tensor: it must yield pairs"),
        ((IMAGES, LABELS, LABELS), r"must yield pairs"),
        ({"image": IMAGES}, "yields a dict"),
        ((IMAGES.byte(), LABELS), r"yields images as torch.uint8 \(2, 3, 4, 4\)"),
        ((IMAGES[0], LABELS), r"give normalised float tensors"),
        ((IMAGES, LABELS[:1]), "one whole-number label for each image"),
        (
            (IMAGES, torch.zeros(4, 2, 2)),
            r"not float32 of shape \(4, 2, 2\); if .* name it, as task=",
        ),
        ((IMAGES, LABELS.float()), "one whole-number label for each image"),
        ((IMAGES, LABELS + 1), "val loader hold the label 2, but 2 classes have labels 0 to 1"),
    ],
)
def test_batches_of_another_kind_are_refused(batch, message):
    with pytest.raises(DataError, match=message):
        from_loaders([(IMAGES, LABELS)], [batch], [(IMAGES, LABELS)], classes=2)


def test_loaders_that_can_be_read_once_or_are_empty_are_refused():
    good = [(IMAGES, LABELS)]
    with pytest.raises(DataError, match="train loader can be read at most once"):
        from_loaders(iter(good), good, good, classes=2)
    with pytest.raises(DataError, match="val loader yields no batch"):
        from_loaders(good, [], good, classes=2)
    with pytest.raises(DataError, match="val loader yields a NoneType: it must yield pairs"):
        from_loaders(good, [None], good, classes=2)


class Prefetching:
    """A loader around another one, as that of timm is."""

    def __init__(self, loader, *shown):
        self.loader = loader
        for name in shown:
            setattr(self, name, getattr(loader, name))

    def __iter__(self):
        return iter(self.loader)

    def __len__(self):
        return len(self.loader)


def test_loaders_around_others_say_how_many_images_they_have():
    images = TensorDataset(torch.randn(6, 3, 8, 8), torch.arange(6) % 2)
    inner = DataLoader(images, batch_size=4, sampler=SubsetRandomSampler(range(5)))
    for shown, size in ((("sampler", "dataset"), 5), (("dataset",), 6)):
        data = from_loaders(Prefetching(inner, *shown), inner, inner, classes=2)
        assert data.size("train") == size
    with pytest.raises(DataError, match=r"the train loader .* give it a 'dataset' that has a length"):
        from_loaders(Prefetching(inner), inner, inner, classes=2).size("train")
