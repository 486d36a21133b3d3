from __future__ import annotations

import dataclasses
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.errors import SettingError
from secateur.measure import RUNTIMES
from secateur.recipe import Recipe
from secateur.training.settings import Settings

FULL = Recipe(
    model="secateur:resnet20",
    weights="w.safetensors",
    data="cifar10:DIR",
    calibrate="photographs",
    calibrate_images=200,
    method="l1",
    options={"scope": "global", "power": 2, "layers": ["a", "b"], "fast": True, "decay": 0.5},
    keep=0.5,
    of="params",
    rounds=3,
    leave=("fc", "layer1.*"),
    free_outputs=("feats", "hidden_states.*"),
    groups="inside blocks",
    repair=("recalibrate",),
    min_units=2,
    multiple=8,
    seed=7,
    classes=10,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.2),
    val_fraction=0.2,
    split_seed=3,
    train_images=500,
    train=Settings(epochs=3, lr=0.1, schedule="step", milestones=(1, 2)),
    pretrain=Settings(epochs=9),
    export=("onnx",),
    latency=False,
)


def test_toml_is_what_a_person_would_write():
    document = tomllib.loads(FULL.to_toml())
    assert document["model"] == "secateur:resnet20"
    assert document["seed"] == 7
    assert (document["calibrate"], document["calibrate_images"]) == ("photographs", 200)
    assert document["target"] == {
        "keep": 0.5,
        "of": "params",
        "rounds": 3,
        "leave": ["fc", "layer1.*"],
        "free_outputs": ["feats", "hidden_states.*"],
        "groups": "inside blocks",
        "repair": ["recalibrate"],
        "min_units": 2,
        "multiple": 8,
    }
    assert document["method"]["name"] == "l1"
    assert document["method"]["layers"] == ["a", "b"]
    assert document["train"]["epochs"] == 3
    assert document["pretrain"]["epochs"] == 9


def test_a_short_recipe_takes_the_defaults():
    text = 'model = "lenet5"\n[target]\nkeep = 1\n[method]\nname = "l1"\nscope = "uniform"\n'
    text += "[train]\nepochs = 2\n"
    expected = Recipe(model="lenet5", method="l1", keep=1.0, options={"scope": "uniform"}, train=Settings(epochs=2))
    assert Recipe.from_toml(text) == expected
    assert expected.pretrain is None
    assert expected.export == ("pt2", "onnx")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = TEXT.filter(lambda name: name not in ("", "name"))
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
RECIPES = st.builds(
    Recipe,
    model=TEXT.filter(bool),
    weights=TEXT,
    data=TEXT,
    calibrate=TEXT,
    calibrate_images=st.integers(1, 9999),
    method=TEXT.filter(bool),
    options=st.dictionaries(NAMES, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)),
    keep=st.none() | st.floats(0, 1, exclude_min=True),
    of=st.sampled_from(["macs", "params", "nonzero", "units"]),
    rounds=st.integers(1, 99),
    leave=st.lists(TEXT, max_size=3).map(tuple),
    free_outputs=st.lists(TEXT, max_size=3).map(tuple),
    groups=st.sampled_from(["all", "inside blocks"]),
    repair=st.sampled_from([None, (), ("reconstruct",), ("recalibrate", "compensate")]),
    min_units=st.integers(1, 9),
    multiple=st.just("auto") | st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    classes=st.none() | st.integers(1, 1000),
    val_fraction=st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    split_seed=st.none() | st.integers(0, 2**32 - 1),
    train_images=st.none() | st.integers(1, 512),
    image_size=st.none() | st.integers(1, 512),
    workers=st.none() | st.integers(0, 8),
    train=st.none() | st.builds(Settings, lr=st.floats(1e-6, 10), epochs=st.integers(0, 100)),
    pretrain=st.none() | st.builds(Settings, distill=st.floats(0, 1), augment=TEXT.filter(bool)),
    export=st.sampled_from([(), ("pt2",), ("onnx",), ("onnx", "pt2")]),
    latency=st.booleans(),
    runtime=st.sampled_from([None, *RUNTIMES]),
    threads=st.none() | st.integers(1, 64),
)


@settings(max_examples=150, deadline=None)
@given(RECIPES)
def test_recipes_survive_toml_and_keep_their_name(recipe):
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.name() == recipe.name()
    assert again.to_toml() == recipe.to_toml()


def test_no_repair_is_told_from_none_that_was_asked_for():
    """Left out it is chosen by what there is; an empty list switches it off."""
    default, off = Recipe.from_toml(HEAD), Recipe.from_toml(HEAD + "[target]\nrepair = []\n")
    assert (default.repair, off.repair) == (None, ())
    assert "repair" not in default.to_toml()
    assert "repair = []" in off.to_toml()
    for recipe in (default, off):
        assert Recipe.from_toml(recipe.to_toml()) == recipe
    asked = dataclasses.replace(off, repair=("reconstruct",))
    assert len({default.name(), off.name(), asked.name()}) == 3


def test_widths_are_chosen_for_each_group_unless_a_number_is_given():
    assert Recipe.from_toml(HEAD).multiple == "auto"
    assert Recipe.from_toml(HEAD + '[target]\nmultiple = "auto"\n') == Recipe.from_toml(HEAD)
    assert Recipe.from_toml(HEAD + "[target]\nmultiple = 16\n").multiple == 16
    assert 'multiple = "auto"' in Recipe.from_toml(HEAD).to_toml()


