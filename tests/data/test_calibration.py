"""Unlabelled images from every kind of source, and one sentence for each that cannot be used."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from secateur.data import Calibration, calibration, from_arrays, from_loaders, load_calibration, load_data, pictures
from secateur.data.duplicates import distinct
from secateur.data.folder import GREY, IMAGENET
from secateur.data.lazy_batches import Later
from secateur.errors import DataError, SettingError
from secateur.measure.forward import tensors

ONE = torch.zeros(1, 3, 8, 8)
TWO = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 4))
NAMED = {"image": torch.zeros(1, 3, 8, 8), "steps": torch.zeros(1, dtype=torch.int64)}


def numbered(count: int) -> Tensor:
    """Return images, (count, 3, 8, 8), each filled with its own number."""
    return torch.arange(count).float()[:, None, None, None].expand(count, 3, 8, 8)


def numbers(found: Calibration) -> list[int]:
    """Return the numbers of the images that were taken."""
    return [int(number) for batch in found.batches for number in next(tensors(batch)).flatten(1)[:, 0].tolist()]


def fill(folder: Path, count: int, size: tuple[int, int] = (8, 8), start: int = 0) -> Path:
    """Write pictures of one grey each: 8 times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.new("RGB", size, (8 * number,) * 3).save(folder / f"{number:03}.png")
    return folder


def greys(found: Calibration) -> list[int]:
    """Return the numbers of pictures written by ``fill`` that were normalised with mean 0 and deviation 1."""
    return [round(255 * grey / 8) for batch in found.batches for grey in batch.mean((1, 2, 3)).tolist()]  # type: ignore[union-attr]


PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}


# arrays


@pytest.mark.parametrize("kind", ["tensor", "array", "npy", "npz", "safetensors"])
@pytest.mark.parametrize("example", [None, ONE], ids=["unknown", "known"])
def test_arrays_are_drawn_by_the_seed(kind: str, example: Tensor | None, tmp_path: Path) -> None:
    images = numbered(50).clone()
    source: Any = {"tensor": images, "array": images.numpy()}.get(kind, tmp_path / f"images.{kind}")
    if kind == "npy":
        np.save(source, images.double().numpy())
    elif kind == "npz":
        np.savez(source, x=images.numpy(), y=np.arange(50))
    elif kind == "safetensors":
        safetensors.numpy.save_file({"x": images.numpy(), "y": np.arange(50)}, source)
    found = load_calibration(source, count=20, seed=3, example=example)
    assert found.count == 20
    [batch] = found.batches
    assert isinstance(batch, Tensor)
    assert batch.dtype == torch.float32
    assert batch.shape == (20, 3, 8, 8)
    assert len(set(numbers(found))) == 20
    assert numbers(found) != sorted(numbers(found))
    assert numbers(load_calibration(source, count=20, seed=3)) == numbers(found)
    assert numbers(load_calibration(source, count=20, seed=4)) != numbers(found)


def test_a_batch_has_at_most_128_images_and_64_megabytes() -> None:
    assert [len(batch) for batch in load_calibration(torch.zeros(300, 3, 4, 4)).batches] == [128, 128, 44]
    large = torch.zeros(1, 3, 2048, 2048).expand(2, 3, 2048, 2048)  # 48 MiB each
    assert [len(batch) for batch in load_calibration(large).batches] == [1, 1]


def test_what_was_loaded_does_not_change_with_its_source() -> None:
    images = torch.zeros(10, 3, 4, 4)
    found = load_calibration(images)
    images += 1
    assert not any(bool(batch.any()) for batch in found.batches)  # type: ignore[union-attr]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("example", [None, ONE], ids=["unknown", "known"])
def test_uint8_is_raw_pixels_in_either_layout(layout: str, example: Tensor | None) -> None:
    raw = torch.full((4, 3, 8, 8), 51, dtype=torch.uint8)
    raw = raw if layout == "NCHW" else raw.permute(0, 2, 3, 1)
    found = load_calibration(raw.numpy(), example=example, mean=[0.1, 0.2, 0.3], std=[0.1, 0.1, 0.2])
    [batch] = found.batches
    assert isinstance(batch, Tensor)
    torch.testing.assert_close(batch[0, :, 0, 0], torch.tensor([1.0, 0.0, -0.5]), atol=1e-5, rtol=1e-5)
    [usual] = load_calibration(raw, example=example).batches
    assert isinstance(usual, Tensor)
    assert float(usual[0, 0, 0, 0]) == pytest.approx((0.2 - 0.485) / 0.229, rel=1e-4)


