"""Networks into files and out again: every bit comes back, and whatever a file holds is one sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from secateur.core.zeros.number_grids import output_axis, rounded
from secateur.encoding import Encoded, Encoding, decode, encode, file
from secateur.encoding.encoded import to_safetensors
from secateur.encoding.file import _digest  # pyright: ignore[reportPrivateUsage]
from secateur.errors import ArtifactError, DataError, SettingError
from shaped import data, settings

KEY = "secateur.encoding"


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a sparse network with a norm, a layer that is all zero, one that is tied, and one of few values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.Flatten(),
            nn.Linear(216, 9), nn.ReLU(), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 3),
        )  # fmt: skip
    with torch.no_grad():
        for layer in made:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight *= layer.weight.abs() > layer.weight.abs().median()
        made[3].weight.zero_()
        made[9].weight.copy_(made[9].weight.sign())
    made[8].weight = made[7].weight
    return made.to(dtype).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return encode(net(), tmp_path_factory.mktemp("encoded") / "net", Encoding(conv_bits=4, linear_bits=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_bit_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = net(dtype)
    before = copy.deepcopy(model)
    made = encode(model, tmp_path / "net", Encoding(conv_bits=4, linear_bits=3))
    again = decode(made.path, net(dtype))
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == made.model.state_dict()[name].dtype
        assert torch.equal(tensor, made.model.state_dict()[name]), name
        assert torch.equal(model.state_dict()[name], before.state_dict()[name])
        if tensor.dim() > 1:
            assert torch.equal(tensor == 0, before.state_dict()[name] == 0)
            assert len(tensor[tensor != 0].unique()) <= 2 ** (4 if tensor.dim() > 2 else 3)
        else:
            assert torch.equal(tensor, before.state_dict()[name])
    assert again[8].weight is again[7].weight
    assert torch.equal(again[9].weight, before[9].weight)  # of two values
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    assert torch.equal(again(x), made.model(x))


def test_sizes_are_those_of_the_file(made: Encoded) -> None:
    assert made.size == made.path.stat().st_size
    assert made.dense_size == 4 * (sum(tensor.numel() for tensor in net().state_dict().values()) - 81)  # which is tied
    assert made.rate == made.dense_size / made.size
    layers = {layer.name: layer for layer in made.layers}
    assert set(layers) == {"0.weight", "3.weight", "5.weight", "7.weight", "9.weight"}
    with safe_open(made.path, framework="pt") as file:
        for name, layer in layers.items():
            kinds = ("values", "numbers", "gaps", *(["steps"] if layer.steps else []))
            parts = [file.get_tensor(f"{kind}/{name}") for kind in kinds]
            assert layer.written == sum(part.numel() * part.element_size() for part in parts)
    assert layers["5.weight"].left == int((net()[5].weight != 0).sum())
    assert (layers["5.weight"].values, layers["5.weight"].bits, layers["3.weight"].values) == (8, 3, 0)
    assert layers["5.weight"].huffman / 8 < layers["5.weight"].written


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(3, 3, bias=False)], ids=["no numbers", "zeros"])
def test_networks_of_nothing_have_a_rate(model: nn.Module, tmp_path: Path) -> None:
    for weight in model.parameters():
        nn.init.zeros_(weight)
    made = encode(model, tmp_path / "net")
    assert made.rate == 4 * made.numbers / made.size
    assert made.shared_rate == 32 * made.numbers
    assert not any(tensor.any() for tensor in decode(made.path, model).state_dict().values())


def test_equal_networks_give_equal_files(made: Encoded, tmp_path: Path) -> None:
    again = encode(net(), tmp_path / "again", Encoding(conv_bits=4, linear_bits=3))
    assert again.path.read_bytes() == made.path.read_bytes()


def test_ordinary_weights_come_out_for_any_other_program(made: Encoded, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(to_safetensors(made.path))
    plain = safetensors.torch.load_file(tmp_path / "plain")
    assert all(torch.equal(tensor, made.model.state_dict()[name]) for name, tensor in plain.items())


def test_shared_values_train_and_stay_shared(tmp_path: Path) -> None:
    small = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    coding = Encoding(conv_bits=3, linear_bits=2)
    means = encode(small, tmp_path / "means", coding)
    trained = encode(
        small, tmp_path / "trained", coding, data=data(), train=settings(epochs=2, lr=0.01, optimizer="adamw")
    )
    for name in ("0.weight", "3.weight"):
        one, other = means.model.state_dict()[name], trained.model.state_dict()[name]
        assert not torch.equal(one, other)
        numbers = [tensor.unique(return_inverse=True)[1] for tensor in (one, other)]
        assert len(one.unique()) == len(other.unique())
        pairs = set(zip(*(each.flatten().tolist() for each in numbers), strict=True))
        assert len(pairs) == len(one.unique())  # who shared a value shares it still
    assert torch.equal(decode(trained.path, small)[3].weight, trained.model[3].weight)


def on_grids(bits: int) -> nn.Module:
    """Return a network as training with few bits leaves it, and pruned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.ConvTranspose2d(6, 4, 2, groups=2),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Linear(100, 3),
        )
    with torch.no_grad():
        for layer in (made[0], made[1], made[4]):
            layer.weight *= layer.weight.abs() > layer.weight.abs().median()
            layer.weight.copy_(rounded(layer.weight, bits, output_axis(layer)))
    return made.eval()


