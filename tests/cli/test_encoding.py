"""``encode`` and ``decode``: a result's weights in one small file, and out of it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from commands import Call
from secateur import artifact, load
from secateur.cli.encode import _against  # pyright: ignore[reportPrivateUsage]
from secateur.encoding import Encoded, decode

BRIEF = ("--linear-bits", "1", "--conv-bits", "1", "--epochs", "0")


@pytest.fixture
def small(pruned: Path, tmp_path: Path) -> Path:
    shutil.copytree(pruned, tmp_path / "small")
    return tmp_path / "small"


def test_there_and_back(secateur: Call, small: Path) -> None:
    done = secateur("encode", small, *BRIEF, "--quiet")
    assert done.status == 0, done.err
    assert "times fewer than the" in done.said
    assert "fc1.weight" in done.out
    artifact.check(small)
    network = load(small).model
    again = decode(small / "weights.encoded", network)
    assert len(again.get_parameter("fc1.weight").unique()) <= 3
    assert torch.equal(again.get_parameter("fc1.bias"), network.get_parameter("fc1.bias"))
    assert secateur("decode", small / "weights.encoded", "--out", "plain.safetensors", "-q").status == 0
    plain = safetensors.torch.load_file("plain.safetensors")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in plain.items())
    for words in (("encode", small), ("decode", small / "weights.encoded", "--out", "plain.safetensors")):
        refused = secateur(*words)
        assert refused.status == 1
        assert "exists already; name another with --out, or replace it with --force" in refused.err


def test_as_json_elsewhere(secateur: Call, small: Path) -> None:
    done = secateur("encode", small, "--out", "net.encoded", "--json", *BRIEF)
    found = json.loads(done.out)
    assert found["bytes"] == Path("net.encoded").stat().st_size
    assert found["rate"] == found["float32_bytes"] / found["bytes"]
    assert {layer["name"] for layer in found["layers"]} == {
        f"{name}.weight" for name in ("conv1", "conv2", "fc1", "fc2")
    }
    assert "weights.encoded" not in artifact.manifest.manifest(small)["files"]


@pytest.mark.parametrize(("size", "words"), [(50, "2 times fewer than"), (120, "20 more than")])
def test_files_that_grow_are_not_said_to_shrink(size: int, words: str) -> None:
    assert _against(Encoded(Path("net"), nn.ReLU(), size, 25, ())) == words


def test_refusals(secateur: Call, small: Path) -> None:
    assert "nothing says how to train its values; take epochs 0" in secateur("encode", small, "--epochs", "1").err
    assert "gap_bits must be 1 to 7, not 9" in secateur("encode", small, "--gap-bits", "9").err
    ended = secateur("decode", small / "weights.safetensors", "--out", "plain.safetensors")
    assert "holds no encoded network but other tensors" in ended.err
    assert "there is no file nowhere; check" in secateur("decode", "nowhere", "--out", "plain.safetensors").err
    assert (
        "weights.safetensors is no folder of a result; check" in secateur("encode", small / "weights.safetensors").err
    )
    assert not Path("plain.safetensors").exists()
