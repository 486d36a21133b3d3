"""Loaders for any task: what they may yield, what the network takes of it, and what is refused."""

from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from secateur import events
from secateur.data import from_arrays, from_loaders, load_calibration, with_task
from secateur.errors import DataError, SettingError
from secateur.tasks import Classification, Custom, Detection, Regression, Restoration, Retrieval, Segmentation, Task

IMAGES = torch.rand(4, 3, 8, 10, generator=torch.Generator().manual_seed(0))
MASKS = torch.randint(0, 3, (4, 8, 10), generator=torch.Generator().manual_seed(0))
BOXES = {"boxes": torch.tensor([[1.0, 1, 4, 5]]), "labels": torch.tensor([1])}
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
Pair = namedtuple("Pair", ["left", "right"])


def loaded(batch: Any, task: Task, **settings: Any) -> Any:
    return from_loaders([batch] * 3, [batch], [batch, batch], task=task, **settings)


def own(network_inputs: Any = None, targets: Any = None) -> Custom:
    return Custom(lambda out, y: out.mean(), lambda out, y: 0.0, network_inputs=network_inputs, targets=targets)


SOUND = [
    ((IMAGES, torch.tensor([0, 1, 2, 0])), Classification(), {"classes": 3}),
    ((IMAGES, torch.ones(4, 5)), Classification(multi_label=True), {}),
    ((IMAGES, MASKS), Segmentation(), {"classes": 3}),
    ((IMAGES, torch.where(MASKS == 1, 255, MASKS)), Segmentation(), {"classes": 3}),
    ((IMAGES, MASKS), Segmentation(), {}),
    ((IMAGES, torch.rand(4)), Regression(), {}),
    ((IMAGES, torch.rand(4, 3, 16, 20)), Restoration(), {}),
    ((IMAGES, torch.tensor([0, 1, 1, 0])), Retrieval(), {}),
    ({"pixel_values": IMAGES, "labels": torch.tensor([0, 1, 2, 0])}, Classification(), {"classes": 3}),
]


@pytest.mark.parametrize(("batch", "task", "settings"), SOUND)
def test_batches_of_every_task_pass_through(batch: Any, task: Task, settings: dict[str, int]):
    data = loaded(batch, task, **settings)
    assert (data.task, data.classes, data.shape) == (task, settings.get("classes"), (3, 8, 10))
    assert [data.size(split) for split in ("train", "val", "test")] == [12, 4, 8]
    passed = next(iter(data.batches("train")))
    inputs, given = task.inputs(passed), task.inputs(batch)
    if isinstance(given, Tensor):
        assert torch.equal(inputs, given)
        assert torch.equal(data.example(), IMAGES[:1])
    else:
        assert torch.equal(inputs["pixel_values"], IMAGES)
        assert torch.equal(data.example()["pixel_values"], IMAGES[:1])
    assert torch.equal(task.target(passed), task.target(batch).to(task.target(passed).dtype))


def test_detection_takes_lists_of_images_of_any_size_and_stacks():
    images = [torch.rand(3, 8, 10), torch.rand(3, 12, 6)]
    data = loaded((tuple(images), (BOXES, EMPTY)), Detection(), classes=2)
    assert (data.shape, data.size("test")) == ((3, 8, 10), 4)
    (example,) = data.example()
    assert len(example) == 1
    assert torch.equal(example[0], images[0])
    stacked = loaded((IMAGES, [BOXES] * 4), Detection())
    assert torch.equal(stacked.example()[0][0], IMAGES[0])


def test_calibration_takes_the_images_of_detection():
    batches = [([torch.rand(3, 8, 10), torch.rand(3, 12, 6)], [BOXES, EMPTY]) for _ in range(40)]
    data = from_loaders(batches, batches, batches, task=Detection())
    found = load_calibration(data, count=75)
    assert (found.count, sum(len(images) for (images,) in found.batches)) == (75, 75)
    assert torch.equal(found.batches[0][0][1], batches[0][0][1])
    assert not found.few
    from_folder = load_calibration(torch.rand(70, 3, 9, 9), example=data.example())
    assert [image.shape for image in from_folder.batches[0][0][:2]] == [(3, 9, 9)] * 2


