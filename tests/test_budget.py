from __future__ import annotations

from typing import Any

import pytest

from secateur.budget import Budget, agreed
from secateur.errors import SettingError
from secateur.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [(0.5, (0.5, "")), ("0.5", (0.5, "")), ("12ms", (12.0, "ms")), ("0.8 ms", (0.8, "ms")), (1, (1.0, ""))],
)
def test_latencies_are_fractions_or_times(text: Any, expected: tuple[float, str]) -> None:
    assert Budget(max_latency=text).latency() == expected


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "a budget needs a limit"),
        ({"runtime": "eager"}, "a budget needs a limit"),
        ({"max_latency": 12.0}, "a fraction up to 1 or a time such as 12ms, not 12.0"),
        ({"max_latency": "soon"}, 'a time such as 12ms, not "soon"'),
        ({"max_latency": "1.2.3ms"}, "a time such as 12ms"),
        ({"max_latency": 0}, "a fraction up to 1"),
        ({"max_latency": True}, "a fraction up to 1"),
        ({"max_macs": -1}, "'max_macs' must be a fraction up to 1 or a number above 1, not -1"),
        ({"max_params": float("nan")}, "'max_params' must be"),
        ({"max_drop": -0.1}, "'max_drop' must be a number of at least 0"),
        ({"max_drop": 0.1, "drop_after": "lunch"}, "'drop_after' must be one of cut, training, not 'lunch'"),
        ({"max_latency": 0.5, "runtime": "openvno"}, "did you mean 'openvino'"),
        ({"max_latency": "1e999ms"}, "a time such as 12ms"),
        (
            {"max_latency": 0.5, "threads": "2"},
            "'threads' must be a whole number of threads, at least 1 and at most 4096, not '2'",
        ),
        ({"max_latency": 0.5, "threads": 0}, "'threads' must be a whole number of threads, at least 1"),
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Budget(**limits)


def test_a_recipe_carries_its_budget_there_and_back() -> None:
    budget = Budget(max_latency="12ms", max_drop=0.01, runtime="onnxruntime", threads=1)
    recipe = Recipe(model="resnet20", method="magnitude", budget=budget)
    text = recipe.to_toml()
    assert "[budget]" in text
    assert Recipe.from_toml(text) == recipe
    plain = Recipe(model="resnet20", method="magnitude")
    assert "budget" not in plain.to_toml()
    assert recipe.name() != plain.name()
    with pytest.raises(SettingError, match=r"unknown limit 'max_flops' in \[budget\] of the recipe"):
        Recipe.from_toml('model = "resnet20"\n[method]\nname = "magnitude"\n[budget]\nmax_flops = 0.5\n')
    with pytest.raises(SettingError, match="'budget' must be a table of limits, not 3"):
        Recipe.from_toml('budget = 3\nmodel = "resnet20"\n[method]\nname = "magnitude"\n')


@pytest.mark.parametrize(
    ("name", "own", "limits", "expected"),
    [
        ("runtime", None, None, None),
        ("runtime", "eager", None, "eager"),
        ("runtime", None, "onnxruntime", "onnxruntime"),  # as recipes of earlier versions have it
        ("runtime", "openvino", "openvino", "openvino"),
        ("threads", 2, None, 2),
        ("threads", None, 1, 1),
    ],
)
def test_a_run_and_its_budget_agree_on_where_they_run(name: str, own: Any, limits: Any, expected: Any) -> None:
    budget = Budget(max_latency=0.5, **{name: limits})
    asked = {"runtime": None, "threads": None, name: own}
    assert dict(zip(("runtime", "threads"), agreed(budget, **asked), strict=True))[name] == expected
    assert agreed(None, **asked) == tuple(asked.values())


def test_two_runtimes_are_one_too_many() -> None:
    text = 'model = "m"\nruntime = "eager"\n[method]\nname = "magnitude"\n'
    text += '[budget]\nmax_latency = 0.5\nruntime = "compile"\n'
    with pytest.raises(SettingError, match="'runtime' is eager for the run, but compile for its budget; name it once"):
        Recipe.from_toml(text)
    assert Recipe.from_toml(text.replace('runtime = "eager"\n', "")).runtime is None
    recipe = Recipe.from_toml(text.replace("compile", "eager"))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
