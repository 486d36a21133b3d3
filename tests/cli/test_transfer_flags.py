"""``--transfer`` and ``--pretrain-epochs``: a trained network on other data, from the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from commands import Call
from secateur import artifact
from secateur.models import build
from secateur.recipe import Recipe


def test_a_network_is_moved_trained_and_pruned(secateur: Call, tmp_path: Path):
    save_file(build("lenet5", classes=100, channels=3).state_dict(), tmp_path / "w.safetensors")
    network = ("--model", "lenet5", "--weights", "w.safetensors", "--data", "mnist5k")
    ended = secateur(
        "prune", *network, "--transfer", "--pretrain-epochs", "1", "--pretrain-lr", "0.02", "--method",
        "weak_subnetwork", "--keep", "0.6", "--no-latency", "--export", "", "--out", "new", "--json",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert found["after"]["counts"]["macs"] <= 0.6 * found["before"]["counts"]["macs"]
    assert len(found["training"]["pretrain"]["rows"]) == 1
    loaded = artifact.load(tmp_path / "new")
    assert loaded.recipe is not None
    assert loaded.recipe.transfer
    assert loaded.recipe.train is None
    assert (loaded.recipe.pretrain.epochs, loaded.recipe.pretrain.lr) == (1, 0.02)
    assert loaded.model.fc2.out_features == 10


def test_flags_of_training_are_those_of_the_first_training_with_and_without_fine_tuning(
    secateur: Call, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Recipe] = []
    monkeypatch.setattr("secateur.cli.prune.carry_out", lambda recipe, *_, **__: seen.append(recipe))
    words = ("--model", "lenet5", "--data", "mnist5k", "--keep", "0.5", "--pretrain-epochs", "2")
    words += ("--batch-size", "16", "--optimizer", "adamw", "--augment", "none", "--precision", "float32")
    for more, epochs in (((), None), (("--epochs", "0"), None), (("--epochs", "3"), 3)):
        assert secateur("prune", *words, *more).status == 0
        recipe = seen[-1]
        assert recipe.pretrain is not None
        first = recipe.pretrain
        assert (first.epochs, first.batch_size, first.optimizer, first.augment) == (2, 16, "adamw", "none")
        assert first.precision == "float32"
        assert (recipe.train and recipe.train.epochs) == epochs


def test_explain_takes_it_too(secateur: Call, tmp_path: Path):
    save_file(build("lenet5", classes=100, channels=3).state_dict(), tmp_path / "w.safetensors")
    words = ("--model", "lenet5", "--weights", "w.safetensors", "--data", "mnist5k")
    assert secateur("explain", *words, "--transfer").status == 0
    ended = secateur("explain", *words)
    assert ended.status == 1
    assert "weights of other classes need a transfer (--transfer)" in ended.err or "has shape" in ended.err


def test_what_cannot_be_is_one_sentence(secateur: Call):
    for words, sentence in (
        (
            ("--model", "lenet5", "--data", "mnist5k", "--transfer"),
            "--transfer moves trained --weights to other --data",
        ),
        (
            ("--model", "lenet5", "--data", "mnist5k", "--weights", "pretrained"),
            "nobody publishes weights for 'lenet5'",
        ),
        (("--model", "lenet5", "--pretrain-epochs", "1"), "training the dense network needs data: name a data set"),
    ):
        ended = secateur("prune", *words, "--keep", "0.5", "--out", "new", "--quiet")
        assert ended.status == 1, ended
        assert sentence in ended.err
        assert len(ended.err.strip().splitlines()) == 1