def test_what_lies_on_a_grid_stays_there(tmp_path: Path) -> None:
    model = on_grids(6)
    many = {"data": data(), "train": settings(epochs=1, lr=0.1)}
    made = encode(model, tmp_path / "net", **many)
    again = decode(made.path, on_grids(6))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    layers = {layer.name: layer for layer in made.layers}
    assert [(it.steps, it.bits <= 6) for it in layers.values()] == [(6, True), (2, True), (3, True)]
    assert made.size < encode(model, tmp_path / "plain", Encoding(conv_bits=0, linear_bits=0)).size
    with pytest.warns(UserWarning, match=r"^'4.weight' leaves the grid of 6 bits that it lies on, as 5 bits stand"):
        mixed = encode(model, tmp_path / "mixed", Encoding(linear_bits=5), **many)
    found = decode(mixed.path, model)
    assert torch.equal(found[0].weight, model[0].weight)
    assert not torch.equal(found[0].bias, model[0].bias)  # which has trained
    assert not torch.equal(found[4].weight, model[4].weight)
    with pytest.warns(
        UserWarning, match=r"^'0.weight' and 2 others leave the grids of 12 bits that they lie on, as 8 "
    ):
        encode(on_grids(12), tmp_path / "wide")


@pytest.mark.parametrize("steps", [torch.ones(5), torch.ones(6).double(), None], ids=["other size", "type", "none"])
def test_steps_that_do_not_fit_are_refused(steps: Tensor | None, tmp_path: Path) -> None:
    def change(_: dict[str, Any], parts: dict[str, Tensor]) -> None:
        parts.pop("steps/0.weight")
        parts.update({} if steps is None else {"steps/0.weight": steps})

    path = forged(encode(on_grids(6), tmp_path / "net"), tmp_path / "forged", change)
    with pytest.raises(ArtifactError, match=r"the steps of '0.weight' do not fit its shape"):
        decode(path, on_grids(6))


def test_what_cannot_be_encoded_is_refused(made: Encoded, tmp_path: Path) -> None:
    poisoned = net()
    with torch.no_grad():
        poisoned[5].weight[0, 0] = float("nan")
    with pytest.raises(SettingError, match=r"'5.weight' holds NaN or infinity"):
        encode(poisoned, tmp_path / "net")
    with pytest.raises(ArtifactError, match="exists already; give another path, or replace it with force"):
        encode(net(), made.path)
    with pytest.raises(DataError, match="training shared values needs data"):
        encode(net(), tmp_path / "net", train=settings(epochs=1))
    with pytest.raises(ArtifactError, match=r"cannot write .*nowhere"):
        encode(net(), tmp_path / "nowhere" / "net")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["another value", "interrupted"])
