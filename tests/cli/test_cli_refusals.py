"""Whatever is wrong, it is one sentence on standard error and a status, and nothing is left behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from commands import Call, Ended
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.errors import SecateurError

HALF = ("--data", "mnist5k", "--keep", "0.5")


def refused(ended: Ended, status: int, words: str) -> None:
    """Check that a command failed with one sentence."""
    assert ended.status == status, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    lines = ended.err.strip().splitlines()
    if status == 2:  # wrong usage: how it would be right, an empty line, the sentence
        assert lines[0].startswith("Usage: secateur")
        lines = lines[3:]
    said = [line for line in lines if not re.fullmatch(r".* \(\d+\.\d s\)", line)]  # stages that went well
    assert len(said) == 1
    assert re.match("(?i)error: ", said[0])
    assert re.search(words, said[0]), said[0]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--model", "nets.py:broken", *HALF], 1, "does not run on the example inputs .*3 channels"),
        (["--model", "nets.py:pinned", *HALF], 1, "nothing in Sequential can be pruned"),
        (["--model", "nets.py:poisoned", *HALF], 1, r"'2\.weight' contains NaN"),
        (["--model", "nets.py:raising", *HALF], 1, "out of luck"),
        (["--model", "nets.py:number", *HALF], 1, "int where a torch.nn.Module was expected"),
        (["--model", "nets.py:smal", *HALF], 1, "did you mean 'small'"),
        (["--model", "net.py:small", *HALF], 1, "no Python file .*net.py"),
        (["--model", "lenet6", *HALF], 1, "did you mean 'lenet5'"),
        (["--model", "lenet5", "--data", "mnist6k", "--keep", "0.5"], 1, "did you mean 'mnist5k'"),
        (["--model", "lenet5", "--data", "cifar10", "--keep", "0.5"], 1, "write cifar10:DIR"),
        (["--model", "lenet5", "--data", "cifar10:nowhere", "--keep", "0.5"], 1, "give --download to fetch it"),
        (["--model", "lenet5", *HALF, "--method", "magnitud"], 1, "did you mean 'magnitude'"),
        (["--model", "lenet5", *HALF, "--weights", "none.pth"], 1, "none.pth does not exist"),
        (["--model", "lenet5", *HALF, "--leave", "conv3"], 1, "no .* layer matches 'conv3'.*did you mean"),
        (
            ["--model", "lenet5", "--data", "mnist5k", "--keep", "0.001"],
            1,
            r"only 0\.001 .* 0\.00\d+ remain",
        ),
        (["--model", "lenet5", "--data", "mnist5k", "--keep", "0"], 1, "--keep must be a fraction above 0"),
        (["--model", "lenet5", "--data", "mnist5k", "--keep", "1.01"], 1, "--keep must be .* up to 1, not 1.01"),
        (["--model", "lenet5", "--data", "mnist5k", "--keep", "403000"], 1, "set --max-macs or --max-params to limit"),
        (["--model", "lenet5", "--data", "mnist5k"], 1, "^error: say how much to keep: a target"),
        (
            ["--model", "lenet5", *HALF, "--seed", "9223372036854775808"],
            1,
            "--seed must be .* at most 4294967295",
        ),
        (["--model", "lenet5", *HALF, "--rounds", "1" + 30 * "0"], 1, "--rounds must be .* at most 10000, not 1"),
        (["--model", "lenet5", *HALF, "--image-size", "1000000"], 1, "--image-size must be .* at most 4096"),
        (
            ["--model", "lenet5", *HALF, "--out="],
            1,
            "is no name for a (result; name a folder of its own|file; name one)",
        ),
        (["--model", "lenet5", "--data", "mnist5k", "--keep", "half"], 2, "'half' is not a number"),
        (["--model", "lenet5", "--data", "mnist5k", "--keep", "0.5", "--of", "flops"], 2, "'flops' is not one of macs"),
        (["--model", "lenet5", "--data", "mnist5k"], 1, "say how much to keep"),
        (["--data", "mnist5k", "--keep", "0.5"], 2, "Missing option '--model'"),
        (["--model", "lenet5", *HALF, "--nrom", "l2"], 2, "No such option: --nrom"),
        (
            ["--model", "lenet5", *HALF, "--scope=global"],
            2,
            "'--scope': reconstruction, which is taken where no method is named, has no such setting, but .* or "
            r"\w+ has; add --method magnitude",
        ),
        (
            ["--model", "lenet5", *HALF, "--method", "filter_std", "--norm", "l2"],
            2,
            "'--norm': filter_std has no such setting, but .*magnitude.* has; add --method magnitude",
        ),
        (["--model", "lenet5", *HALF, "--multiple", "fast"], 2, "'--multiple': 'fast' is none of INTEGER, auto"),
        (["--model", "lenet5", *HALF, "--multiple", "7.5"], 2, "'--multiple': '7.5' is none of INTEGER, auto"),
        (["--model", "lenet5", *HALF, "--multiple", "0"], 1, '--multiple must be "auto" .* at least 1, not 0$'),
        (["--model", "lenet5", *HALF, "--multiple=-3"], 1, '--multiple must be "auto" .* at least 1, not -3$'),
        (["--model", "lenet5", *HALF, "--method", "magnitude", "--norm", "l3"], 2, "'l3' is not one of l1, l2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_plan_and_prune_refuse_alike(secateur: Call, tmp_path: Path, words: list[str], status: int, sentence: str):
    before = set(tmp_path.iterdir())
    for command in (["plan"], ["prune", "--out", "new/deep/result"]):
        refused(secateur(*command, *words), status, sentence)
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr=-1"], "'lr' must be a number above 0"),
        (["--augment", "none"], "--augment says how to fine-tune, and nothing for how long: add --epochs 10, say, or "),
        (["--no-recalibrate", "--lr", "1"], "--lr says how to fine-tune, and nothing for how long"),
        (["--batch-size", "8", "--lr", "1"], "--(lr|batch-size) says how to fine-tune, and nothing for how long"),
        (["--pretrain-lr", "1"], "--pretrain-lr says how to train the dense network, .*: add --pretrain-epochs 10"),
        (["--epochs", "1", "--augment", "cropp"], "unknown augmentation 'cropp' .did you mean 'crop'"),
        (["--epochs", "1", "--data", ""], "fine-tuning needs data: name a data set with --data"),
        (["--out", "nets.py"], "nets.py is a file"),
        (["--out", "nets.py/new"], "cannot write nets.py/new.work"),
        (["--out", "full"], "full exists already; .*--force"),
        (["--export", "onx"], "--export must .* source, .*, not 'onx' .*mean 'onnx'"),
        (["--export", "keep"], "--export must .*, not 'keep'$"),
        (["--out", "full", "--force"], "full is not replaced, even with force"),
    ],
    ids=" ".join,
)
def test_prune_refuses_before_the_long_work(secateur: Call, tmp_path: Path, words: list[str], sentence: str):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    ended = secateur("prune", "--model", "lenet5", *HALF, "--out", "new", *words)
    refused(ended, 1, sentence)
    assert "(" not in ended.err.partition("error:")[0]  # no stage was gone through
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert not list(tmp_path.glob("*.work"))


def test_a_folder_that_cannot_be_written_is_named(
    secateur: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruned: Path
):
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(secateur("prune", "--model", "lenet5", *HALF, "--out", "new"), 1, "new.work: Permission denied")


def test_a_result_that_is_there_is_replaced_only_with_force(secateur: Call, pruned: Path, tmp_path: Path):
    shutil.copytree(pruned, tmp_path / "old")
    before = (tmp_path / "old" / "manifest.json").read_bytes()
    refused(secateur("prune", "--model", "lenet5", *HALF, "--out", "old"), 1, "old exists already")
    assert (tmp_path / "old" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('model = "lenet5"\ndatta = "x"\n[method]\nname = "magnitude"', "'datta' .*did you mean 'data'"),
        ('model = "lenet5"\nkeep = 0.5\n[method]\nname = "magnitude"', r"'keep' .*belongs in \[target\]"),
        ('model = "lenet5"\n[method]\nname = "magnitude"\nnrom = "l2"', "'nrom' .did you mean 'norm'"),
        ('model = "lenet5"\n[method]\nname = "magnitude"\n[train]\nepoch = 1', "'epoch' .did you mean 'epochs'"),
        ('[method]\nname = "magnitude"', "which model"),
        ("model = ", "not valid TOML"),
        ('model = "lenet5"\n[method]\nname = "magnitude"\n[target]\nmultiple = 7.5', "'multiple' must be .*not 7.5"),
    ],
)
def test_recipes_with_mistakes_are_refused(secateur: Call, tmp_path: Path, text: str, sentence: str):
    (tmp_path / "recipe.toml").write_text(text)
    refused(secateur("run", "recipe.toml"), 1, sentence)


@pytest.mark.parametrize("file", ["absent.toml", "."])
def test_a_recipe_that_is_not_there_is_named(secateur: Call, file: str):
    refused(secateur("run", file), 1, "cannot read the recipe")


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("weights.safetensors", b"short", "weights.safetensors is damaged: 5 bytes"),
        ("manifest.json", b"{", "manifest.json is damaged"),
        ("plans/001.json", None, "plans/001.json is missing"),
        ("manifest.json", None, "not a Secateur artifact"),
    ],
)
@pytest.mark.parametrize("command", [["measure"], ["export", "--format", "pt2"]], ids=lambda words: words[0])
def test_a_damaged_result_is_refused(
    secateur: Call, pruned: Path, tmp_path: Path, command: list[str], file: str, content: bytes | None, sentence: str
):
    shutil.copytree(pruned, tmp_path / "old")
    place = tmp_path / "old" / file
    place.unlink()
    if content is not None:
        place.write_bytes(content)
    refused(secateur(*command, "old"), 1, sentence)
    assert not (tmp_path / "old" / "model.pt2").exists()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["explain"], 2, "give a result folder, or name a network"),
        (
            ["explain", "--model", "resnet20", "--patience", "0.001"],
            1,
            "more than 0.001 s and stopped in .* more patience",
        ),
        (["measure", "nowhere"], 1, "no folder .*nowhere"),
        (
            ["measure", "--model", "lenet5", "--image", "28x28"],
            1,
            '--image must be channels, height and width such as "3x32x32", not .28x28',
        ),
        (["measure", "--model", "lenet5", "--image", "1x28x28", "--batch-size", "0"], 1, "batch_size must be above 0"),
        (["measure", "--model", "lenet5", "--image", "1x28x28", "--device", "gpu"], 1, "cannot use the device 'gpu'"),
        (["evaluate", "--model", "lenet5"], 1, "name a data set with --data"),
        (["show", "filterstd"], 1, "did you mean 'filter_std'"),
        (["show"], 2, "Missing argument 'METHOD'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_questions_that_cannot_be_answered(secateur: Call, words: list[str], status: int, sentence: str):
    refused(secateur(*words), status, sentence)


def test_a_result_has_its_own_network(secateur: Call, pruned: Path):
    refused(secateur("measure", pruned, "--model", "lenet5"), 2, "a result folder holds its own")


def test_weights_of_another_network_are_refused(secateur: Call, pruned: Path):
    words = ("plan", "--model", "lenet5", *HALF, "--weights", pruned / "weights.safetensors")
    refused(secateur(*words), 1, r"'conv1.bias' has shape .* but \(20,\) in the model")


class Curious(ScoreMethod):
    paper = Paper("Curious", "A. Nobody", "Nowhere", 2020, "")

    def score(self, group, problem):
        return torch.full((group.size,), problem.loss_after(Plan()))


def test_a_method_that_needs_data_says_so(secateur: Call, monkeypatch: pytest.MonkeyPatch):
    from secateur import methods

    monkeypatch.setattr(methods, "methods", lambda: {"curious": Curious})
    words = ("--model", "nets.py:coloured", "--keep", "0.9", "--method", "curious")
    refused(secateur("plan", *words), 1, "give --data")


def test_errors_that_nobody_foresaw_are_one_sentence_too(secateur: Call, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("secateur.methods.find", fail)
    refused(secateur("show", "magnitude"), 1, "ZeroDivisionError: division by zero .--debug shows where")


@pytest.mark.parametrize("way", ["flag before", "flag after", "environment"])
def test_debug_shows_where_an_error_comes_from(
    secateur: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
):
    from secateur.cli.app import app

    words = {"flag before": ["--debug", "show", "x"], "flag after": ["show", "x", "--debug"]}.get(way, ["show", "x"])
    if way == "environment":
        monkeypatch.setenv("SECATEUR_DEBUG", "1")
    with pytest.raises(SecateurError, match="unknown method 'x'"):
        app(words)


def test_json_is_not_mixed_with_errors(secateur: Call):
    refused(secateur("prune", "--model", "lenet5", *HALF, "--method", "x", "--json"), 1, "unknown method")
    assert json.loads(secateur("methods", "--json").out)["methods"]


def test_a_comparisons_recipe_is_for_compare(secateur: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "several.toml"
    for text in (
        'model = "lenet5"\ndata = "mnist5k"\n[target]\nkeeps = [0.5]\n[method]\nname = "magnitude"\n',
        'model = "lenet5"\n[[method]]\nname = "magnitude"\n[[method]]\nname = "random_units"\n',
        'model = "lenet5"\nseeds = [0, 1]\n[method]\nname = "magnitude"\n',
    ):
        recipe.write_text(text)
        refused(secateur("run", recipe, "--out", tmp_path / "out"), 1, "recipe of a comparison.*`secateur compare`")
    assert not (tmp_path / "out").exists()
