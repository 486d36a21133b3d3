from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.data import load_calibration, load_data
from secateur.data.vision import picture, picture_size
from secateur.errors import DataError

RAMP = np.arange(0, 65536, 257 * 17, dtype=np.uint16).reshape(4, 4)  # 16 shades from black to white
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def shown(path: Path, channels: int = 3) -> np.ndarray:
    return np.asarray(picture(str(path), channels))


def eighth(deep: np.ndarray) -> np.ndarray:
    return np.rint(deep / 65535 * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("pgm"):
        path.write_bytes(b"P5 4 4 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)
    assert np.array_equal(shown(path, 1), eighth(RAMP))
    assert np.array_equal(shown(path), np.stack([eighth(RAMP)] * 3, -1))


def test_a_deep_grey_where_white_is_zero_is_not_a_negative(tmp_path: Path) -> None:
    import struct

    data = RAMP.astype("<u2").tobytes()
    tags = [(256, 3, 4), (257, 3, 4), (258, 3, 16), (259, 3, 1), (262, 3, 0), (273, 4, 8), (277, 3, 1), (278, 3, 4)]
    tags.append((279, 4, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path = tmp_path / "x.tif"
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    assert np.array_equal(shown(path, 1), eighth(65535 - RAMP))


def test_palettes_one_bit_and_cmyk_have_their_colours(tmp_path: Path) -> None:
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8)
    palette = Image.fromarray(indices, "P")
    palette.putpalette(COLOURS.reshape(-1).tolist())
    palette.save(tmp_path / "p.png")
    assert np.array_equal(shown(tmp_path / "p.png"), COLOURS)
    assert np.array_equal(shown(tmp_path / "p.png", 1), np.asarray(Image.fromarray(COLOURS).convert("L")))
    bits = indices % 3 == 0
    Image.fromarray(bits).save(tmp_path / "b.png")
    assert np.array_equal(shown(tmp_path / "b.png", 1), bits * np.uint8(255))
    inks = np.zeros((6, 8, 4), dtype=np.uint8)
    inks[..., :3] = 255 - COLOURS
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.tif")
    assert np.array_equal(shown(tmp_path / "c.tif"), COLOURS)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255
    return colours * part + 255 * (1 - part)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_behind_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    alpha = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)
    path, colours = tmp_path / "x.png", COLOURS
    if mode == "RGBA":
        Image.fromarray(np.dstack([COLOURS, alpha])).save(path)
    elif mode == "LA":
        colours = COLOURS[..., :1].repeat(3, -1)
        Image.fromarray(np.dstack([COLOURS[..., 0], alpha]), "LA").save(path)
    else:
        palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8), "P")
        palette.putpalette(COLOURS.reshape(-1).tolist())
        palette.save(path, transparency=alpha.tobytes())
    assert np.abs(shown(path) - over_white(colours, alpha)).max() <= 1


def test_an_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOURS, np.full((6, 8), 255, np.uint8)])).save(tmp_path / "x.png")
    assert np.array_equal(shown(tmp_path / "x.png"), COLOURS)


def test_a_transparent_shade_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.png", transparency=int(RAMP[1, 1]))
    expected = eighth(RAMP)
    expected[1, 1] = 255
    assert np.array_equal(shown(tmp_path / "x.png", 1), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_the_camera_was_held(tmp_path: Path, orientation: int) -> None:
    turn: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
    expected = turn.get(orientation, lambda x: x)(COLOURS)
    assert np.array_equal(shown(tmp_path / "x.png"), expected)
    assert picture_size(str(tmp_path / "x.png")) == expected.shape[:2]


@pytest.mark.parametrize("name", ["x.webp", "x.png", "x.tif"])
def test_animations_and_stacks_are_refused_by_name(tmp_path: Path, name: str) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"{name}' holds 2 pictures, an animation or a stack: save"):
        shown(tmp_path / name)


def test_a_smaller_copy_beside_a_picture_is_no_stack(tmp_path: Path) -> None:
    small = Image.fromarray(COLOURS[::2, ::2].copy())
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(COLOURS).save(tmp_path / "x.tif", save_all=True, append_images=[small])
    assert np.array_equal(shown(tmp_path / "x.tif"), COLOURS)


@pytest.mark.parametrize(
    ("dtype", "words"), [(np.float32, "floating-point numbers"), (np.int32, "whole numbers of 32")]
)
def test_numbers_without_black_and_white_are_refused_by_name(tmp_path: Path, dtype: type, words: str) -> None:
    Image.fromarray(RAMP.astype(dtype)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=rf"x\.tif' holds {words}.*, which do not say what black and white are: save"):
        shown(tmp_path / "x.tif")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp", "x.bmp", "x.ppm"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named_in_one_sentence(tmp_path: Path, name: str, part: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError, match=rf"the image '.*{name}' cannot be read \(.*\): repair or remove it") as caught:
        shown(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_folders_read_the_same_values(tmp_path: Path) -> None:
    """With labels and without: what is read of a picture does not depend on the way."""
    for place in ("train/a", "train/b", "test/a"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(RAMP.repeat(4, 0).repeat(4, 1)).save(tmp_path / place / "x.png")
        Image.fromarray(RAMP.repeat(4, 0).repeat(4, 1)).save(tmp_path / place / "y.png")
    scale = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    data = load_data(f"imagefolder:{tmp_path}", image_size=14, workers=0, val_fraction=0.5, **scale)
    images, _ = next(iter(data.batches("test", 2)))
    assert images[0].std() > 0.2  # cut off, all but black would be white
    [batch] = load_calibration(tmp_path, **scale).batches
    assert isinstance(batch, torch.Tensor)
    expected = torch.from_numpy(eighth(RAMP).repeat(4, 0).repeat(4, 1)) / 255
    torch.testing.assert_close(batch[0], expected.expand(3, 16, 16))
    [batch] = load_calibration(tmp_path, mean=[0.0], std=[1.0]).batches
    assert isinstance(batch, torch.Tensor)
    torch.testing.assert_close(batch[0, 0], expected)