def test_grey_images_may_lack_the_dimension_of_their_channel() -> None:
    example = torch.zeros(1, 1, 8, 8)
    [batch] = load_calibration(torch.rand(5, 8, 8), example=example).batches
    assert batch.shape == (5, 1, 8, 8)  # type: ignore[union-attr]
    raw = torch.zeros(5, 8, 8, dtype=torch.uint8)
    [batch] = load_calibration(raw, mean=[0.5], std=[0.5]).batches
    assert torch.equal(batch, -torch.ones(5, 1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"1 channel\(s\) have no usual mean"):
        load_calibration(raw)


def test_a_file_of_many_images_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", numbered(1000).numpy())
    seen: list[int] = []
    take = calibration.fitted

    def noted(item: Any, *rest: Any, **more: Any) -> Any:
        seen.append(len(item))
        return take(item, *rest, **more)

    monkeypatch.setattr(calibration, "fitted", noted)
    load_calibration(tmp_path / "x.npy", count=30)
    assert seen == [30]


# networks of several inputs


@pytest.mark.parametrize("example", [None, TWO], ids=["unknown", "known"])
def test_several_inputs_come_in_a_tuple_and_stay_together(example: Any) -> None:
    source = (numbered(20), torch.arange(20).float()[:, None].expand(20, 4).numpy())
    [batch] = load_calibration(source, count=12, example=example).batches
    assert isinstance(batch, tuple)
    assert torch.equal(batch[0][:, 0, 0, 0], batch[1][:, 0])
    labelled = ((*source, torch.arange(20)) if example else source, torch.arange(20))
    [again] = load_calibration(labelled if example is None else labelled[0], count=12, example=example).batches
    assert [one.shape for one in again] == [one.shape for one in batch]


def test_named_inputs_come_in_a_dict_without_what_the_network_does_not_take() -> None:
    source = {"labels": torch.arange(20), "steps": np.arange(20), "image": numbered(20)}
    [batch] = load_calibration(source, count=12, example=NAMED).batches
    assert isinstance(batch, dict)
    assert list(batch) == ["image", "steps"]
    assert batch["steps"].dtype == torch.int64
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["steps"])


def test_files_hold_several_inputs_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", image=numbered(9).numpy(), steps=np.arange(9), labels=np.arange(9))
    [batch] = load_calibration(tmp_path / "named.npz", example=NAMED).batches
    assert torch.equal(batch["image"][:, 0, 0, 0].long(), batch["steps"])  # type: ignore[index,call-overload]
    np.savez(tmp_path / "two.npz", numbered(9).numpy(), torch.rand(9, 4).numpy())
    for example in (None, TWO):
        [batch] = load_calibration(str(tmp_path / "two.npz"), example=example).batches
        assert [tuple(one.shape) for one in batch] == [(9, 3, 8, 8), (9, 4)]
    with pytest.raises(DataError, match=r"holds the arrays arr_0, arr_1, but the network takes 1 input\(s\)"):
        load_calibration(tmp_path / "two.npz", example=ONE)


def test_a_label_vector_that_the_network_takes_is_no_label() -> None:
    example = (torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))
    [batch] = load_calibration((numbered(9), torch.arange(9)), example=example).batches
    assert torch.equal(batch[0][:, 0, 0, 0].long(), batch[1])  # type: ignore[index,call-overload]


# loaders and iterables


