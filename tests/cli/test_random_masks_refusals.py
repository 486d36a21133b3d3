"""What cannot be drawn is refused with one sentence, before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands import Call

LENET = ("--model", "lenet5", "--data", "mnist5k", "--method", "random_masks")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*LENET, "--ratio", "0.99"], "a ratio of 0.99 removes all 50 maps of 'conv2'; ask for less"),
        ([*LENET, "--ratio", "0.9999", "--granularity", "kernels"], "removes all 1000 kernels of 'conv2'"),
        ([*LENET, "--ratio", "0.999", "--ratio-of", "weights"], "of the weights cannot go: with one map left"),
        ([*LENET, "--ratio", "1"], r"ratio must be in \[0, 1\), not 1"),
        ([*LENET, "--ratio", "0.4", "--candidates", "0"], "candidates must be at least 1, not 0"),
        ([*LENET, "--ratio", "0.4", "--keep", "0.5"], "both a target and a ratio say how much goes"),
        ([*LENET, "--granularity", "kernels", "--keep", "0.5"], "set the target in nonzero"),
        ([*LENET], "say how much goes"),
        ([*LENET, "--granularity", "strided", "--stride", "26"], r"stride 26 does not fit the 5x5 kernels of 'conv2'"),
        ([*LENET, "--granularity", "strided", "--stride", "1"], "it must lie in 2 to 25"),
        ([*LENET, "--granularity", "n:m", "--n", "4"], "4:4 is not a pattern"),
        (
            ["--model", "nets.py:coloured", "--method", "random_masks", "--ratio", "0.5", "--stem"],
            r"validation images, and there are none; give --data",
        ),
    ],
    ids=lambda value: " ".join(value[6:]) if isinstance(value, list) else "",
)
def test_one_clear_sentence(secateur: Call, tmp_path: Path, words: list[str], sentence: str) -> None:
    before = set(tmp_path.iterdir())
    for command in (["plan"], ["prune", "--out", "new"]):
        ended = secateur(*command, *words)
        assert (ended.status, ended.out) == (1, ""), ended
        said = [line for line in ended.err.strip().splitlines() if not re.fullmatch(r".* \(\d+\.\d s\)", line)]
        assert len(said) == 1, said
        assert re.search(sentence, said[0])
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ('name = "random_mask"', "unknown method 'random_mask'.*did you mean 'random_masks'"),
        ('name = "random_masks"', "say how much goes"),
        ('name = "random_masks"\nratio = 0.4\nstrid = 2', "has no setting 'strid'.*did you mean 'stride'"),
    ],
)
def test_a_stage_of_a_recipe_is_checked_before_the_first_one_runs(
    secateur: Call, tmp_path: Path, stage: str, sentence: str
) -> None:
    recipe = f"""
        model = "lenet5"
        data = "mnist5k"
        latency = false
        export = []
        [method]
        name = "random_masks"
        ratio = 0.4
        candidates = 2
        [[then]]
        [then.method]
        {stage}
    """
    (tmp_path / "recipe.toml").write_text(recipe)
    ended = secateur("run", "recipe.toml", "--out", "new")
    assert ended.status == 1
    assert re.search(sentence, ended.err.strip().splitlines()[-1])
    assert not (tmp_path / "new").exists()
