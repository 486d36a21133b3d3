from __future__ import annotations

import dataclasses
import json
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import SettingError
from secateur.training import Settings

BAD = {
    "epochs": [-1, 1.5, True, "3"],
    "batch_size": [0, 1.0],
    "optimizer": ["adam", "SGD", 1],
    "lr": [0, -0.1, float("nan"), float("inf"), "0.1", True],
    "momentum": [-0.1, 1],
    "nesterov": [1, "yes"],
    "weight_decay": [-1e-9],
    "schedule": ["linear"],
    "milestones": [(2, 1), (0,), (1.5,), "3", (1, 1)],
    "gamma": [0, 1.1],
    "warmup_epochs": [-1, 10],
    "label_smoothing": [1.0, -0.1],
    "augment": ["", 3],
    "distill": [-0.1, 1.1],
    "temperature": [0],
    "clip_grad": [-1],
    "accumulate": [0],
    "recalibrate": [0],
    "select": ["first"],
    "precision": ["bfloat16"],
    "memory_format": ["nhwc"],
    "compile": [True],
    "device": ["gpu"],
}


def test_every_setting_is_checked() -> None:
    assert set(BAD) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: object) -> None:
    schedule = {"schedule": "step"} if name == "milestones" else {}
    with pytest.raises(SettingError) as caught:
        Settings(**{name: value, **schedule})
    assert f"'{name}'" in str(caught.value)
    assert "must" in str(caught.value)


def test_a_near_miss_is_recognised() -> None:
    with pytest.raises(SettingError, match=r"did you mean 'channels_last'\?"):
        Settings(memory_format="channel_last")
    with pytest.raises(SettingError, match=r"'momentun' \(did you mean 'momentum'\?\)"):
        Settings.from_dict({"momentun": 0.9})


@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "step"},
        {"milestones": (3,)},
        {"schedule": "step", "milestones": (2,), "warmup_epochs": 2},
        {"epochs": 3, "warmup_epochs": 3},
    ],
)
def test_settings_that_do_not_fit_each_other(values: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=r"milestones|warmup_epochs"):
        Settings(**values)


@given(
    epochs=st.integers(3, 500),
    lr=st.floats(1e-6, 10) | st.integers(1, 3),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    milestones=st.sets(st.integers(3, 400), max_size=4),
    warmup_epochs=st.integers(0, 2),
    device=st.sampled_from(["auto", "cpu"]),
    recalibrate=st.booleans(),
)
def test_settings_survive_toml_and_json(milestones: set[int], **values: object) -> None:
    schedule = "step" if milestones else "cosine"
    settings = Settings(**values, schedule=schedule, milestones=tuple(sorted(milestones)))
    assert Settings.from_dict(tomllib.loads(tomli_w.dumps(settings.to_dict()))) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert isinstance(settings.lr, float)


def test_what_is_left_out_takes_its_default() -> None:
    assert Settings.from_dict({"epochs": 0}) == Settings(epochs=0)
