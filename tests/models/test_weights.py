from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.models import build, load_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def state(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else value + 7
        for name, value in net().state_dict().items()
    }


def equal(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return list(own) == list(wanted) and all(torch.equal(own[name], wanted[name]) for name in own)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "best": 0.9},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"net": s, "acc": 91.2},
        lambda s: {"model_state_dict": s},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {f"module.{name}": value for name, value in s.items()},
        lambda s: {f"_orig_mod.module.{name}": value for name, value in s.items()},
        lambda s: {"state_dict": {f"module._orig_mod.{name}": value for name, value in s.items()}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_in_any_wrapping(wrap: Callable[[Any], Any], legacy: bool, tmp_path: Path) -> None:
    torch.save(wrap(state()), tmp_path / "w.th", _use_new_zipfile_serialization=not legacy)
    model = net()
    load_weights(model, tmp_path / "w.th")
    assert equal(model, state())


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_safetensors_by_content(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({f"module.{key}": value for key, value in state().items()}, tmp_path / name)
    model = net()
    load_weights(model, str(tmp_path / name))
    assert equal(model, state())


def test_wrapped_model_takes_plain_weights(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    inner = net()
    load_weights(nn.DataParallel(inner), tmp_path / "w.pt")
    assert equal(inner, state())


def test_prefix_that_only_some_names_share_is_kept(tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.head = nn.Linear(2, 1)

    source, model = Model(), Model()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert equal(model, source.state_dict())


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    old = {name: value for name, value in state().items() if "num_batches_tracked" not in name}
    torch.save(old, tmp_path / "w.pt")
    model = net()
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in old.items())
    assert int(model[1].num_batches_tracked) == 0  # type: ignore[arg-type]


def test_half_precision_file_becomes_the_type_of_the_model(tmp_path: Path) -> None:
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state().items()}, tmp_path / "w.pt")
    model = net()
    load_weights(model, tmp_path / "w.pt")
    assert model[3].weight.dtype == torch.float32
    assert torch.equal(model[3].weight, state()["3.weight"].half().float())


@pytest.mark.parametrize(("name", "head"), [("resnet20", "linear"), ("resnet20_projection", "fc")])
def test_field_checkpoints_fit_the_built_in_networks(name: str, head: str, tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (16, 3, 3, 3), f"{head}.weight": (10, 64)}
    shapes[f"{head}.bias"] = (10,)
    norms = {"bn1": 16}
    for layer, width in (("layer1", 16), ("layer2", 32), ("layer3", 64)):
        for block in range(3):
            inputs = width // 2 if block == 0 and width > 16 else width
            shapes[f"{layer}.{block}.conv1.weight"] = (width, inputs, 3, 3)
            shapes[f"{layer}.{block}.conv2.weight"] = (width, width, 3, 3)
            norms |= {f"{layer}.{block}.bn1": width, f"{layer}.{block}.bn2": width}
            if inputs != width and head == "fc":
                shapes[f"{layer}.{block}.downsample.0.weight"] = (width, inputs, 1, 1)
                norms[f"{layer}.{block}.downsample.1"] = width
    for norm, width in norms.items():
        shapes |= {f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    weights = {f"module.{key}": torch.rand(shape) for key, shape in shapes.items()}
    torch.save({"state_dict": weights, "best_prec1": 91.7}, tmp_path / "w.th")
    model = build(name)
    load_weights(model, tmp_path / "w.th")
    assert all(torch.equal(model.state_dict()[key], weights[f"module.{key}"]) for key in shapes)


def without(*names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state().items() if name not in names}


def poisoned() -> dict[str, Tensor]:
    weights = state()
    weights["3.weight"][1, 2] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("0.weight"), r"1 entry \(0\.weight\) of the model is missing$"),
        (
            without("0.weight", "1.weight", "1.bias", "3.bias"),
            r"4 entries \(0\.weight, 1\.weight, 1\.bias, \.\.\.\) of the model are missing$",
        ),
        ({**state(), "extra.weight": torch.ones(1)}, r"1 entry \(extra\.weight\) is unknown to the model$"),
        (
            {**without("3.bias"), "b": torch.ones(1)},
            r"\(3\.bias\) .* is missing, and 1 entry \(b\) is unknown",
        ),
        (
            {**state(), "3.weight": torch.ones(5, 4)},
            r"'3\.weight' has shape \(5, 4\) in .* but \(2, 4\) in the model; weights of other classes need a transfer",
        ),
        (
            {**state(), "1.weight": torch.ones(3), "1.bias": torch.ones(3), "3.weight": torch.ones(2, 3)},
            r"'1\.weight' has shape .*; weights of other widths, as a pruned network has them, are loaded with its",
        ),
        (poisoned(), r"'3\.weight' in .* holds NaN"),
        ({"epoch": 3, **state()}, "entry 'epoch' is int and not a tensor"),
        ({}, "holds no tensors"),
        ([1, 2], "holds list and not a state dict"),
        (torch.ones(3), "holds Tensor and not a state dict"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "w.pt")
    assert equal(model, before)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", [net(), {"state_dict": state(), "args": argparse.Namespace(lr=0.1)}])
def test_pickled_code_is_refused(content: object, legacy: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"contains more than tensors, .*state_dict\(\)"):
        load_weights(net(), tmp_path / "w.pt")


def test_missing_file_suggests_a_neighbour(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "resnet20.pt")
    with pytest.raises(ModelError, match=r"does not exist \(did you mean 'resnet20.pt'\?\)"):
        load_weights(net(), tmp_path / "resnet20.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match="is a folder, not a file; check the path"):
        load_weights(net(), tmp_path / "folder")
    with pytest.raises(ModelError, match="does not exist"):
        load_weights(net(), tmp_path / "none" / "w.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_damaged(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    torch.save(state(), path) if suffix == "pt" else safetensors.torch.save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged or not a weights file"):
        load_weights(net(), path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{"]),
    rest=st.binary(max_size=200),
)
def test_any_other_file_is_refused_in_one_sentence(start: bytes, rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(start + rest)
    with pytest.raises(ModelError) as caught:
        load_weights(net(), path)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_compressed_is_refused_before_it_is_expanded(tmp_path: Path):
    model = nn.Linear(256, 256)
    with torch.no_grad():
        model.weight.zero_()
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    load_weights(nn.Linear(256, 256), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(ModelError, match=r"bomb\.pt is compressed and would take 26\d,\d\d\d bytes"):
        load_weights(model, tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    "odd",
    [
        torch.empty(2, 2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8),
    ],
)
def test_tensors_without_plain_numbers_are_refused(odd: torch.Tensor, tmp_path: Path):
    torch.save({"weight": odd, "bias": torch.zeros(2)}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=r"odd\.pt"):
        load_weights(nn.Linear(2, 2), tmp_path / "odd.pt")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path: Path):
    inside: dict[str, object] = {}
    inside["state_dict"] = inside
    torch.save(inside, tmp_path / "round.pt")
    with pytest.raises(ModelError, match="checkpoints in checkpoints"):
        load_weights(nn.Linear(2, 2), tmp_path / "round.pt")


def test_a_header_out_of_proportion_is_not_read(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes((2**30).to_bytes(8, "little") + b"{" + bytes(100))
    with pytest.raises(ModelError, match=r"w\.safetensors is damaged"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