class Counting(Dataset[tuple[Tensor, int]]):
    """Images that know how often they were read."""

    def __init__(self, count: int) -> None:
        self.images, self.read = numbered(count), list[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        self.read.append(place)
        return self.images[place], place % 3


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("example", [None, ONE], ids=["unknown", "known"])
def test_a_loader_over_a_whole_data_set_is_drawn_from_by_the_seed(shuffle: bool, example: Tensor | None) -> None:
    data = Counting(60)
    loader = DataLoader(data, batch_size=16, shuffle=shuffle)
    state = torch.get_rng_state()
    found = load_calibration(loader, count=20, seed=1, example=example)
    assert torch.equal(torch.get_rng_state(), state)
    assert numbers(found) == data.read
    assert len(data.read) == len(set(data.read)) == 20
    assert max(data.read) > 20
    torch.rand(3)  # what else the caller draws does not matter
    assert numbers(load_calibration(loader, count=20, seed=1)) == numbers(found)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_loader_is_read_by_processes_of_the_kind_that_it_names() -> None:
    started = list[int]()

    class Counted(type(multiprocessing.get_context("fork"))):  # type: ignore[misc]
        def Process(self, *args: Any, **named: Any) -> Any:
            started.append(1)
            return super().Process(*args, **named)

    data = TensorDataset(torch.rand(9, 3, 8, 8))
    loader = DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context=Counted())
    assert load_calibration(loader, count=9).count == 9
    assert started == [1]


def test_a_loader_with_a_sampler_of_its_own_is_left_to_it() -> None:
    data = Counting(60)
    found = load_calibration(DataLoader(data, batch_size=4, sampler=SubsetRandomSampler(range(10))), count=50)
    assert sorted(numbers(found)) == list(range(10))
    assert sorted(data.read) == list(range(10))


def test_loaders_without_labels_and_with_several_inputs() -> None:
    alone = DataLoader(TensorDataset(numbered(10)), batch_size=4)
    for example in (None, ONE):
        [batch] = load_calibration(alone, example=example).batches
        assert isinstance(batch, Tensor)
        assert batch.shape == (10, 3, 8, 8)
    both = DataLoader(TensorDataset(numbered(10), torch.rand(10, 4), torch.arange(10)), batch_size=4)
    [batch] = load_calibration(both, example=TWO).batches
    assert [tuple(one.shape) for one in batch] == [(10, 3, 8, 8), (10, 4)]
    nested = [((numbered(4), torch.rand(4, 4)), torch.arange(4))]
    for example in (None, TWO):
        [batch] = load_calibration(nested, example=example).batches
        assert [tuple(one.shape) for one in batch] == [(4, 3, 8, 8), (4, 4)]


@pytest.mark.parametrize("example", [None, ONE], ids=["unknown", "known"])
def test_data_sets_and_lists_of_single_images_are_batched(example: Tensor | None) -> None:
    data = Counting(40)
    found = load_calibration(data, count=10, seed=2, example=example)
    assert [len(batch) for batch in found.batches] == [10]
    assert numbers(found) == data.read
    listed = load_calibration([data[place][0] for place in range(40)], count=10, seed=2, example=example)
    assert numbers(listed) == numbers(found)
    assert load_calibration(Subset(data, range(7)), example=example).count == 7


def test_one_image_is_a_batch_where_the_network_says_so() -> None:
    assert load_calibration(torch.rand(3, 8, 8), example=ONE).count == 1
    assert load_calibration((torch.rand(3, 8, 8), torch.rand(4)), example=TWO).count == 1


def test_iterables_are_read_no_further_than_needed() -> None:
    read: list[int] = []

    def batches() -> Iterator[Tensor]:
        for number in range(100):
            read.append(number)
            yield torch.full((8, 3, 8, 8), float(number))

    found = load_calibration(batches(), count=20)
    assert read == [0, 1, 2]
    assert numbers(found) == [0] * 8 + [1] * 8 + [2] * 4


# labelled data


def test_training_images_come_without_labels() -> None:
    data = load_data("mnist5k")
    found = load_calibration(data, count=200, seed=1)
    train = torch.cat([images for images, _ in data.batches("train")])
    assert [len(batch) for batch in found.batches] == [128, 72]
    first = found.batches[0]
    assert isinstance(first, Tensor)
    where = [(train == image).flatten(1).all(1).nonzero().flatten().tolist() for image in first[:20]]
    assert all(where)
    assert min(where) != sorted(where)[-1]
    assert load_calibration(data, count=200, seed=1).digest() == found.digest()
    assert "mnist5k" in found.source


