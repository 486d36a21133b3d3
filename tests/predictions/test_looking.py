from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from answering import CLASSES, TASKS, Answers, compared, data_of, network_of, right, scene
from secateur.data import load_data
from secateur.data.loaders import from_loaders
from secateur.data.pictures import Pictures
from secateur.predictions import LOOKED_AT, MOST, SHOWN, answers, painter_of, some_batches
from secateur.predictions import album as albums
from secateur.tasks import Classification, Custom, Detection, Regression, Restoration, Retrieval, Segmentation


def named(task):
    return f"{task.name}{'-labels' if getattr(task, 'multi_label', False) else ''}"


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_the_worst_disagreements_come_first_in_one_pass_of_both_networks(task):
    data, dense, pruned = data_of(task), network_of(task, right), network_of(task, lambda levels: levels)
    found = compared(data, dense, pruned)
    assert found["task"] == task.name
    assert found["looked_at"] == dense.seen == pruned.seen == 20
    assert len(found["examples"]) == SHOWN
    apart = [example["disagreement"] for example in found["examples"]]
    assert apart == sorted(apart, reverse=True)
    if not isinstance(task, Retrieval):
        assert apart[0] > apart[-1] > 0
    json.dumps(found, allow_nan=False)
    for tile in tiles_of(found):
        assert tile["layers"]
        assert tile["alt"]
        sizes = {tuple(found["pictures"][number][side] for side in ("width", "height")) for number in tile["layers"]}
        assert len(sizes) == 1


def tiles_of(found):
    return [tile for example in found["examples"] for strip in example["strips"] for tile in strip["tiles"]]


def test_what_is_shown_of_classification():
    found = compared(data_of(Classification()), network_of(Classification(), right), wrong_for_the_bright())
    assert found["layout"] == "cards"
    first, last = found["examples"][0], found["examples"][-1]
    assert first["title"] == "Different answers"
    assert [fact["name"] for fact in first["facts"]] == ["label", "dense", "pruned"]
    assert [fact["mark"] for fact in first["facts"]] == ["", "right", "wrong"]
    assert (last["title"], last["facts"][2]["mark"]) == ("Same answer", "right")
    assert last["facts"][0]["text"] in last["facts"][2]["text"]


def wrong_for_the_bright():
    """Return a network that takes the next class for bright squares, and is surely right else."""
    return network_of(Classification(), lambda levels: 2.0 * (levels > 0.7) + 0.1 * levels)


def test_labels_have_the_names_that_the_data_gives_them():
    data = replace(data_of(Classification()), names=("cat", "dog", "cow", "owl"))
    found = compared(data, network_of(Classification(), right), wrong_for_the_bright())
    assert {example["facts"][0]["text"] for example in found["examples"]} <= {"cat", "dog", "cow", "owl"}


def test_what_is_shown_of_segmentation():
    task = Segmentation()
    found = compared(data_of(task), network_of(task, right), network_of(task, lambda levels: levels))
    first = found["examples"][0]["strips"][0]["tiles"]
    assert [tile["name"] for tile in first] == ["dense", "pruned", "truth"]
    assert first[0]["text"] == "100.0 % right"
    assert float(first[1]["text"].split()[0]) < 90
    assert "class 1" in first[2]["alt"]
    assert [entry["name"] for entry in found["legend"]] == ["class 0", "class 1"]


def test_what_is_shown_of_detection():
    task = Detection()
    found = compared(data_of(task), network_of(task, right), network_of(task, lambda levels: levels))
    first = found["examples"][0]
    assert first["title"] == "4 of 6 boxes have no counterpart"
    dense, pruned, truth = first["strips"][0]["tiles"]
    assert [len(tile["boxes"]) for tile in (dense, pruned, truth)] == [1, 5, 1]
    box = truth["boxes"][0]
    assert [box[side] for side in ("x", "y", "width", "height")] == [8.0, 8.0, 8.0, 8.0]
    assert dense["boxes"][0]["label"].endswith(" 0.90")
    assert "score of 0.50" in found["note"]


