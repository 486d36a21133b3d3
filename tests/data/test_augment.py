from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.data.augment import PADDING, augmented, crop, draw, flip, normalise, scaling


def images(count, channels, height, width, dtype=torch.uint8):
    raw = torch.randint(1, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(0))
    return raw.to(dtype)


def slow_crop(image, row, column):
    """One image at a time, pixel by pixel."""
    out = torch.zeros_like(image)
    height, width = image.shape[1:]
    for i in range(height):
        for j in range(width):
            y, x = i + row - PADDING, j + column - PADDING
            if 0 <= y < height and 0 <= x < width:
                out[:, i, j] = image[:, y, x]
    return out


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
def test_crop_equals_the_slow_reference(count, channels, height, width, data):
    raw = images(count, channels, height, width)
    place = st.integers(0, 2 * PADDING)
    offsets = torch.tensor([data.draw(st.lists(place, min_size=count, max_size=count)) for _ in range(2)])
    expected = torch.stack([slow_crop(raw[n], *offsets[:, n].tolist()) for n in range(count)])
    assert torch.equal(crop(raw, offsets), expected)


def test_crop_and_flip_are_torchvisions():
    from torchvision.transforms import functional

    raw = images(5, 3, 8, 6)
    offsets, flips = torch.tensor([[0, 4, 8, 1, 7], [8, 4, 0, 3, 2]]), torch.tensor([1, 0, 1, 0, 1])
    for n, image in enumerate(raw):
        row, column = offsets[:, n].tolist()
        padded = functional.pad(image, [PADDING] * 4)
        assert torch.equal(crop(raw, offsets)[n], functional.crop(padded, row, column, 8, 6))
        assert torch.equal(flip(raw, flips)[n], functional.hflip(image) if flips[n] else image)


def test_draws_cover_every_window_and_both_sides():
    draws = draw("crop_flip", 5000, torch.Generator().manual_seed(0))
    assert {tuple(pair) for pair in draws.offsets.T.tolist()} == {(i, j) for i in range(9) for j in range(9)}
    assert 0.45 < draws.flips.float().mean() < 0.55


def test_each_augmentation_does_what_its_name_says():
    raw, everything = images(64, 1, 8, 8), slice(0, 64)
    done = {
        name: augmented(raw, draw(name, 64, torch.Generator().manual_seed(1)), everything)
        for name in ("none", "flip", "crop", "crop_flip")
    }
    assert torch.equal(done["none"], raw)
    mirrored = (done["flip"] == raw.flip(-1)).flatten(1).all(1)
    assert torch.equal(done["flip"][~mirrored], raw[~mirrored])
    assert 16 < int(mirrored.sum()) < 48
    assert (done["crop"] == 0).any()
    assert not torch.equal(done["crop_flip"], done["crop"])


def test_uint8_is_normalised_as_torchvision_does():
    from torchvision.transforms.functional import normalize

    raw, mean, std = images(4, 3, 5, 5), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    out = normalise(raw, *scaling(mean, std, raw.dtype, raw.device))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, normalize(raw.float() / 255, mean, std), rtol=0, atol=2e-6)


def test_floats_are_normalised_in_their_own_unit_and_left_alone():
    raw = torch.full((2, 1, 3, 3), 5.0)
    out = normalise(raw, *scaling((3.0,), (4.0,), raw.dtype, raw.device))
    assert torch.equal(out, torch.full_like(raw, 0.5))
    assert torch.equal(raw, torch.full_like(raw, 5.0))
