from __future__ import annotations

import ctypes
import importlib.util
import itertools
import sys

import pytest
import torch
from torch import Tensor, nn

import nets
from secateur.errors import ModelError, SettingError
from secateur.measure import RUNTIMES, installed, latency, missing, runtimes, side_by_side
from secateur.measure.runtimes import Ready, difference, ready, threads_set, verified
from secateur.measure.side_by_side import MOST_ROUNDS, ROUNDS

FOREIGN = [name for name in ("onnxruntime", "openvino") if not missing(name)]  # type: ignore[arg-type]


class SignalStack(ctypes.Structure):
    """What Linux calls stack_t."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int, int]:
    """Return where this thread handles signals: the address, flags and size of its alternative stack."""
    now = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now)) == 0
    return now.address, now.flags, now.size


class Named(nn.Module):
    """Takes its inputs by name and returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, shift: Tensor) -> dict[str, Tensor]:
        y = self.conv(image)
        return {"map": y - shift, "mean": y.mean((2, 3))}


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are laid out as Linux does")
@pytest.mark.parametrize("runtime", FOREIGN)
def test_a_runtime_leaves_the_signal_stack_of_its_caller(runtime: str) -> None:
    """A stack that is freed and still set kills the process at its next signal, such as the end of a child."""
    before = signal_stack()
    with torch.inference_mode():
        two = [ready(nets.Plain().eval(), torch.randn(2, 3, 8, 8), runtime, 1) for _ in range(2)]  # type: ignore[arg-type]
    assert all(made.outputs() for made in two)
    assert signal_stack() == before
    while two:
        del two[0]  # in the order in which they were made
        assert signal_stack() == before


@pytest.mark.parametrize("runtime", ["channels_last", *FOREIGN])
def test_every_runtime_computes_what_eager_computes(runtime: str) -> None:
    model, x = nets.Plain().train(), torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode(), threads_set(1):
        made = ready(model.eval(), x, runtime, 1)  # type: ignore[arg-type]
    assert difference(model, x, made) < 1e-5
    with torch.inference_mode():
        torch.testing.assert_close(made.outputs()[0], model(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("runtime", ["onnxruntime_int8", "openvino_int8"])
def test_int8_is_near_to_eager_and_no_more(runtime: str) -> None:
    if missing(runtime):  # type: ignore[arg-type]
        pytest.skip(f"{runtime} is not installed")
    model, x = nets.Plain().eval(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode(), threads_set(1):
        made = ready(model, x, runtime, 1)  # type: ignore[arg-type]
    assert 1e-4 < verified(model, x, made, runtime) < 0.1  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", FOREIGN)
def test_tuples_and_names_of_inputs_and_several_outputs(runtime: str) -> None:
    model, image, shift = Named().eval(), torch.randn(1, 3, 6, 6), torch.randn(1, 4, 1, 1)
    for inputs in ((image, shift), {"shift": shift, "image": image}):
        with torch.inference_mode():
            made = ready(model, inputs, runtime, 1)  # type: ignore[arg-type]
        assert difference(model, inputs, made) < 1e-5
        assert [tuple(x.shape) for x in made.outputs()] == [(1, 4, 4, 4), (1, 4)]


@pytest.mark.parametrize("runtime", FOREIGN)
def test_latency_in_a_foreign_runtime(runtime: str) -> None:
    model = nets.Plain().train()
    found = latency(model, torch.randn(3, 3, 8, 8), threads=1, seconds=0.02, runtime=runtime)  # type: ignore[arg-type]
    assert (found.runtime, found.threads, found.batch_size, found.device) == (runtime, 1, 3, "cpu")
    assert found.milliseconds > 0
    assert model.training


def test_other_outputs_are_not_believed() -> None:
    model, x = nn.Linear(2, 2), torch.randn(1, 2)
    wrong = Ready(lambda: None, lambda: [model(x).detach() * 1.01])
    assert difference(model, x, wrong) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ModelError, match=r"openvino computes something else than PyTorch .*differ by 1\.0e-02"):
        verified(model, x, wrong, "openvino")
    for strange in ([], [model(x)[:, :1]], [model(x) * torch.nan]):
        assert difference(model, x, Ready(lambda: None, lambda strange=strange: strange)) == float("inf")


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name))
    assert "openvino" not in installed()
    with pytest.raises(SettingError, match=r'openvino needs the package openvino; run: pip install "secateur\[openv'):
        latency(nn.Linear(2, 2), torch.randn(1, 2), runtime="openvino")
    with pytest.raises(SettingError, match=r"timed on the CPU only"):
        raise SettingError(missing("onnxruntime", "cuda"))
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    assert "C++ compiler" in missing("compile")
    assert set(installed()) <= set(RUNTIMES) - {"compile", "openvino"}


def test_side_by_side_takes_turns_and_sees_the_larger_network() -> None:
    order: list[str] = []

    class Noted(nn.Linear):
        def __init__(self, name: str, width: int) -> None:
            super().__init__(width, width)
            self.called = name

        def forward(self, input: Tensor) -> Tensor:
            order.append(self.called)
            return super().forward(input[..., : self.in_features])

    found = side_by_side(
        {"large": Noted("large", 512), "small": Noted("small", 8)}, torch.randn(64, 512), threads=1, seconds=0.1
    )
    assert found.ratio("large", "small") > 1.5
    assert found.ratio("small", "large") == pytest.approx(1 / found.ratio("large", "small"), rel=0.2)
    assert ROUNDS <= len(found.turns["large"]) == len(found.turns["small"]) <= MOST_ROUNDS
    assert found.latencies["large"].runs >= ROUNDS
    assert found.differences == {"large": 0.0, "small": 0.0}
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes >= 11  # each turn has both


def test_side_by_side_refuses_what_latency_refuses() -> None:
    with pytest.raises(SettingError, match="did you mean 'eager'"):
        side_by_side({}, torch.randn(1), "eagre")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="threads must be a whole number of threads, at least 1"):
        side_by_side({"a": nn.Linear(1, 1)}, torch.randn(1, 1), threads=0)


@pytest.mark.parametrize("runtime", ["eager", "channels_last", "onnxruntime"])
def test_a_network_that_draws_is_timed_where_it_computes_the_same_with_the_same_numbers(runtime: str) -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + torch.randn_like(x) * x

    torch.manual_seed(0)
    found = side_by_side({"a": Draws(), "b": Draws()}, torch.randn(2, 3, 8, 8), runtime, seconds=0.01)
    assert max(found.differences.values()) < 1e-5