def test_unsure_detectors_are_shown_by_as_many_boxes_as_there_should_be():
    task = Detection()

    def unsure(images):
        box = torch.tensor([[8.0, 8, 16, 16], [20.0, 20, 30, 30]])
        return [{"boxes": box, "scores": torch.tensor([0.3, 0.1]), "labels": torch.tensor([1, 1])} for _ in images]

    found = compared(data_of(task), Answers(unsure), Answers(unsure))
    assert "score of 0.30" in found["note"]
    assert [len(tile["boxes"]) for tile in tiles_of(found)] == [1] * 3 * SHOWN


def test_what_is_shown_of_restoration():
    task = Restoration()
    near = network_of(task, lambda levels: 0.01 + 0 * levels)
    found = compared(data_of(task), near, network_of(task, lambda levels: 0.01 + levels))
    first = found["examples"][0]
    given, dense, pruned, truth = first["strips"][0]["tiles"]
    assert [given["name"], truth["name"], truth["text"]] == ["input", "truth", ""]
    before, after = (float(tile["text"].removesuffix(" dB")) for tile in (dense, pruned))
    assert before > after
    assert f"PSNR {after - before:+.1f}"[:-1] in first["title"]


def test_super_resolution_shows_the_same_part_of_small_inputs_and_large_outputs():
    large = torch.zeros(3, 3, 1024, 1024)
    large[:, :, 600:, 600:] = 0.5
    batch = (large[:, :, ::4, ::4], large)
    data = from_loaders([batch], [batch], [batch], task=Restoration())
    grown = nn.Upsample(scale_factor=4)

    def other(images):
        found = grown(images)
        found[:, :, 900:960, 900:960] = 1.0
        return found

    found = compared(data, Answers(grown), Answers(other))
    assert "part is shown" in found["note"]
    tiles = found["examples"][0]["strips"][0]["tiles"]
    sizes = [found["pictures"][tile["layers"][0]]["width"] for tile in tiles]
    assert sizes == [64, 256, 256, 256]
    assert tiles[1]["text"] == "100.00 dB"
    assert len({found["pictures"][tile["layers"][0]]["data"] for tile in tiles}) == 3  # dense and truth are alike


def test_what_is_shown_of_retrieval():
    task = Retrieval()
    found = compared(data_of(task), network_of(task, right), network_of(task, lambda levels: 2.0 * (levels > 0.5)))
    first = found["examples"][0]
    assert [strip["name"] for strip in first["strips"]] == ["query", "dense", "pruned"]
    assert [len(strip["tiles"]) for strip in first["strips"]] == [1, 3, 3]
    query = first["strips"][0]["tiles"][0]["name"]
    for strip in first["strips"][1:]:
        for tile in strip["tiles"]:
            assert tile["mark"] == ("right" if tile["name"] == query else "wrong")
    assert {tile["mark"] for tile in first["strips"][1]["tiles"]} == {"right"}
    assert "wrong" in {tile["mark"] for tile in first["strips"][2]["tiles"]}


def test_images_without_company_are_no_queries():
    images = scene(6)
    batch = (images, torch.tensor([0, 0, 1, 2, 3, 4]))
    data = from_loaders([batch], [batch], [batch], task=Retrieval())
    network = network_of(Retrieval(), right)
    assert len(compared(data, network, network)["examples"]) == 2


def test_what_is_shown_of_regression():
    task = Regression()
    found = compared(data_of(task), network_of(task, right), network_of(task, lambda levels: levels))
    assert found["layout"] == "table"
    facts = [(fact["name"], fact["text"]) for fact in found["examples"][0]["facts"]]
    assert facts == [("truth", "0.95"), ("dense", "0.95"), ("pruned", "1.9"), ("difference", "0.95")]


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_answers_that_are_no_numbers_come_first(task):
    def spoilt(levels):
        return torch.where(levels > 0.9, torch.nan, 0.0)

    dense = network_of(task, right)
    if isinstance(task, Detection):  # which has no box then
        dense = Answers(lambda images: [one_box(8.0) for image in images])
        network = Answers(lambda images: [one_box(math.nan if image[0, 10, 10] > 0.9 else 8.0) for image in images])
    else:
        network = network_of(task, spoilt)
    found = compared(data_of(task), dense, network)
    json.dumps(found, allow_nan=False)
    first = found["examples"][0]
    if isinstance(task, Classification | Regression | Restoration):
        assert first["disagreement"] is None
    if not isinstance(task, Retrieval):
        assert first["disagreement"] != found["examples"][-1]["disagreement"]