def test_full_recipe_survives_toml():
    assert Recipe.from_toml(FULL.to_toml()) == FULL


def test_values_are_normalised():
    recipe = Recipe(model="m", method="l1", keep=1, leave=["a"], options={"layers": ("x", "y")})  # pyright: ignore
    assert recipe.leave == ("a",)
    assert recipe.options == {"layers": ["x", "y"]}
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": float("nan")},
        {"keep": True},
        {"of": "flops"},
        {"rounds": 0},
        {"rounds": 1.5},
        {"min_units": 0},
        {"multiple": True},
        {"multiple": 0},
        {"multiple": 7.5},
        {"multiple": "fast"},
        {"multiple": -3},
        {"seed": -1},
        {"split_seed": -1},
        {"classes": 0},
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5), "std": (0.5,)},
        {"std": (0.0,), "mean": (0.5,)},
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"train_images": 0},
        {"calibrate": 3},
        {"calibrate_images": 0},
        {"calibrate_images": 64.5},
        {"image_size": 0},
        {"workers": -1},
        {"export": ("tflite",)},
        {"export": ("onnx", "onnx")},
        {"export": "tflite"},
        {"repair": "foldd"},
        {"latency": 1},
        {"runtime": "fast"},
        {"runtime": 1},
        {"threads": 0},
        {"leave": 3},
        {"groups": "inside"},
        {"groups": 8},
        {"model": ""},
        {"method": ""},
        {"options": {"x": None}},
        {"options": {"x": float("nan")}},
        {"options": {"name": "x"}},
        {"options": {"x": [object()]}},
        {"train": {"epochs": 1}},
    ],
)
def test_impossible_values_are_refused(changes):
    name = next(iter(changes))
    with pytest.raises(SettingError, match=name if name not in ("options",) else "setting"):
        dataclasses.replace(FULL, **({"mean": None, "std": None} | changes))


HEAD = 'model = "m"\n[method]\nname = "l1"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = = 3", "not valid TOML.*line 1"),
        ('modle = "m"\n', "unknown setting 'modle'.*did you mean 'model'"),
        ("keep = 0.5\n" + HEAD, "'keep'.*belongs in \\[target\\]"),
        (HEAD + "[target]\nkep = 0.5\n", "unknown setting 'kep' in \\[target\\].*did you mean 'keep'"),
        (HEAD + "[target]\nkeep = 2\n", "'keep' must be"),
        (HEAD + "[target]\nmultiple = 7.5\n", "'multiple' must be \"auto\" .* or a whole number .*, not 7\\.5"),
        (HEAD + '[target]\nmultiple = "fast"\n', "'multiple' must be \"auto\" .*, not 'fast'"),
        (HEAD + '[target]\nmultiple = "atuo"\n', "'multiple' must be .*did you mean 'auto'"),
        (HEAD + "[train]\nepoch = 2\n", "'epoch'.*did you mean 'epochs'"),
        (HEAD + "[training]\nepochs = 2\n", "'training'.*did you mean 'train'"),
        ('model = "m"\nmethod = "l1"\n', "\\[method\\]"),
        ('model = "m"\n', "which method"),
        ('[method]\nname = "l1"\n', "which model"),
        ('model = "m"\noptions = 3\n[method]\nname = "l1"\n', "unknown setting 'options'"),
        (HEAD + "day = 2020-01-01\n", "'day'"),
        (HEAD + ".".join(["a"] * 33) + " = 1\n", "a key of more than 32 parts"),
        (HEAD + "x = {" + " . ".join(["'a.b'"] * 33) + " = 1}\n", "a key of more than 32 parts"),
        (HEAD + "[[" + ".".join(['"a\\"b"'] * 33) + "]]\n", "a key of more than 32 parts"),
    ],
)
def test_mistakes_in_a_file_are_explained(text, message, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=message) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)


def test_read_says_which_file_is_missing_or_no_text(tmp_path):
    with pytest.raises(SettingError, match=r"absent\.toml"):
        Recipe.read(tmp_path / "absent.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="UTF-8"):
        Recipe.read(tmp_path / "b.toml")
    (tmp_path / "c.toml").write_text(FULL.to_toml())
    assert Recipe.read(tmp_path / "c.toml") == FULL


def test_names_are_short_distinct_and_safe_as_folders():
    plain = Recipe(model="m", method="l1", keep=0.5)
    assert plain.name().startswith("l1-keep0.5-")
    assert dataclasses.replace(plain, seed=1).name() != plain.name()
    assert dataclasses.replace(plain, train=Settings()).name() != plain.name()
    assert dataclasses.replace(plain, train=Settings(epochs=11)).name() != plain.name()
    odd = Recipe(model="../x", method="../my method").name()
    assert "/" not in odd
    assert " " not in odd
    assert len(odd) < 40


def test_one_word_is_a_list_of_it():
    """As ``prune(repair="fold")`` and ``--repair fold`` have it."""
    text = 'model = "lenet5"\nexport = "onnx"\n[target]\nkeep = 0.5\nrepair = "fold"\nleave = "conv1"\n'
    recipe = Recipe.from_toml(f'{text}[method]\nname = "magnitude"\n')
    assert (recipe.repair, recipe.leave, recipe.export) == (("fold",), ("conv1",), ("onnx",))
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert dataclasses.replace(recipe, repair="none", export="pt2, onnx").repair == ()
    with pytest.raises(SettingError, match=r"'repair' must be .* not 'foldd' \(did you mean 'fold'\?\)"):
        dataclasses.replace(recipe, repair="foldd")
