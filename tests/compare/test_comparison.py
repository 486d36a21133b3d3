from __future__ import annotations

import pytest

from secateur.compare import Comparison, requests
from secateur.errors import SettingError

TEXT = """
model = "secateur:lenet5"
data = "mnist5k"
seeds = [0, 3]

[target]
keeps = [0.5, 0.25]
leave = ["fc1"]

[[method]]
name = "magnitude"

[[method]]
name = "magnitude"
label = "wide search"
scope = "global"
[method.train]
lr = 0.5

[[method]]
name = "bn_scale"
strength = 0.01
[method.shape]
epochs = 1

[train]
epochs = 4
lr = 0.25

[scratch]
lr = 0.125
"""


def test_a_recipe_becomes_runs_seed_by_seed() -> None:
    comparison = Comparison.from_toml(TEXT)
    wanted = requests(comparison)
    assert [r.title for r in wanted[:8]] == [
        "dense network, trained on, seed 0",
        "magnitude, keep 0.5, repair reconstruct, seed 0",
        "wide search, keep 0.5, repair reconstruct, seed 0",
        "bn_scale (strength=0.01), keep 0.5, repair reconstruct, seed 0",
        "uniform width, keep 0.5, repair reconstruct, seed 0",
        "random units, keep 0.5, repair reconstruct, seed 0",
        "thin network from scratch, keep 0.5, seed 0",
        "magnitude, keep 0.25, repair reconstruct, seed 0",
    ]
    assert len(wanted) == 2 * (1 + 2 * 6)
    names = [r.name for r in wanted]
    assert names[1] == names[4]  # magnitude as it is and uniform width are one run
    assert len(set(names)) == len(names) - 2 * 2
    assert {r.recipe.leave for r in wanted} == {("fc1",)}
    assert not any(r.recipe.export or r.recipe.latency for r in wanted)


def test_training_is_that_of_the_comparison_but_for_what_an_entry_changes() -> None:
    text = TEXT.replace("leave =", "repair = []\nleave =")
    runs = {r.title.replace("repair none, ", ""): r.recipe for r in requests(Comparison.from_toml(text))}
    plain, wide = runs["magnitude, keep 0.5, seed 0"], runs["wide search, keep 0.5, seed 0"]
    shaped = runs["bn_scale (strength=0.01), keep 0.5, seed 0"]
    scratch, dense = runs["thin network from scratch, keep 0.5, seed 0"], runs["dense network, trained on, seed 0"]
    trains = [recipe.train for recipe in (plain, wide, shaped, scratch, dense)]
    assert [train and (train.epochs, train.lr) for train in trains] == [
        (4, 0.25),
        (4, 0.5),
        (4, 0.25),
        (4, 0.125),
        (4, 0.25),
    ]
    assert plain.shape is None
    assert shaped.shape is not None
    assert (shaped.shape.epochs, shaped.shape.lr) == (1, 0.25)


def test_scratch_gets_the_epochs_of_dense_and_pruned_network_together() -> None:
    text = TEXT.replace("[scratch]\nlr = 0.125", "[pretrain]\nepochs = 10\nlr = 1.0").replace(
        "leave", "rounds = 3\nleave"
    )
    comparison = Comparison.from_toml(text)
    assert comparison.budget() == 12
    assert (comparison.scratch_settings().epochs, comparison.scratch_settings().lr) == (22, 1.0)
    assert (comparison.dense_settings().epochs, comparison.dense_settings().lr) == (12, 0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", {"reconstruct"}), ("repair = []", {"none"}), ('repair = ["compensate", "recalibrate"]', None)],
)
def test_every_run_says_how_it_is_repaired(text: str, words: set[str] | None) -> None:
    wanted = requests(Comparison.from_toml(TEXT.replace("leave =", f"{text}\nleave =")))
    assert {r.repair for r in wanted if r.kind == "prune"} == (words or {"compensate + recalibrate"})
    assert {r.repair for r in wanted if r.kind != "prune"} == {""}  # nothing is cut there
    assert {r.recipe.repair for r in wanted if r.kind != "prune"} == {()}