def test_networks_of_several_inputs_get_all_of_them():
    batch = ((IMAGES, torch.rand(4, 5)), torch.rand(4, 1))
    data = loaded(batch, Regression())
    assert [tuple(each.shape) for each in data.example()] == [(1, 3, 8, 10), (1, 5)]
    assert [tuple(each.shape) for each in load_calibration(data, count=4).batches[0]] == [(4, 3, 8, 10), (4, 5)]
    table = {"image": IMAGES.double(), "state": torch.rand(4, 2), "targets": torch.rand(4)}
    data = loaded(table, Regression())
    assert {name: tuple(it.shape) for name, it in data.example().items()} == {"image": (1, 3, 8, 10), "state": (1, 2)}
    assert data.example()["image"].dtype == torch.float32


def test_batches_of_a_task_of_your_own_keep_their_structure():
    batch = Pair(IMAGES, [IMAGES + 1, "words", 3])
    data = loaded(batch, own(lambda it: it.left, lambda it: it.right[0]))
    passed = next(iter(data.batches("train")))
    assert isinstance(passed, Pair)
    assert passed.right[1:] == ["words", 3]
    assert passed.left is not IMAGES
    assert torch.equal(data.example(), IMAGES[:1])


@pytest.mark.parametrize(
    ("batch", "task", "message"),
    [
        ((IMAGES, MASKS.float()), Segmentation(), r"segmentation: masks must be class numbers of shape \(4, height"),
        ((IMAGES, MASKS[:3]), Segmentation(), "masks must be class numbers"),
        ((IMAGES, MASKS + 5), Segmentation(), "a mask holds the class 7|a mask holds the class 6"),
        ((IMAGES, torch.tensor([1.0, math.nan, 2, 3])), Regression(), "a target is NaN or infinite"),
        ((IMAGES, torch.rand(3)), Regression(), "must be numbers for each of 4 examples"),
        ((IMAGES, "abcd"), Regression(), "must be numbers for each of 4 examples, not a str"),
        ((IMAGES, torch.rand(4, 3)), Restoration(), r"must be images \(N, C, H, W\)"),
        ((IMAGES, torch.rand(4)), Retrieval(), r"must be class numbers of shape \(4,\)"),
        ((IMAGES, [BOXES] * 3), Detection(), "an image .* for each of 3 tables of boxes"),
        ((IMAGES, [{**BOXES, "boxes": torch.tensor([[4.0, 1, 1, 5]])}] * 4), Detection(), "a box without area"),
        ((IMAGES, [{**BOXES, "boxes": torch.tensor([[0.0, 1, math.nan, 5]])}] * 4), Detection(), "box without area"),
        (
            (IMAGES, [{**BOXES, "labels": torch.tensor([3])}] * 4),
            Detection(),
            "the label 3, but .* 3 classes, the ba",
        ),
        ((IMAGES, [{**BOXES, "labels": torch.tensor([0])}] * 4), Detection(), "the label 0, which .* the background"),
        ((IMAGES, [{**BOXES, "boxes": BOXES["boxes"] / 8}] * 4), Detection(), "as shares of an image do; .* multiply"),
        ((IMAGES, [{"boxes": BOXES["boxes"]}] * 4), Detection(), "must be a table with boxes and labels"),
        ((IMAGES, MASKS), Detection(), "must be one table for each image"),
        ((IMAGES.mul(255).byte(), MASKS), Segmentation(), "pixels as whole numbers: give normalised float"),
        ((IMAGES / 0, MASKS), Segmentation(), "inputs that are NaN or infinite"),
        ((IMAGES, MASKS, MASKS), Segmentation(), r"one has 3 parts: say .* \(network_inputs= and"),
        (IMAGES, Segmentation(), "must be a pair of inputs and targets, or a table of named ones, and one is a Tensor"),
        ({"image": IMAGES}, Segmentation(), "a table without targets; it has image"),
        ((["a"], MASKS), Segmentation(), "inputs of a batch must be tensors, and there are none in a list"),
        (Pair(IMAGES, 1), own(lambda it: it.middle), "AttributeError"),
    ],
)
def test_batches_that_do_not_fit_the_task_are_refused_in_one_sentence(batch: Any, task: Task, message: str):
    with pytest.raises(DataError, match=message) as caught:
        loaded(batch, task, classes=3)
    assert "\n" not in str(caught.value)


