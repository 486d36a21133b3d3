from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from secateur.predictions.album import Album, colour, visible


def opened(album, number):
    return Image.open(io.BytesIO(base64.b64decode(album.pictures[number]["data"])))


def test_the_normalisation_is_undone():
    pixels = torch.rand(3, 4, 4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    given = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(visible(given, mean, std), pixels, atol=1e-6)


def test_what_is_outside_of_white_and_black_is_stretched():
    found = visible(torch.tensor([[[-3.0, 1.0, 5.0]]]), (0.0,), (1.0,))
    assert found.tolist() == [[[0.0, 0.5, 1.0]]]
    assert visible(torch.full((1, 2, 2), torch.nan), (), ()).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 1), (12, 1)])
def test_any_number_of_channels_can_be_seen(channels, shown):
    assert visible(torch.rand(channels, 5, 6), (), ()).shape == (shown, 5, 6)


def test_pictures_are_stored_once_and_no_larger_than_asked():
    album = Album(100, 80)
    first = album.photo("a", torch.rand(3, 50, 400))
    assert album.photo("a", torch.rand(3, 50, 400)) == first
    assert album.size(first) == opened(album, first).size
    assert max(album.size(first)) == 100
    assert album.pictures[first]["type"] == "jpeg"
    second = album.photo("b", torch.rand(1, 8, 8))
    assert (second, album.size(second), album.pictures[second]["type"]) == (1, (8, 8), "png")


def test_small_pictures_lose_nothing():
    pixels = (torch.rand(3, 20, 30) * 255).round() / 255
    album = Album(100, 50)
    raw = torch.tensor(list(opened(album, album.photo("a", pixels)).tobytes())).view(20, 30, 3)
    assert torch.equal(raw, (pixels * 255).round().long().permute(1, 2, 0))


def test_colours_lie_over_the_pixels_of_their_class_and_nowhere_else():
    album = Album(100, 80)
    below = album.photo("a", torch.rand(3, 4, 6))
    classes = torch.tensor([[-1, -1, 0, 0, 7, 300]] * 4)
    over = opened(album, album.overlay(classes, below)).convert("RGBA")
    assert over.size == (6, 4)
    pixels = [over.getpixel((at, 2)) for at in range(6)]
    assert pixels[0][3] == 0
    assert pixels[2] != pixels[4] != pixels[5]
    for at, number in ((2, 0), (4, 7), (5, 300)):
        assert "#" + bytes(pixels[at][:3]).hex() == colour(number)
        assert 0 < pixels[at][3] < 255
    assert album.classes == {0, 7, 300}


def test_a_mask_of_more_classes_than_a_palette_has_is_drawn():
    album = Album(100, 80)
    below = album.photo("a", torch.rand(3, 1, 100))
    album.overlay(torch.arange(400)[None], below)
    wide = Album(400, 80)
    assert opened(wide, wide.overlay(torch.arange(400)[None], wide.photo("a", torch.rand(3, 1, 400)))).mode == "P"


def test_classes_have_colours_of_their_own():
    assert len({colour(number) for number in range(200)}) > 190
