"""Whatever a file says, a setting takes it or refuses it with one sentence; nothing else ever happens."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import fields
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from secateur import rules
from secateur.budget import Budget
from secateur.compare import Comparison
from secateur.errors import SettingError
from secateur.methods import find, make, methods
from secateur.recipe import Recipe
from secateur.rules import Rule
from secateur.stages import Stage
from secateur.training.settings import Settings

HUGE = 10**400
NUMBERS = st.integers(-3, 300) | st.floats() | st.sampled_from([HUGE, True, 0.5, 1])
VALUES = st.recursive(
    NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KINDS: dict[Any, dict[str, Any]] = {
    Recipe: {"model": "lenet5", "method": "magnitude"},
    Settings: {},
    Budget: {},
    Stage: {"method": "magnitude"},
}
PLACES = [(kind, f.name) for kind in KINDS for f in fields(kind)]


@given(value=VALUES)
def test_any_value_is_taken_or_refused(value: object) -> None:
    for kind, name in PLACES:
        with suppress(SettingError):
            kind(**{**KINDS[kind], name: value})


@given(value=VALUES)
def test_any_document_is_taken_or_refused(value: object) -> None:
    base: dict[str, Any] = {"model": "lenet5", "data": "mnist5k", "method": [{"name": "magnitude"}]}
    recipe, comparison = {**base, "method": {"name": "magnitude"}}, {**base, "target": {"keeps": [0.5]}}
    inside = {"keep": value, "keeps": value, "name": value, "label": value, "epochs": value, "threads": value}
    for table in ("target", "method", "train", "shape", "budget", "then", "scratch", "seeds", "controls", "lunch"):
        for entry in (value, inside, [value], [inside], [{"target": value, "method": inside}]):
            with suppress(SettingError):
                Recipe.from_toml(tomli_w.dumps({**recipe, table: entry}))
            with suppress(SettingError):
                Comparison.from_toml(tomli_w.dumps({**comparison, table: entry}))


def test_the_first_argument_that_breaks_its_rule_is_refused() -> None:
    rules.refuse(("a", 1, rules.whole(1)), ("b", None, rules.optional(rules.FLAG)))
    with pytest.raises(SettingError, match=r"^b must be true or false, not 3$"):
        rules.refuse(("a", 1, rules.whole(1)), ("b", 3, rules.FLAG), ("c", 0, rules.whole(1)))


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.FLAG, [True, False], [0, 1, "true", None]),
        (rules.whole(1), [1, 7, rules.LARGEST], [0, -1, True, 1.0, "1", None, rules.LARGEST + 1, HUGE]),
        (rules.SEED, [0, 2**32 - 1], [-1, 2**32, True, 1.0]),
        (rules.number(lambda v: v > 0, ""), [1, 0.5], [0, math.nan, math.inf, True, "1", HUGE, None]),
        (rules.text("", least=1), ["a"], ["", 1, None]),
        (rules.one_of(Literal["a", "b"]), ["a", "b"], ["c", "", 1, ["a"], None]),
        (rules.each(rules.whole(0), ""), [(), (0, 1)], [[0], (0, -1), "ab", None]),
        (rules.different(rules.each(rules.text(""), "")), [(), ("a", "b")], [("a", "a"), ("a", 1)]),
        (rules.optional(rules.whole(0)), [None, 0], [-1, False]),
        (rules.instance(dict, ""), [{}], [[], None]),
    ],
)
def test_rules_accept_and_refuse(rule: Rule, good: list[object], bad: list[object]) -> None:
    assert all(rule.accepts(value) for value in good)
    assert not any(rule.accepts(value) for value in bad)


@pytest.mark.parametrize("name", methods())
@given(value=VALUES)
def test_a_method_takes_or_refuses_any_value_of_its_settings(name: str, value: object) -> None:
    for setting in fields(find(name)):
        with suppress(SettingError):
            make(name, {setting.name: value})


def test_a_setting_of_the_wrong_type_is_named_with_what_is_wanted() -> None:
    for name, options, message in (
        ("random_masks", {"candidates": "fifty"}, "'candidates' must be a whole number, not 'fifty'; correct this"),
        ("random_masks", {"stem": "false"}, "'stem' must be true or false, not 'false'; correct this"),
        ("magnitude", {"norm": "L1"}, "'norm' must be one of l1, l2, not 'L1' .did you mean 'l1'.*of Magnitude"),
        ("magnitude", {"keeps": [["a"]]}, "'keeps' must be a list of pairs of a text and a finite number, or a table"),
        ("self_grouping", {"dense": [1]}, "'dense' must be a list, each entry a text"),
    ):
        with pytest.raises(SettingError, match=message):
            make(name, options)


def test_the_words_of_a_rule() -> None:
    assert rules.whole(2).wanted == "a whole number of at least 2"
    assert rules.whole(1, "images").wanted == "a whole number of images, at least 1"
    assert rules.whole(1, most=9).wanted == "a whole number of at least 1 and at most 9"
    assert rules.SEED.refusal(-1) == "must be a whole number of at least 0, not -1"
    assert rules.SEED.refusal(2**32) == "must be a whole number of at least 0 and at most 4294967295, not 4294967296"
    assert rules.one_of(Literal["a", "b"], mark="'").wanted == "one of 'a', 'b'"
    assert rules.optional(rules.FLAG).wanted == "true or false"


def test_a_wrong_entry_is_named_alone_and_others_stand_as_a_recipe_writes_them() -> None:
    with pytest.raises(
        SettingError,
        match=r"'export' .* of pt2, onnx, source, onnx-int8, openvino-int8, not 'onx' \(did you mean 'onnx'",
    ):
        Recipe(model="lenet5", method="magnitude", export=("pt2", "onx"))
    with pytest.raises(SettingError, match=r"'repair' must be .*, not 'fald' \(did you mean 'fold'"):
        Recipe(model="lenet5", method="magnitude", repair=("fald",))
    with pytest.raises(SettingError, match=r"'std' must be .*, not \[0.0\]; correct"):
        Recipe(model="lenet5", method="magnitude", mean=(0.5,), std=(0.0,))


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("rounds", 10**30, 10_000),
        ("rounds", 10_001, 10_000),
        ("image_size", 10**6, 4096),
        ("seed", 2**63, 2**32 - 1),
        ("seed", 2**32, 2**32 - 1),
        ("workers", 5000, 1024),
        ("classes", 10**30, 2**16),
        ("calibrate_images", 2**31, 2**24),
        ("train_images", 10**30, rules.LARGEST),
        pytest.param("min_units", 10**5000, rules.LARGEST, id="more digits than can be written"),
    ],
)
def test_numbers_that_nothing_could_follow_are_refused_with_the_largest(name: str, value: int, most: int) -> None:
    values: dict[str, Any] = {"model": "lenet5", "method": "magnitude", name: value}
    with pytest.raises(SettingError, match=f"'{name}' must be .* at most {most}, not "):
        Recipe(**values)
    values[name] = most
    assert getattr(Recipe(**values), name) == most


def test_settings_of_methods_and_trainings_end_too() -> None:
    with pytest.raises(SettingError, match=f"at most {rules.LARGEST}"):
        make("random_masks", {"candidates": 10**30})
    with pytest.raises(SettingError, match=f"at most {rules.LARGEST}"):
        Settings(epochs=10**30)


@pytest.mark.parametrize(
    ("keep", "hint"),
    [(403000, "set 'max_macs' or 'max_params' of a budget"), (50, "set 0.5 for 50 %"), (0, "not 0;")],
)
def test_a_fraction_that_means_something_else_says_what_to_write(keep: float, hint: str) -> None:
    with pytest.raises(SettingError, match=f"'keep' must be a fraction above 0 and up to 1, not {keep}; .*") as error:
        Recipe(model="lenet5", method="magnitude", keep=keep)
    assert hint in str(error.value)
