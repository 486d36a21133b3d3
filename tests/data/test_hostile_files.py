"""Pictures and arrays that are larger than they look, or that would be waited for without end."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import array_files, load_calibration, load_data
from secateur.data.pictures import Files, Pictures
from secateur.data.vision import picture_size
from secateur.errors import DataError

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, width: int, height: int) -> None:
    """Write the beginning of a picture of any size; reading its pixels would fail, and must not be tried."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def small(path: Path, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def classes(root: Path) -> None:
    """Write ten pictures of each of two classes."""
    for place in range(20):
        small(root / f"train/{'ab'[place % 2]}/{place // 2}.png")


@pytest.mark.parametrize(("width", "height"), [(13000, 13000), (10**6, 10**6), (2**26 + 1, 1)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path, width: int, height: int):
    png(tmp_path / "large.png", width, height)
    with pytest.raises(DataError, match=r"the image '.*large\.png' cannot be read \(.*pixels"):
        picture_size(str(tmp_path / "large.png"))
    read = Pictures(Files((str(tmp_path / "large.png"),), torch.zeros(1, dtype=torch.int64)), "none", 8)[0, 0]
    assert isinstance(read, DataError)
    assert "pixels" in str(read)
    with pytest.raises(DataError, match=r"large\.png"):
        load_calibration(tmp_path, count=1)


def test_a_strip_that_resizing_would_blow_up_is_refused(tmp_path: Path):
    small(tmp_path / "strip.png", (60_000, 1))
    read = Pictures(Files((str(tmp_path / "strip.png"),), torch.zeros(1, dtype=torch.int64)), "none", 224)[0, 0]
    assert isinstance(read, DataError)
    assert "60000 x 1 pixels are too narrow to resize" in str(read)
    cropped = Pictures(Files((str(tmp_path / "strip.png"),), torch.zeros(1, dtype=torch.int64)), "crop", 224)[0, 0]
    assert not isinstance(cropped, DataError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_among_pictures_is_not_waited_for(tmp_path: Path):
    classes(tmp_path)
    (tmp_path / "train/b/1.png").unlink()
    os.mkfifo(tmp_path / "train/b/1.png")
    [lost] = load_calibration(tmp_path / "train", count=20).lost
    assert "b/1.png' cannot be read (it is a pipe" in lost
    data = load_data(f"imagefolder:{tmp_path}", image_size=8, workers=0)
    with pytest.raises(DataError, match=r"b/1\.png' cannot be read \(it is a pipe"):
        list(chain.from_iterable(data.batches(split, 4) for split in ("train", "val", "test")))


def test_only_formats_of_photographs_are_read_whatever_a_file_is_called(tmp_path: Path):
    (tmp_path / "photo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with Image.open(tmp_path / "photo.png") as picture:
        assert picture.format == "EPS"  # for which PIL starts Ghostscript
    with pytest.raises(DataError, match=r"photo\.png' cannot be read \(cannot identify"):
        picture_size(str(tmp_path / "photo.png"))


def test_links_in_a_circle_are_followed_once(tmp_path: Path):
    classes(tmp_path)
    for name in ("one", "two", "three"):
        (tmp_path / "train/a" / name).symlink_to(tmp_path / "train/a", target_is_directory=True)
    assert load_calibration(tmp_path / "train", count=99).count == 20
    data = load_data(f"imagefolder:{tmp_path}", image_size=8, workers=0)
    assert sum(data.size(split) for split in ("train", "val", "test")) == 20


def npz(path: Path, *members: tuple[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def npy(shape: tuple[int, ...], data: bytes, kind: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def test_arrays_that_expand_to_far_more_than_their_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(array_files, "MOST_EXPANDED", 2**20)
    bomb = npz(tmp_path / "bomb.npz", ("x.npy", npy((2**11, 3, 32, 32), bytes(2**11 * 3072))))
    assert bomb.stat().st_size < 2**16
    with pytest.raises(DataError, match=r"bomb\.npz' cannot be read \(it would expand to 6,"):
        load_calibration(bomb, count=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy((10**10, 3, 8, 8), b""), "not as large as its header says"),
        (npy((2, 3, 8, 8), bytes(383)), "not as large as its header says"),
        (npy((2, 10**5, 10**5), b""), "larger than any network takes"),
        (npy((2,), bytes(16), "|O"), "more than numbers"),
        (b"\x93NUMPY", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_array_whose_header_lies_is_refused_before_memory_is_taken(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(DataError, match=said):
        load_calibration(npz(tmp_path / "lies.npz", ("x.npy", content)), count=2)


def test_images_out_of_proportion_in_an_array_on_the_disk_are_refused(tmp_path: Path):
    with (tmp_path / "large.npy").open("wb") as file:
        file.write(npy((4, 3, 13000, 13000), b""))
        file.truncate(4 * 3 * 13000**2 + 200)  # takes no room where files may have holes
    with pytest.raises(DataError, match="larger than any network takes"):
        load_calibration(tmp_path / "large.npy", count=4)


def test_a_table_of_contents_out_of_proportion_is_not_read(tmp_path: Path):
    path = npz(tmp_path / "many.npz", ("x.npy", npy((1, 3, 8, 8), bytes(192))))
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 2**24)
    path.write_bytes(data)
    with pytest.raises(DataError, match="table of contents"):
        load_calibration(path, count=1)


def test_honest_files_are_read_as_ever(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 255, (6, 3, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "images.npz", images)
    np.save(tmp_path / "images.npy", images)
    for name in ("images.npz", "images.npy"):
        assert load_calibration(tmp_path / name, count=6).count == 6


def test_a_known_data_set_is_not_read_from_pipes_or_endless_files(tmp_path: Path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    with (raw / "train-images-idx3-ubyte").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="has 1,099,511,627,776 bytes"):
        load_data(f"mnist:{tmp_path}")
    (raw / "train-images-idx3-ubyte").unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(raw / "train-images-idx3-ubyte")
        with pytest.raises(DataError, match="it is a pipe"):
            load_data(f"mnist:{tmp_path}")