def test_an_older_file_stays_until_the_new_one_was_compared(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(net(), tmp_path / "net").path
    before = path.read_bytes()
    own = file.read

    def read(written: Path) -> Any:
        if fault == "interrupted":
            raise KeyboardInterrupt
        tensors, tied = own(written)
        return {name: tensor + 1 for name, tensor in tensors.items()}, tied

    monkeypatch.setattr(file, "read", read)
    wanted = KeyboardInterrupt if fault == "interrupted" else ArtifactError
    with pytest.raises(wanted, match=None if fault == "interrupted" else "does not come back from .*net as it was"):
        encode(net(), path, force=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_network_is_refused(made: Encoded, tmp_path: Path) -> None:
    other = net()
    other[9] = nn.Linear(9, 4)
    with pytest.raises(ArtifactError, match=r"'9.weight' has shape \(3, 9\)"):
        decode(made.path, other)
    with pytest.raises(ArtifactError, match=r"is not in|is only in"):
        decode(made.path, other[:5])
    with pytest.raises(ArtifactError, match=r"there is no file .*missing; check the path"):
        decode(tmp_path / "missing", net())
    with pytest.raises(ArtifactError, match=r"cannot read .*: Is a directory; check the path"):
        decode(tmp_path, net())
    (tmp_path / "plain").write_bytes(safetensors.torch.save({"x": torch.zeros(1)}))
    with pytest.raises(ArtifactError, match="holds no encoded network but other tensors"):
        decode(tmp_path / "plain", net())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="does not begin as the file of an encoded network"):
        decode(tmp_path / "text", net())


def forged(made: Encoded, path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """Return a file that somebody has changed who knows how to make the hash."""
    with safe_open(made.path, framework="pt") as file:
        facts = json.loads(file.metadata()[KEY])
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del facts["sha256"]
    change(facts, parts)
    path.write_bytes(safetensors.torch.save(parts, {KEY: json.dumps({**facts, "sha256": _digest(facts, parts)})}))
    return path


def put(*keys: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(facts: dict[str, Any], parts: dict[str, Tensor]) -> None:
        place: Any = facts
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def swap(name: str, tensor: Tensor) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda facts, parts: parts.__setitem__(name, tensor)


LAYER = ("shared_values", "5.weight")
FORGERIES = {
    "newer": (put("format", value=2), "is of a newer version; run: pip install --upgrade secateur"),
    "older than the first": (put("format", value=0), "there never was a format 0"),
    "a tensor more": (swap("junk", torch.zeros(3)), "'junk' in it is no part of a network"),
    "codes of no weight": (swap("gaps/x", torch.zeros(3)), "'gaps/x' in it is no part of a network"),
    "wider numbers": (swap("raw/5.bias", torch.zeros(9).double()), "'5.bias' has numbers of torch.float64 in .* give "),
    "tiny numbers": (swap("raw/5.bias", torch.zeros(9).to(torch.float8_e5m2)), "numbers of torch.float8_e5m2 in "),
    "a weight more": (swap("raw/x", torch.zeros(3)), "'x' is only in .*; give decode a network of the same"),
    "no format": (put("format", value="x"), "'format' is 'x' and not a whole number"),
    "huge": (put(*LAYER, "shape", value=[2**30, 2**20]), "claim to hold more numbers"),
    "negative": (put(*LAYER, "shape", value=[-9, 216]), "holds what is no size"),
    "no shape": (put(*LAYER, "shape", value="9x216"), "is no list of sizes"),
    "more weights than places": (put(*LAYER, "weights", value=10**9), "have impossible sizes"),
    "more weights than coded": (put(*LAYER, "weights", value=970), "does not hold the 970 numbers"),
    "long gaps": (put(*LAYER, "gap_bits", value=60), "have impossible sizes"),
    "other gaps": (put(*LAYER, "gap_bits", value=1), "more than 1 bits"),
    "another type": (put(*LAYER, "dtype", value="int64"), "are not such as are shared"),
    "no table": (put("shared_values", value=[]), "is .* and not a table"),
    "no codes": (put("shared_values", "x.weight", value={}), "it lacks 'shape'"),
    "tied to nothing": (put("tied", value={"a": "b"}), "table of tied tensors does not fit"),
    "no ties": (put("tied", value=3), "table of tied tensors does not fit"),
    "few values": (swap("values/5.weight", torch.ones(2)), "do not fit together"),
    "bits of text": (swap("numbers/5.weight", torch.zeros(40, dtype=torch.uint8)), "a code is damaged"),
    "codes of another type": (swap("gaps/5.weight", torch.zeros(4)), "are no bytes"),
    "twice": (swap("raw/5.weight", torch.zeros(9, 216)), "is in it twice"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_whatever_a_file_holds_is_one_sentence(kind: str, made: Encoded, tmp_path: Path) -> None:
    change, words = FORGERIES[kind]
    with pytest.raises(ArtifactError, match=words) as caught:
        decode(forged(made, tmp_path / "forged", change), net())
    assert str(tmp_path / "forged") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_of_any_byte_is_noticed(made: Encoded, tmp_path: Path) -> None:
    whole = made.path.read_bytes()
    damaged = tmp_path / "damaged"
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with pytest.raises(ArtifactError):
            decode(damaged, net())
    for end in (0, 7, 20, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:end])
        with pytest.raises(ArtifactError):
            decode(damaged, net())