def test_the_training_loader_of_data_gives_its_first_images() -> None:
    loader = [(numbered(10)[at : at + 5], torch.arange(5)) for at in (0, 5)]
    found = load_calibration(from_loaders(loader, loader, loader, 5), count=7)
    assert numbers(found) == list(range(7))


def test_arrays_with_labels_lend_their_training_images() -> None:
    images, labels = numbered(40).clone(), torch.arange(40) % 4
    data = from_arrays((images, labels), (images[:4], labels[:4]), mean=[0.0] * 3, std=[1.0] * 3)
    found = load_calibration(data, count=100)
    assert found.count == data.size("train") == 36
    assert set(numbers(found)).isdisjoint(int(x[0, 0, 0]) for x, _ in [(x[0], y) for x, y in data.batches("val", 1)])


# folders


def test_a_folder_is_searched_to_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    fill(tmp_path / "a", 4, start=3)
    fill(tmp_path / "a" / "b c", 5, start=7)
    fill(tmp_path / ".hidden", 2, start=20)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    found = load_calibration(tmp_path, **PLAIN)
    assert sorted(greys(found)) == list(range(12))
    some = load_calibration(str(tmp_path), count=5, seed=1, **PLAIN)
    assert len(set(greys(some))) == some.count == 5
    assert greys(load_calibration(tmp_path, count=5, seed=1, **PLAIN)) == greys(some)
    assert greys(load_calibration(tmp_path, count=5, seed=2, **PLAIN)) != greys(some)


def test_no_picture_is_read_that_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 30)
    read: list[int] = []
    get = pictures.Pictures.__getitem__

    def noted(self: pictures.Pictures, key: tuple[int, int]) -> Any:
        read.append(key[0])
        return get(self, key)

    monkeypatch.setattr(pictures.Pictures, "__getitem__", noted)
    load_calibration(tmp_path, count=4)
    assert len(read) == 4
    classes = tmp_path / "labelled"
    for label in "ab":
        fill(classes / "train" / label, 20)
    data = load_data(f"imagefolder:{classes}", image_size=8, workers=0)
    read.clear()
    assert load_calibration(data, count=5).count == 5
    assert len(read) == 5


def test_test_pictures_are_not_calibrated_on(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "a", 3)
    fill(tmp_path / "test" / "a", 3, start=10)
    assert sorted(greys(load_calibration(tmp_path, **PLAIN))) == [0, 1, 2]


@pytest.mark.parametrize(
    ("size", "more", "expected"),
    [
        ((12, 8), {}, (8, 12)),  # small, all alike: as they are
        ((300, 200), {}, (224, 224)),
        ((300, 200), {"default_size": 32}, (32, 32)),
        ((12, 8), {"image_size": 6}, (6, 6)),
        ((12, 8), {"example": torch.zeros(1, 3, 8, 12)}, (8, 12)),
        ((12, 8), {"example": torch.zeros(1, 3, 10, 6)}, (10, 6)),
        ((300, 200), {"example": torch.zeros(1, 3, 16, 16)}, (16, 16)),
        ((300, 200), {"example": torch.zeros(1, 3, 16, 16), "image_size": 20}, (20, 20)),
    ],
    ids=str,
)
def test_pictures_get_the_size_that_is_wanted(
    size: tuple[int, int], more: dict[str, Any], expected: tuple[int, int], tmp_path: Path
) -> None:
    fill(tmp_path, 2, size)
    found = load_calibration(tmp_path, workers=0, **more)
    [batch] = found.batches
    assert batch.shape == (2, 3, *expected)  # type: ignore[union-attr]
    assert f"{expected[0]}x{expected[1]} pixels" in found.source
    assert ("resized" in found.source) == (size != (expected[1], expected[0]))
    assert "ImageNet" in found.source


