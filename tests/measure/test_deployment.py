from __future__ import annotations

import copy
import itertools
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import NETS, images, lived_in, make, norms_in
from secateur import load, prune
from secateur.core.surgery import relative_difference, run
from secateur.core.zeros.block_execution import execution_of
from secateur.errors import ModelError, SettingError, VerificationError
from secateur.measure import deploy, deployment, side_by_side
from secateur.measure.side_by_side import SideBySide

QUICK = 0.01


def ratio_of(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let every other memory format take this share of the time of the network's own."""
    monkeypatch.setattr(SideBySide, "ratio", lambda self, of, to: ratio)
    monkeypatch.setattr(SideBySide, "differ", lambda self, of, to: abs(ratio - 1) > 0.05)


@pytest.mark.parametrize("name", NETS)
def test_every_tiny_network_is_made_ready_and_computes_the_same(name: str) -> None:
    net = make(name)
    made = deploy(net, images(2), time=False)
    assert made.difference <= 1e-5
    assert made.left == ()
    assert made.times == {}
    assert made.memory_format == "contiguous"
    assert norms_in(made.model) == norms_in(net) - len(made.folded)
    for batch in (1, 2, 5):
        given = images(batch, seed=batch)
        assert relative_difference(run(net, given), run(made.model, given)) <= 1e-5


def test_the_network_stays_as_it_was_and_the_copy_is_a_network_of_its_own() -> None:
    net = make("plain").train()
    net[0][1].eval()
    net(images(4)).sum().backward()
    state = copy.deepcopy(net.state_dict())
    gradients = [parameter.grad for parameter in net.parameters()]
    made = deploy(net, images(2), seconds=QUICK)
    assert net.training
    assert not net[0][1].training
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert [parameter.grad for parameter in net.parameters()] == gradients
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(not module.training for module in made.model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in made.model.parameters())
    with torch.no_grad():
        made.model[0][0].weight.zero_()
    assert torch.equal(net[0][0].weight, state["0.0.weight"])


def test_what_is_ready_can_be_copied_saved_and_sent_back_to_training() -> None:
    net = make("squeeze and excite")
    made = deploy(net, images(2), time=False).model
    expected = net(images(3))
    made.train()
    made(images(3))
    torch.testing.assert_close(made.eval()(images(3)), expected)
    torch.testing.assert_close(copy.deepcopy(made)(images(3)), expected)
    other = deploy(make("squeeze and excite"), images(2), time=False).model
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other(images(3)), expected)


@pytest.mark.parametrize(("ratio", "chosen"), [(0.5, "channels_last"), (0.97, "contiguous"), (2.0, "contiguous")])
def test_the_faster_memory_format_is_taken_unless_within_the_noise(
    monkeypatch: pytest.MonkeyPatch, ratio: float, chosen: str
) -> None:
    ratio_of(monkeypatch, ratio)
    net = make("option A")
    made = deploy(net, images(2), seconds=QUICK, threads=1)
    assert made.memory_format == chosen
    assert set(made.times) == {"as given", "contiguous", "channels_last"}
    assert all(each.threads == 1 and each.milliseconds > 0 for each in made.times.values())
    last = made.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (chosen == "channels_last")
    torch.testing.assert_close(made.model(images(3)), net(images(3)))


def test_a_network_that_is_laid_out_already_keeps_its_memory_format_unless_the_other_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = make("plain").to(memory_format=torch.channels_last)
    assert deploy(net, images(2), time=False).memory_format == "channels_last"
    for ratio, chosen in ((1.0, "channels_last"), (0.5, "contiguous")):
        ratio_of(monkeypatch, ratio)
        assert deploy(net, images(2), seconds=QUICK).memory_format == chosen


class Viewing(nn.Module):
    """Written for contiguous maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.fc(y.view(len(y), -1))


class Storage(Viewing):
    """Reads its maps in the order in which they lie in memory."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.fc(y.as_strided((len(y), 4 * 36), (4 * 36, 1)))


@pytest.mark.parametrize("kind", [Viewing, Storage])
def test_a_network_that_needs_contiguous_maps_keeps_them(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    ratio_of(monkeypatch, 0.5)
    made = deploy(lived_in(kind()), images(2), seconds=QUICK)
    assert made.memory_format == "contiguous"
    assert made.folded == (("conv", "norm"),)
    assert set(made.times) == {"as given", "contiguous"}


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (2, 3)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 8)),
        (nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 3, 8, 8, 8)),
    ],
    ids=["linear", "1-d", "3-d"],
)
def test_networks_without_images_have_no_memory_format_to_choose(net: nn.Module, shape: tuple[int, ...]) -> None:
    made = deploy(lived_in(net), torch.randn(shape), seconds=QUICK)
    assert norms_in(made.model) == 0
    assert set(made.times) == {"as given", "contiguous"}


