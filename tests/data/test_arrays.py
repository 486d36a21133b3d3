from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.data import from_arrays
from secateur.errors import DataError

RNG = np.random.default_rng(0)


def pair(shape=(40, 3, 8, 8), dtype=np.uint8, classes=4):
    images = RNG.integers(0, 256, shape).astype(dtype)
    return images, np.arange(shape[0]) % classes


def everything(data, split):
    batches = list(data.batches(split, 1000))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 3, 8, 9), (3, 8, 9)), ((40, 8, 9, 3), (3, 8, 9)), ((40, 8, 9), (1, 8, 9))],
)
@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_layouts_are_understood(shape, expected, kind):
    images, labels = pair(shape)
    convert = {
        "numpy": lambda a: a,
        "torch": torch.from_numpy,
        "list": lambda a: torch.from_numpy(a) if a.ndim > 1 else a.tolist(),
    }[kind]
    arrays = (convert(images), convert(labels))
    data = from_arrays(arrays, arrays, mean=[0.0] * expected[0], std=[1 / 255] * expected[0])
    assert data.shape == expected
    assert data.classes == 4
    x, y = everything(data, "test")
    plain = torch.from_numpy(images).float()
    plain = plain.permute(0, 3, 1, 2) if shape[-1] == 3 else plain.view(-1, *expected)
    torch.testing.assert_close(x, plain)
    assert torch.equal(y, torch.from_numpy(labels))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
def test_statistics_come_from_the_training_split_alone(dtype):
    images, labels = pair((600, 3, 5, 5), dtype)
    val = (np.zeros((10, 3, 5, 5), dtype), np.zeros(10, np.int64))
    for data in (
        from_arrays((images, labels), val, val),
        from_arrays((images, labels), val, val_fraction=0.5),
    ):
        x, _ = everything(data, "train")
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)


def test_uint8_statistics_are_of_pixels_in_0_to_1():
    images, labels = pair((400, 1, 5, 5))
    data = from_arrays((images, labels), (images, labels), (images, labels))
    assert data.mean == pytest.approx([images.mean() / 255])
    assert data.std == pytest.approx([images.std() / 255])


def test_one_given_constant_is_kept_and_the_other_computed():
    images, labels = pair((40, 1, 5, 5))
    data = from_arrays((images, labels), (images, labels), (images, labels), mean=[0.25])
    assert data.mean == (0.25,)
    assert data.std == pytest.approx([images.std() / 255])


def test_a_constant_channel_does_not_divide_by_zero():
    images, labels = pair((40, 2, 4, 4))
    images[:, 1] = 77
    data = from_arrays((images, labels), (images, labels), layout="NCHW")
    x, _ = everything(data, "train")
    assert data.std[1] == 1.0
    assert x[:, 1].abs().max() < 1e-5


def test_memory_is_shared_where_possible():
    images, labels = pair()
    data = from_arrays((images, labels), (images, labels))
    store = data.source.parts["train"].store()
    assert store.images.data_ptr() == images.ctypes.data
    assert store.images.dtype == torch.uint8


def test_read_only_and_reversed_arrays_are_taken(recwarn):
    images, labels = pair()
    images.setflags(write=False)
    data = from_arrays((images, labels), (images[::-1], labels[::-1]), mean=[0] * 3, std=[1 / 255] * 3)
    x, _ = everything(data, "test")
    torch.testing.assert_close(x[0], torch.from_numpy(images[-1].astype(np.float32)))
    assert not recwarn.list


def test_a_given_validation_set_is_used_as_it_is():
    train, val = pair(), pair((6, 3, 8, 8))
    data = from_arrays(train, train, val)
    assert (data.size("train"), data.size("val")) == (40, 6)


GOOD = pair()


@pytest.mark.parametrize(
    ("train", "settings", "message"),
    [
        ((GOOD[0], GOOD[1][:-1]), {}, "training arrays hold 40 images but 39 labels"),
        ((GOOD[0][:0], GOOD[1][:0]), {}, "training arrays are empty"),
        ((GOOD[0].astype(np.int64), GOOD[1]), {}, "training images are int64: give uint8"),
        ((GOOD[0][0, 0], GOOD[1]), {}, r"have shape \(8, 8\): give"),
        ((GOOD[0][:, :, :3, :3], GOOD[1]), {}, "does not tell channels from pixels"),
        ((np.repeat(GOOD[0], 2, 1), GOOD[1]), {}, "does not tell channels from pixels"),
        ((GOOD[0], GOOD[1].astype(float)), {}, "labels are float64 of shape"),
        ((GOOD[0], np.eye(4, dtype=int)[GOOD[1]]), {}, r"labels are int64 of shape \(40, 4\)"),
        ((GOOD[0], GOOD[1] - 1), {}, "train labels hold the label -1, but"),
        (GOOD, {"classes": 3}, "train labels hold the label 3, but 3 classes have labels 0 to 2"),
        (GOOD, {"val_fraction": 1.0}, "strictly between 0 and 1, not 1.0"),
        (GOOD, {"mean": [0.5]}, r"mean has 1 value\(s\) for images of 3 channel"),
        (GOOD, {"std": [0.5, 0.0, 1.0]}, "std must be positive"),
        ((GOOD[0] * np.float32("nan"), GOOD[1]), {}, "must be alike"),
        ((["a", "b"], [0, 1]), {}, "cannot be read as numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(train, settings, message):
    with pytest.raises(DataError, match=message):
        from_arrays(train, GOOD, **settings)


def test_test_labels_must_be_among_the_classes():
    with pytest.raises(DataError, match="test labels hold the label 3, but 2 classes"):
        from_arrays(pair(classes=2), GOOD)


def test_images_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"test images are \(3, 6, 6\) uint8, the training images \(3, 8, 8\) uint8"):
        from_arrays(GOOD, pair((4, 3, 6, 6)))


def test_numbers_that_are_not_finite_are_refused():
    images, labels = pair(dtype=np.float32)
    images[3] = np.inf
    with pytest.raises(DataError, match="not finite"):
        from_arrays((images, labels), (images, labels))
