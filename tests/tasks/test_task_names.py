from __future__ import annotations

import json
from typing import Any

import pytest

from measured import sentence
from secateur.errors import SettingError
from secateur.tasks import TASKS, Segmentation, task_of


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_known_by_its_name_and_comes_back_from_its_record(name: str):
    task = task_of(name)
    assert type(task) is TASKS[name]
    record = json.loads(json.dumps(task.to_dict()))
    assert record.pop("name") == name
    assert task_of(name, record) == task
    assert task.metric is task.metrics[0]


def test_settings_arrive():
    assert task_of("segmentation", {"ignore": 0, "label_smoothing": 0.1}) == Segmentation(0, 0.1)
    assert task_of("segmentation", {"ignore": None}).to_dict()["ignore"] is None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("segmentatio", None, "unknown task 'segmentatio' (did you mean 'segmentation'?); there are classification"),
        ("", None, "unknown task ''"),
        (3, None, "name must be a text, not 3"),
        (["detection"], None, "name must be a text"),
        ("segmentation", {"ignor": 1}, "no setting 'ignor' (did you mean 'ignore'?); it has ignore, label_smoothing"),
        ("detection", {"boxes": 1}, "detection has no setting 'boxes'; it has background"),
        ("retrieval", ["margin"], "options must be a table"),
        ("retrieval", {"margin": 0}, "'margin' must be a number above 0, not 0"),
        ("retrieval", {"margin": "wide"}, "'margin' must be a number above 0"),
        ("restoration", {"border": -1}, "'border' must be a whole number of pixels"),
        ("restoration", {"border": 1.5}, "'border'"),
        ("segmentation", {"ignore": True}, "'ignore' must be a whole number"),
        ("classification", {"label_smoothing": 1.0}, "'label_smoothing' must be a number in [0, 1)"),
        ("classification", {"multi_label": "yes"}, "'multi_label'"),
    ],
)
def test_what_is_unknown_or_out_of_range(name: Any, options: Any, said: str):
    assert said in sentence(SettingError, lambda: task_of(name, options))


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"classification", "segmentation"}))
def test_only_class_numbers_are_smoothed(name: str):
    assert task_of(name).smoothed(0.0) == task_of(name)
    assert f"{name} has none" in sentence(SettingError, lambda: task_of(name).smoothed(0.1))