def one_box(left):
    boxes = torch.tensor([[left, 8, 16, 16]])
    return {"boxes": boxes, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}


def test_no_more_is_looked_at_than_was_said():
    task = Classification()
    network = network_of(task, right)
    found = compared(data_of(task, count=400), network, network_of(task, right))
    assert found["looked_at"] == network.seen == LOOKED_AT
    large = data_of(task, count=400, batch=200)  # whose batches cannot be cut without knowing what is in them
    assert compared(large, network_of(task, right), network_of(task, right))["looked_at"] == LOOKED_AT


def test_large_images_are_few(monkeypatch):
    monkeypatch.setattr("secateur.predictions.looking._HELD", 20 * 3 * 32 * 32 * 4)
    assert sum(len(images) for images, _ in some_batches(data_of(Classification(), count=90))) == 24


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_noise_that_cannot_be_made_small_keeps_within_the_bound(task):
    data = data_of(task, count=16, side=300)
    noise = torch.Generator().manual_seed(0)
    batches = [
        ([torch.rand(image.shape, generator=noise) for image in images], targets)
        if isinstance(images, list)
        else (torch.rand(images.shape, generator=noise), targets)
        for images, targets in data.batches("test")
    ]
    data = from_loaders(batches, batches, batches, data.classes, task=task)
    network, other = (network_of(task, lambda levels, by=by: by * levels) for by in (0.0, 0.5))
    found = compared(data, network, other)
    assert len(json.dumps(found, separators=(",", ":"))) <= MOST
    assert len(found["examples"]) == SHOWN


def test_networks_stay_as_they_are():
    task, network = Classification(), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Linear(3072, CLASSES))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    data = data_of(task)
    painter = painter_of(task, data)
    assert painter is not None
    assert len(answers(network, some_batches(data), painter)) == 20
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nobody_knows_how_to_draw_a_task_of_somebodys_own():
    task = Custom(lambda output, target: output.sum(), lambda output, target: 0.0)
    assert painter_of(task, data_of(Regression())) is None


def test_without_the_library_that_draws_words_and_numbers_are_left(monkeypatch):
    monkeypatch.setattr(albums.importlib.util, "find_spec", lambda name: None)
    for task in TASKS:
        painter = painter_of(task, data_of(task))
        assert (painter is None) == (not isinstance(task, Classification | Regression))
    for task in (Classification(), Regression()):
        found = compared(data_of(task), network_of(task, right), network_of(task, lambda levels: levels))
        assert found["pictures"] == []
        assert len(found["examples"][0]["facts"]) >= 3


def test_inputs_that_are_no_images_have_no_pictures():
    numbers = torch.rand(8, 5)
    batch = (numbers, numbers.sum(dim=1))
    data = from_loaders([batch], [batch], [batch], task=Regression())
    found = compared(data, Answers(lambda given: given.sum(dim=1)), Answers(lambda given: given[:, 0]))
    assert found["pictures"] == []
    assert len(found["examples"]) == 8


def test_no_more_pictures_are_read_than_are_looked_at(tmp_path, monkeypatch):
    for split, count in (("train", 4), ("test", 150)):
        for name, level in (("a", 40), ("b", 200)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (level, number, 0)).save(tmp_path / split / name / f"{number}.png")
    data = load_data(f"imagefolder:{tmp_path}", image_size=8, workers=2, val_fraction=0.3)
    first = next(x for x, _ in data.batches("test", LOOKED_AT, shuffle=True, seed=0))
    opened, note = Pictures.opened, tmp_path / "opened"

    def counted(reader, row):
        with note.open("a") as file:  # of the processes that read
            file.write(f"{row}\n")
        return opened(reader, row)

    monkeypatch.setattr(Pictures, "opened", counted)
    assert torch.equal(torch.cat([x for x, _ in some_batches(data)]), first)
    assert len(note.read_text().split()) == LOOKED_AT