def test_methods_and_controls_can_run_with_and_without_a_repair() -> None:
    both = Comparison.from_toml(TEXT.replace("leave =", 'repairs = [[], ["reconstruct"]]\nleave ='))
    names = {
        way: {r.name for r in requests(Comparison.from_toml(TEXT.replace("leave =", f"{way}\nleave =")))}
        for way in ("repair = []", 'repair = ["reconstruct"]')
    }
    assert {r.name for r in requests(both)} == names["repair = []"] | names['repair = ["reconstruct"]']
    pruned = [r for r in requests(both) if r.kind == "prune"]
    assert len(pruned) == 2 * 2 * 2 * 5  # seeds, keeps, repairs, methods with controls
    assert len({r.name for r in requests(both) if r.kind == "dense"}) == 2  # of each seed one for both


def test_without_training_only_the_controls_that_prune_run() -> None:
    text = TEXT[: TEXT.index("[[method]]")] + '[[method]]\nname = "magnitude"\n'
    assert Comparison.from_toml(text).controls == ("random", "uniform")
    with pytest.raises(SettingError, match=r"control 'dense' trains a network; add a table \[train\]"):
        Comparison.from_toml('controls = ["dense"]\n' + text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "bn_scale"', 'name = "bn_scal"', r"unknown method 'bn_scal' \(did you mean 'bn_scale'\?\)"),
        ("strength = 0.01", "strenght = 0.01", r"no setting 'strenght' \(did you mean 'strength'\?\)"),
        ("[0.5, 0.25]", "[0.5, 1.5]", r"'keeps' must be fractions in \(0, 1\], not 1.5"),
        ("[0.5, 0.25]", "[0.5, 0.5]", "'keeps' must name at least one value, each once"),
        ("[0.5, 0.25]", "0.5", r"'keeps' must be a list such as \[1, 2\], not 0.5"),
        ("keeps = [0.5, 0.25]", "keep = 0.5", r"write keeps = \[0.5\] in \[target\]"),
        ("keeps = [0.5, 0.25]", "", "does not say how much to keep"),
        ("seeds = [0, 3]", "seeds = [0, -1]", "'seeds' must be whole numbers of 0 to 4294967295, not -1"),
        (
            "seeds = [0, 3]",
            "seeds = [0, 4294967296]",
            "'seeds' must be whole numbers of 0 to 4294967295, not 4294967296",
        ),
        ("[target]", "[targets]", r"unknown setting 'targets' at the top of the recipe \(did you mean 'target'\?\)"),
        ("[target]\nkeeps", "keeps", r"unknown setting 'keeps' at the top of the recipe \(it belongs in \[target\]\)"),
        ("seeds = [0, 3]", "seed = 0", r"unknown setting 'seed' at the top of the recipe \(did you mean 'seeds'\?\)"),
        ("seeds = [0, 3]", 'controls = ["rando"]', r"unknown control 'rando' \(did you mean 'random'\?\)"),
        ('data = "mnist5k"', "", "a comparison needs data"),
        ("[method.train]\nlr = 0.5", "[method.train]\nlr = -1", "'lr' must be a number above 0"),
        ("[method.train]\nlr = 0.5", "[method.shape]\nlr = 0.5", "magnitude does not train before it decides"),
        ("[scratch]\nlr", "[scratch]\nrl", "no training setting 'rl'"),
        ("seeds = [0, 3]", "seeds = [0", "not valid TOML"),
        ("leave =", 'repairs = ["reconstruct"]\nleave =', r"'repairs' must be lists such as \[\[\], \[\"reconstruct"),
        ("leave =", 'repairs = [["polish"]]\nleave =', "'repair' must be a list of different repairs of reconstruct"),
        ("leave =", "repairs = [[], []]\nleave =", "'repairs' must name each way once"),
        ("leave =", "repairs = [[]]\nrepair = []\nleave =", "has 'repair' and 'repairs'; take one of them out"),
    ],
)
def test_bad_recipes_are_explained(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(SettingError, match=message):
        Comparison.from_toml(TEXT.replace(old, new))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingError, match=r"cannot read the recipe nowhere\.toml"):
        Comparison.read("nowhere.toml")


@pytest.mark.parametrize("more", ["", "seed = 3\n", "rounds = 1\nminutes = 1.0\n"])
def test_the_recipe_of_a_single_run_is_told_what_to_do(more: str) -> None:
    recipe = f'model = "lenet5"\ndata = "mnist5k"\n{more}[target]\nkeep = 0.5\n[method]\nname = "magnitude"\n'
    with pytest.raises(SettingError, match=r"recipe of a single run; carry it out with `secateur run`, or .*keeps"):
        Comparison.from_toml(recipe)