@pytest.mark.parametrize(
    ("sizes", "more", "doubt"),
    [
        (((12, 8), (8, 12)), {}, "are smaller, and of different sizes, than the 224x224 pixels"),
        (((120, 120), (120, 120)), {}, "are smaller than the 224x224 pixels"),
        (((12, 8), (8, 12)), {"image_size": 32}, ""),
        (((12, 8), (8, 12)), {"example": torch.zeros(1, 3, 16, 16)}, ""),
        (((12, 8), (8, 12)), {"default_size": 8}, ""),
        (((12, 8), (12, 8)), {}, ""),
        (((300, 240), (240, 300)), {}, ""),
    ],
    ids=str,
)
def test_pictures_that_are_enlarged_unasked_are_told(
    sizes: tuple[tuple[int, int], tuple[int, int]], more: dict[str, Any], doubt: str, tmp_path: Path
) -> None:
    for number, size in enumerate(sizes):
        fill(tmp_path, 2, size, start=2 * number)
    doubts = [each for each in load_calibration(tmp_path, workers=0, **more).doubts if "pixels to which" in each]
    assert len(doubts) == bool(doubt)
    assert all(doubt in each and "load_calibration(..., image_size=)" in each for each in doubts)


def test_pictures_of_several_sizes_are_resized_as_for_evaluation(tmp_path: Path) -> None:
    fill(tmp_path, 2, (12, 8))
    fill(tmp_path, 2, (8, 12), start=2)
    [batch] = load_calibration(tmp_path, default_size=10).batches
    assert batch.shape == (4, 3, 10, 10)  # type: ignore[union-attr]
    halves = tmp_path / "halves" / "train"
    for label in "ab":
        (halves / label).mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng(ord(label) + 2 * number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(halves / label / f"{number}.png")
    data = load_data(f"imagefolder:{tmp_path / 'halves'}", image_size=8, workers=0, val_fraction=0.4)
    theirs = torch.cat([x for split in ("train", "val", "test") for x, _ in data.batches(split)])  # type: ignore[arg-type]
    [ours] = load_calibration(tmp_path / "halves", image_size=8, workers=0).batches
    assert isinstance(ours, Tensor)
    assert sorted(map(float, ours.flatten(1).sum(1))) == pytest.approx(sorted(map(float, theirs.flatten(1).sum(1))))


def test_pictures_become_grey_where_the_network_is(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    for more in ({}, {"example": torch.zeros(1, 1, 8, 8)}):
        found = load_calibration(tmp_path, mean=[0.0], std=[1.0], **more)
        assert found.batches[0].shape == (3, 1, 8, 8)  # type: ignore[union-attr]
        assert sorted(greys(found)) == [0, 1, 2]
    with pytest.raises(DataError, match=r"mean has 3 value\(s\) for images of 1 channel"):
        load_calibration(tmp_path, example=torch.zeros(1, 1, 8, 8), **PLAIN)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 8)])