def test_kernels_of_3d_and_2d_convolutions_together_stay_as_they_are() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.flat, self.norm = nn.Conv3d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.flat(self.deep(x).mean(2)))

    made = deploy(lived_in(Both()), torch.randn(2, 3, 8, 8, 8), seconds=QUICK)
    assert made.memory_format == "contiguous"
    assert made.folded == (("flat", "norm"),)


def test_nothing_is_timed_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: Any, **__: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(deployment, "side_by_side", timed)
    monkeypatch.setattr(deployment, "fastest", timed)
    assert deploy(make("plain"), images(2), time=False).folded
    with pytest.raises(AssertionError, match="timed"):
        deploy(make("plain"), images(2))


def test_without_folding_the_norms_stay() -> None:
    net = make("plain")
    made = deploy(net, images(2), fold=False, time=False)
    assert made.folded == made.left == ()
    assert norms_in(made.model) == norms_in(net)
    assert made.difference == 0


class Hidden(nn.Module):
    """Keeps modules in a list of its own, where nobody can exchange them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.also, self.last = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
        )
        self.order = [self.conv, self.norm]

    def forward(self, x: Tensor) -> Tensor:
        for module in self.order:
            x = module(x)
        return self.last(self.also(x))


class ByBatch(nn.Module):
    """Reads a convolution once more on larger batches than the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.first(self.stem(x)).relu())
        return self.norm(y) + y if len(x) > 2 else self.norm(y)


@pytest.mark.parametrize(
    ("kind", "left", "folded"),
    [(Hidden, ("conv", "norm"), ("also", "last")), (ByBatch, ("conv", "norm"), ("stem", "first"))],
)
def test_a_pair_that_moves_the_outputs_is_found_and_undone(
    kind: Any, left: tuple[str, str], folded: tuple[str, str]
) -> None:
    net = lived_in(kind())
    made = deploy(net, images(2), time=False)
    assert made.left == (left,)
    assert made.folded == (folded,)
    assert made.difference <= 1e-5
    torch.testing.assert_close(made.model(images(3)), net(images(3)))


class Noisy(nn.Module):
    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.draw = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.draw()


def test_a_network_that_differs_from_itself_is_refused() -> None:
    with pytest.raises(VerificationError, match="Noisy computes something else each time"):
        deploy(Noisy(lambda: int.from_bytes(os.urandom(2), "big")), images(2), time=False)


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random], ids=["torch", "Python"])
def test_a_network_that_draws_is_compared_under_the_same_numbers(draw: Callable[[], Any]) -> None:
    net = lived_in(Noisy(draw))
    made = deploy(net, images(2), time=False)
    assert made.folded == (("conv", "norm"),)
    for seed in (1, 2):
        found = []
        for each in (net, made.model):
            torch.manual_seed(seed)
            random.seed(seed)
            found.append(each(images(3)))
        torch.testing.assert_close(*found)


def test_noise_like_maps_does_not_depend_on_the_memory_format(monkeypatch: pytest.MonkeyPatch) -> None:
    class Like(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + torch.randn_like(x)

    ratio_of(monkeypatch, 0.5)
    assert deploy(Like(), images(2), seconds=QUICK).memory_format == "channels_last"


def test_a_network_with_old_weight_norm_that_has_run_with_gradients() -> None:
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)).eval()
    net(images(2)).sum().backward()  # after which its weight is no leaf of the graph of gradients
    torch.testing.assert_close(deploy(net, images(2), seconds=QUICK).model(images(3)), net(images(3)))


def test_what_cannot_be_run_or_copied_or_set_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run on the example inputs"):
        deploy(make("plain"), torch.randn(2, 5, 8, 8))
    net = make("plain")
    net.kept = threading.Lock()
    with pytest.raises(ModelError, match="Plain cannot be copied"):
        deploy(net, images(2))
    with pytest.raises(SettingError, match="seconds"):
        deploy(make("plain"), images(2), seconds=0)
    with pytest.raises(SettingError, match="threads"):
        deploy(make("plain"), images(2), threads=0)