def test_classification_needs_the_number_of_classes():
    with pytest.raises(DataError, match=r"nobody says how many .*classes=\); if .* name it, as task="):
        loaded((IMAGES, torch.tensor([0, 1, 2, 0])), Classification())
    table = {"pixel_values": IMAGES, "labels": torch.tensor([0, 1, 2, 3])}
    with pytest.raises(DataError, match="hold the label 3, but 3 classes"):
        loaded(table, Classification(), classes=3)


def test_two_loaders_test_on_the_validation_one_with_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "_SAID", set())
    train, val = ([(IMAGES, MASKS)] * count for count in (3, 2))
    with pytest.warns(UserWarning, match="there is no test loader, so the validation loader stands for it") as caught:
        data = with_task((train, val), Segmentation())
    assert caught[0].filename == __file__
    assert [data.size(split) for split in ("train", "val", "test")] == [12, 8, 8]


def test_loaders_become_data_of_a_task():
    loaders = [DataLoader(TensorDataset(IMAGES, MASKS), batch_size=2) for _ in range(3)]
    named = dict(zip(("train", "val", "test"), loaders, strict=True))
    for given in (tuple(loaders), loaders, named):
        data = with_task(given, Segmentation(), classes=3, name="scenes")
        assert (data.name, data.classes, data.task, data.size("test")) == ("scenes", 3, Segmentation(), 4)
    other = with_task(data, Segmentation(ignore=0))
    assert (other.task, other.name) == (Segmentation(ignore=0), "scenes")
    assert with_task(other, other.task) is other
    with pytest.raises(DataError, match="does not fit detection"):
        with_task(data, Detection())


def test_data_keeps_its_batches_under_another_task():
    data = from_arrays((IMAGES, torch.tensor([0, 1] * 2)), (IMAGES, torch.tensor([0, 1] * 2)))
    other = with_task(data, Retrieval())
    assert (other.task, other.name, other.source.parts) == (Retrieval(), data.name, data.source.parts)
    both = with_task(data, own(lambda batch: {"image": batch[0], "label": batch[1]}))
    assert set(both.example()) == {"image", "label"}


def test_what_is_known_of_loaders_is_kept_under_another_task():
    reads = list[int]()

    class Counted(list[Any]):
        def __iter__(self):
            reads.append(1)
            return super().__iter__()

    batches = Counted([(IMAGES, torch.tensor([0, 1, 2, 0]))])
    data = replace(from_loaders(batches, batches, batches, task=Retrieval()), names=("a", "b", "c"), mean=(0.5,) * 3)
    with pytest.raises(DataError, match=r"how many classes the loaders have: .*from_loaders\(\.\.\., classes=\)"):
        with_task(data, Classification())
    reads.clear()
    other = with_task(data, Classification(), classes=3)
    assert not reads
    assert (other.classes, other.names, other.mean, other.task) == (3, data.names, data.mean, Classification())
    with pytest.raises(DataError, match="has 3 classes, and classes=4 was said: leave that out"):
        with_task(other, Classification(label_smoothing=0.1), classes=4)
    with pytest.raises(DataError, match="hold the label 2, but 2 classes"):
        with_task(data, Classification(), classes=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": [], "tset": []}, r"no entry 'tset' \(did you mean 'test'\?\)"),
        ({"train": []}, "entries 'train' and 'val'"),
    ],
)
def test_tables_of_other_loaders_are_refused(given: Any, message: str):
    with pytest.raises(DataError, match=message):
        with_task(given, Segmentation())


@pytest.mark.parametrize("given", [3, "mnist5k", ([],), ([], [], [], [])])
def test_what_is_no_data_is_refused(given: Any):
    with pytest.raises(SettingError, match="data must be a data set"):
        with_task(given, Segmentation())


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 7), (7, 1, 1)), ((4, 2, 9), (2, 9, 1)), ((4, 1, 5, 6, 7), (1, 6, 7))]
)
def test_inputs_that_are_no_images_have_a_shape_too(shape: tuple[int, ...], expected: tuple[int, int, int]):
    assert loaded((torch.rand(shape), torch.rand(4)), Regression()).shape == expected