def test_pictures_are_normalised_with_the_usual_constants_of_the_examples_channels(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    fill(tmp_path, 3)
    found = load_calibration(tmp_path, example=torch.zeros(shape))
    assert found.mean == (GREY if shape[1] == 1 else IMAGENET)[0]
    assert found.std == (GREY if shape[1] == 1 else IMAGENET)[1]
    assert found.example().shape == shape  # type: ignore[union-attr]


def test_pictures_take_the_structure_of_the_example(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    [batch] = load_calibration(tmp_path, example={"image": ONE.double()}).batches
    assert isinstance(batch, dict)
    assert batch["image"].shape == (3, 3, 8, 8)
    assert batch["image"].dtype == torch.float64
    with pytest.raises(DataError, match="a folder of pictures is one input, but the network takes 2"):
        load_calibration(tmp_path, example=TWO)


# what it says of itself


@pytest.mark.parametrize(
    ("count", "few", "words"),
    [
        (1, True, r"1 unlabelled image \(arrays, not normalised here\): at least 64 are advised, and up to 1,000"),
        (63, True, "at least 64 are advised"),
        (64, False, r"64 unlabelled images \(arrays, not normalised here\): up to 1,000 win a little more"),
        (1000, False, "1,000 unlabelled images .*more would change little"),
    ],
)
def test_the_note_says_how_many_and_what_more_would_bring(count: int, few: bool, words: str) -> None:
    found = load_calibration(torch.rand(count, 3, 2, 1), count=9999)
    assert found.few == few
    assert re.search(words, found.note)


def test_digests_tell_images_apart_and_forget_nothing_else() -> None:
    images = torch.rand(200, 3, 8, 8)
    one, again = (load_calibration(images, seed=1, count=90) for _ in range(2))
    assert one.digest() == again.digest()
    others = [
        load_calibration(images, seed=2, count=90),
        one.at_most(89),
        load_calibration(2 * images, seed=1, count=90),
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4


def test_the_first_images_are_a_calibration_too() -> None:
    found = load_calibration(numbered(300), count=300)
    for count, sizes in ((300, [128, 128, 44]), (999, [128, 128, 44]), (130, [128, 2]), (128, [128]), (5, [5])):
        some = found.at_most(count)
        assert [len(batch) for batch in some.batches] == sizes
        assert some.count == sum(sizes)
        assert numbers(some) == numbers(found)[:count]
    assert torch.equal(found.example(), found.batches[0][:1])  # type: ignore[call-overload,arg-type,index]


def test_a_calibration_is_taken_as_it_is_but_checked() -> None:
    found = load_calibration(numbered(9))
    assert load_calibration(found) is found
    assert numbers(load_calibration(found, example=ONE)) == numbers(found)
    with pytest.raises(DataError, match="the calibration images are one tensor, but the network takes a tuple of 2"):
        load_calibration(found, example=TWO)
    with pytest.raises(DataError, match="holds no images"):
        load_calibration(Calibration((), 0, "nowhere"))


def test_batches_for_later_are_made_once_and_only_if_wanted() -> None:
    made: list[int] = []

    def make() -> tuple[Tensor, ...]:
        made.append(1)
        return (ONE, ONE + 1)

    later = Later(make)
    assert not made
    assert len(later) == 2
    assert [float(batch.max()) for batch in later] == [0.0, 1.0]  # type: ignore[union-attr]
    assert torch.equal(later[1:][0], ONE + 1)  # type: ignore[arg-type]
    assert made == [1]


# what cannot be used

BAD = torch.zeros(4, 3, 8, 8)
POISONED = torch.zeros(4, 3, 8, 8)
POISONED[2, 1, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("source", "example", "words"),
    [
        (torch.zeros(0, 3, 8, 8), None, "there are no images in arrays"),
        ([], None, "there are no images in a list of inputs"),
        (iter([]), None, "there are no images in an iterable"),
        (
            torch.zeros(4, 1, 8, 8),
            ONE,
            r"of shape \(1, 8, 8\) each where the network takes \(3, 8, 8\): give 3 channels",
        ),
        (torch.zeros(4, 3, 9, 8), ONE, r"\(3, 9, 8\) each where the network takes \(3, 8, 8\): resize them"),
        (torch.zeros(4, 192), ONE, r"\(192,\) each where the network takes \(3, 8, 8\): give batches"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), ONE, "are int64 where the network takes float32: give uint8"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.complex64), ONE, "are complex64 where the network takes float32"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.complex64), None, "are complex64: give uint8 pixels"),
        (POISONED, None, "hold NaN or infinite values"),
        (POISONED.nan_to_num(float("inf")), ONE, "hold NaN or infinite values"),
        ((BAD, torch.zeros(3, 4)), TWO, "hold 4 and 3 rows: give one row for each image"),
        ([(BAD, torch.zeros(3, 4))], TWO, "the inputs hold 4 and 3 images: give as many of each"),
        ([BAD], TWO, "the calibration images are one tensor, but the network takes a tuple of 2"),
        ([(BAD, torch.zeros(4, 4).long())], TWO, "input 2 of the calibration images are int64 where .* float32"),
        ({"picture": BAD}, NAMED, "are a dict of picture, but the network takes a dict of image, steps"),
        ([BAD, torch.zeros(4, 3, 9, 9)], None, r"of shape \(3, . 8, 8\)|resize them"),
        (["a.png"], None, "are of type str: give tensors or arrays of numbers"),
        (np.array(["a", "b"]), None, "an array cannot be read as numbers"),
        (torch.tensor(3.0), None, "hold a single number"),
        ({}, None, "hold no arrays"),
        (7, None, "int holds no images: give a folder of pictures"),
        ("nowhere", None, "there is no folder or file 'nowhere'"),
    ],
)
def test_images_that_cannot_be_used_are_one_sentence(source: Any, example: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_calibration(source, example=example)
    assert "\n" not in str(caught.value)


def test_folders_and_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are no pictures in '.*' \(known endings: .jpg"):
        load_calibration(tmp_path)
    fill(tmp_path, 3)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"the image '.*00..png' cannot be read"):
        load_calibration(tmp_path)
    with pytest.raises(DataError, match=r"none of 3 pictures can be read; the first: the image '.*00..png' cannot"):
        load_calibration(tmp_path, image_size=4, workers=0)
    with pytest.raises(
        DataError, match=r"pictures have 1 or 3 channels, but the network takes float32 of shape \(1, 4"
    ):
        load_calibration(tmp_path, example=torch.zeros(1, 4, 8, 8))
    with pytest.raises(DataError, match=r"000.png' is no file of arrays, which end in .npy"):
        load_calibration(tmp_path / "000.png")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "empty.npy", np.zeros((0, 3, 8, 8)))
    for name in ("short.npy", "short.npz", "short.safetensors"):
        (tmp_path / name).write_bytes(b"short")
    for name in ("objects.npy", "short.npy", "short.npz", "short.safetensors"):
        with pytest.raises(DataError, match=rf"{name}' cannot be read .*damaged, or holds more than numbers") as caught:
            load_calibration(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"there are no images in '.*empty.npy'"):
        load_calibration(tmp_path / "empty.npy")


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"count": 0}, SettingError, "count must be a whole number of images, at least 1 and at most 16777216, not 0"),
        ({"count": 1.5}, SettingError, "count must be a whole number"),
        ({"seed": -1}, SettingError, "seed must be"),
        ({"seed": 2**70}, SettingError, "seed must be"),
        ({"count": 2**70}, SettingError, "count must be a whole number of images, at least 1 and at most"),
        ({"image_size": 2**70}, SettingError, "image_size must be a whole number of pixels"),
        ({"image_size": 0}, SettingError, "image_size must be a whole number of pixels"),
        ({"mean": 0.5, "std": 0.5}, SettingError, "mean must be a list, each entry a finite number, not 0.5"),
        ({"mean": [0.5] * 3}, DataError, "mean and std belong together"),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, DataError, "std must be positive"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(asked: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_calibration(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), **asked)