class Named(nn.Module):
    """Takes images and whole numbers, returns a mapping, and writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.embed = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Embedding(3, 4)

    def forward(self, image: Tensor, kind: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.conv(image.sub_(0.5)))
        return {"maps": y, "scores": y.mean((2, 3)) + self.embed(kind)}


@pytest.mark.parametrize("named", [True, False])
def test_named_and_positional_inputs_are_taken_and_left_alone(named: bool) -> None:
    inputs: Any = {"image": images(2), "kind": torch.tensor([0, 2])}
    inputs = inputs if named else tuple(inputs.values())
    before = images(2)
    made = deploy(lived_in(Named()), inputs, time=False)
    assert made.folded == (("conv", "norm"),)
    assert made.difference <= 1e-5
    assert torch.equal(inputs["image"] if named else inputs[0], before)


SEEN: list[Tensor] = []  # by all copies
TURNS = itertools.count()


class Boxed(nn.Module):
    """Notes the tables that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        SEEN.append(boxes)
        return self.layers(x).mean((2, 3)) + boxes.mean()


def test_tables_beside_images_are_compared_as_they_are_given() -> None:
    boxes = torch.tensor([[1.0, 0.0, 0.0, 4.0, 4.0], [0.0, 1.0, 1.0, 3.0, 3.0]])
    SEEN.clear()
    deploy(Boxed().eval(), (torch.randn(2, 3, 8, 8), boxes), time=False)
    assert all(any(torch.equal(row, one) for one in boxes) for table in SEEN for row in table)


class Wild(nn.Module):
    """Puts out something else each time, but for images like those of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y if x.min() >= 0 else y + next(TURNS)


def test_inputs_on_which_a_network_differs_from_itself_prove_nothing() -> None:
    assert deploy(Wild().eval(), torch.rand(2, 3, 8, 8), time=False).folded == (("layers.0", "layers.1"),)


def test_a_network_of_one_batch_size_is_compared_on_that() -> None:
    class Fixed(Viewing):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(self.conv(x)).reshape(2, -1))

    assert deploy(lived_in(Fixed()), images(2), time=False).folded


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_folded_to_their_own_rounding(dtype: torch.dtype) -> None:
    net = make("sigmoid").to(dtype)
    made = deploy(net, images(2, dtype=dtype), time=False)
    assert norms_in(made.model) == 0
    assert made.difference <= deployment.TOLERANCES[dtype]
    assert {parameter.dtype for parameter in made.model.parameters()} == {dtype}


def test_a_choice_that_rounding_turns_over_is_told_from_an_error() -> None:
    class Choosing(Viewing):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x)).mean((2, 3))
            return (y * 1e9).frac().round() if y.dtype == torch.float32 else y

    made = deploy(lived_in(Choosing()), images(2), time=False)
    assert made.folded == (("conv", "norm"),)
    assert made.difference <= 1e-5


def test_hooks_stay_and_what_they_watch_is_not_folded() -> None:
    seen: list[str] = []
    net = make("plain")
    net[0][1].register_forward_hook(lambda module, given, output: seen.append("norm"))
    made = deploy(net, images(2), time=False)
    assert made.folded == (("2.0", "2.1"),)
    seen.clear()
    made.model(images(2))
    assert seen == ["norm"]


def test_layers_with_a_choice_run_as_is_faster_and_their_norms_stay() -> None:
    result = prune(make("plain"), images(2), method="self_grouping", target=0.6, latency=False)
    before = execution_of(result.model)
    made = deploy(result.model, images(2), seconds=QUICK)
    assert before
    assert execution_of(made.model).keys() == before.keys()
    assert execution_of(result.model) == before
    torch.testing.assert_close(made.model(images(3)), result.model(images(3)))


def test_a_result_and_its_folder_give_a_network_ready_to_run(tmp_path: Any) -> None:
    net = make("plain")
    result = prune(net, images(2), method="magnitude", target=0.6, latency=False)
    expected = result.model(images(3))
    ready = result.deploy(time=False)
    assert norms_in(ready) == 0
    assert norms_in(result.model) == norms_in(net)
    torch.testing.assert_close(ready(images(3)), expected)
    result.save(tmp_path / "small")
    again = load(tmp_path / "small", dense=net).deploy(time=False)
    assert norms_in(again) == 0
    torch.testing.assert_close(again(images(3)), expected)


def test_what_is_ready_can_be_timed_beside_the_network() -> None:
    net = make("plain")
    timed = side_by_side({"a": net, "b": deploy(net, images(2), time=False).model}, images(2), seconds=QUICK)
    assert timed.differences["b"] <= 1e-5