# what is used with a doubt


def test_pictures_that_cannot_be_read_are_left_out_and_others_take_their_places(tmp_path: Path) -> None:
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03}.png")
    whole = load_calibration(tmp_path, count=20)
    assert (whole.count, whole.lost) == (20, ())
    damaged = (tmp_path / "003.png").read_bytes()
    for number in (0, 3, 7, 11, 16, 22):
        (tmp_path / f"{number:03}.png").write_bytes(damaged[: len(damaged) // 2] if number % 2 else b"no picture")
    for how in ({}, {"image_size": 6}, {"workers": 1}):
        found = load_calibration(tmp_path, count=20, **how)
        assert found.count == 20
        assert 1 <= len(found.lost) <= 6
        doubt = found.doubts[-1]
        assert re.match(r"the image '.*\d.png' cannot be read .*: repair or remove it", doubt)
        assert doubt.endswith(f", and {len(found.lost) - 1} more; the images that can be read are used")
    found = load_calibration(tmp_path)
    assert (found.count, len(found.lost)) == (24, 6)


def test_pictures_that_stand_in_have_the_size_of_the_others(tmp_path: Path) -> None:
    first = load_calibration(fill(tmp_path / "a", 12), count=4, **PLAIN)  # type: ignore[arg-type]
    drawn = greys(first)
    for number in range(12):
        path = tmp_path / "a" / f"{number:03}.png"
        if number == drawn[1]:
            path.write_bytes(b"no picture")
        elif number not in drawn:
            Image.new("RGB", (9, 9)).save(path)
    found = load_calibration(tmp_path / "a", count=4, **PLAIN)  # type: ignore[arg-type]
    assert (greys(found), len(found.lost)) == ([drawn[0], *drawn[2:]], 1)


def test_repeats_and_single_colours_are_left_out_of_few_images() -> None:
    one = torch.rand(5, 3, 8, 8)
    grey = torch.rand(9, 3, 1, 1).expand(9, 3, 8, 8)
    found = load_calibration(torch.cat([one, one, grey]))
    assert (found.count, found.different, found.few) == (5, 5, True)
    assert found.source == "arrays, not normalised here, without 14 repeats and images of a single colour"
    assert load_calibration(grey).different == 0
    assert load_calibration(torch.cat([torch.rand(90, 3, 8, 8), grey])).count == 99  # enough others
    assert load_calibration((torch.cat([one, one]), torch.rand(10, 4)), example=TWO).count == 10
    assert load_calibration(torch.rand(9, 3, 1, 1)).different == 9


def test_images_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def counted(batches: Any) -> list[Tensor]:
        looked.append(len(batches))
        return distinct(batches)

    monkeypatch.setattr(calibration, "distinct", counted)
    one = torch.rand(5, 3, 8, 8)
    given = Calibration((one, one), 10, "images")
    assert (given.different, given.few, given.without_repeats().count) == (5, True, 5)
    assert looked == [2]


def test_values_as_of_pixels_are_doubted() -> None:
    assert load_calibration(torch.randn(90, 3, 8, 8)).doubts == ()
    [doubt] = load_calibration(255 * torch.rand(90, 3, 8, 8)).doubts
    assert "hold values up to 25" in doubt
    assert load_calibration(255 * torch.rand(90, 7)).doubts == ()  # no images


def test_images_with_their_channels_last_are_told_so() -> None:
    with pytest.raises(
        DataError, match=r"\(8, 8, 3\) each where the network takes \(3, 8, 8\): put the channels first"
    ):
        load_calibration(torch.rand(9, 8, 8, 3), example=ONE)


def test_a_list_of_vectors_is_one_input_each() -> None:
    assert [batch.shape for batch in load_calibration(list(torch.rand(9, 20))).batches] == [(9, 20)]  # type: ignore[union-attr]


def test_what_is_given_is_looked_through_again() -> None:
    with pytest.raises(DataError, match="hold NaN or infinite values"):
        load_calibration(Calibration((POISONED,), 4, "elsewhere"), example=ONE)


def test_what_pixels_were_normalised_with_is_known(tmp_path: Path) -> None:
    pixels = (255 * torch.rand(9, 3, 8, 8)).byte()
    found = load_calibration(pixels, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert load_calibration(fill(tmp_path, 3)).mean == (0.485, 0.456, 0.406)
    assert load_calibration(pixels.float()).mean is None
    data = from_arrays((pixels, torch.arange(9) % 3), (pixels, torch.arange(9) % 3))
    assert (load_calibration(data).mean, load_calibration(data).std) == (data.mean, data.std)


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 8, 8, 3)])
@pytest.mark.parametrize("kind", ["uint16", ">u2", "int32", "bool"])
@pytest.mark.parametrize("example", [ONE, None], ids=["example", "no example"])
def test_one_sentence_says_type_and_layout_of_pixels_in_another_type(
    shape: tuple[int, ...], kind: str, example: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "some.npy", np.ones(shape, kind))
    with pytest.raises(DataError, match=r"give uint8 pixels \(0 to 255\), their channels first or last, or floating"):
        load_calibration(tmp_path / "some.npy", example=example)


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f4"])
def test_the_order_of_bytes_is_that_of_the_file(kind: str, tmp_path: Path) -> None:
    images = np.arange(4 * 192, dtype=np.float32).reshape(4, 3, 8, 8)
    np.save(tmp_path / "some.npy", images.astype(kind))
    found = load_calibration(tmp_path / "some.npy")
    assert sorted(torch.cat([*found.batches])[:, 0, 0, 0].tolist()) == [0, 192, 384, 576]  # type: ignore[arg-type]


def test_what_was_done_to_pixels_is_said(tmp_path: Path) -> None:
    pixels = (255 * torch.rand(70, 3, 8, 8)).byte()
    assert "(arrays, normalised with ImageNet's mean and deviation)" in load_calibration(pixels).used
    named = load_calibration(pixels, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert "(arrays, normalised with the given mean and deviation)" in named.used
    assert "(arrays, not normalised here)" in load_calibration(pixels.float()).used
    assert "normalised" not in load_calibration(torch.rand(70, 20)).used  # no images
    assert load_calibration(fill(tmp_path, 3)).used.count("normalised") == 1
