"""What is said before the work: layers not run, weights never trained, validation images that are known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur import Recipe, prune, run_recipe
from secateur.budget import Budget
from secateur.data import from_arrays
from secateur.errors import ModelError, SettingError, TargetError
from secateur.events import Event, ignore, once
from secateur.run import preflight

IMAGE = torch.zeros(1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.wide, self.head = nn.Conv2d(12, 70, 3, padding=1), nn.Linear(70, 5)
        for parameter in self.parameters():  # as of a trained network
            nn.init.normal_(parameter, std=0.7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        if x.mean() > 0.5:
            y = self.more(y).relu()
        return self.head(self.wide(y).relu().mean((2, 3)))


def warned(net: nn.Module, inputs: Tensor = IMAGE, target: float = 0.7) -> list[str]:
    heard: list[Event] = []
    prune(net, inputs, "magnitude", target, latency=False, rounds=2, tell=heard.append)
    return [event.text for event in heard if event.stage == "warning"]


def test_layers_that_are_not_run_are_named_once() -> None:
    (text,) = warned(Net().eval())
    assert text.startswith("the example inputs do not run 'more', so that all channels stay")
    assert not warned(Net().eval(), IMAGE + 1)


def test_a_part_that_training_would_run_is_named_once_with_what_is_in_its_way() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.more
            self.aux = nn.Sequential(nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)), nn.Conv2d(12, 12, 9))

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).relu()
            if self.training:
                self.aux(y)
            return self.head(self.wide(y).relu().mean((2, 3)))

    (text,) = warned(Auxiliary().eval())
    said = (
        "the example inputs do not run 'aux' (training mode, which could, fails on them: Calculated padded input size"
    )
    assert text.startswith(said)
    assert not warned(Auxiliary().eval(), torch.zeros(1, 3, 16, 16))


def test_nobody_listening_python_warns_where_the_library_was_called() -> None:
    with pytest.warns(UserWarning, match="do not run 'more'") as caught:
        prune(Net().eval(), IMAGE, "magnitude", 0.7, latency=False)
    assert [Path(each.filename) for each in caught] == [Path(__file__)]


def test_where_it_leaves_nothing_the_refusal_says_so() -> None:
    net = Net().eval()
    net.wide = nn.Conv2d(12, 12, 3, padding=1)
    net.head = nn.Linear(12, 5)
    with pytest.raises(
        TargetError, match=r"nothing in Net can be pruned: .* \(the example inputs do not run 'more'; give"
    ):
        prune(net, IMAGE, "magnitude", 0.7, latency=False)


def scripted() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 16, 3))), nn.Conv2d(16, 8, 3))


def prepared() -> nn.Module:
    ao = torch.ao.quantization
    net = nn.Sequential(ao.QuantStub(), nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), ao.DeQuantStub()).eval()
    net.qconfig = ao.get_default_qconfig("x86")
    return ao.prepare(net)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "leave", "remedy"),
    [
        (Net, ("stem", "wide"), "the example inputs do not run 'more'; give example inputs that run it, or delete it"),
        (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)), ("0",), "'0': left alone as asked; drop the"),
        (scripted, (), "'0' is a scripted network, whose layers stay; give the module that it was made from"),
        (prepared, (), r"'1': '1.activation_post_process' is prepared for quantisation, .*; prune the network before"),
    ],
)
def test_the_refusal_says_what_to_do(make: Callable[[], nn.Module], leave: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(TargetError, match=rf"every channel is pinned or left alone \({remedy}"):
        prune(make().eval(), IMAGE, "magnitude", 0.7, leave=leave, latency=False)


def test_random_weights_are_said_once() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5))
    said = [
        text for text in warned(net) if text.startswith("the weights of Sequential are as they were drawn at random")
    ]
    assert len(said) == 1


def test_a_recipe_without_weights_says_so_too() -> None:
    heard: list[Event] = []
    run_recipe(Recipe(model="resnet20", method="magnitude", keep=0.5, latency=False), tell=heard.append)
    assert ["drawn at random" in event.text for event in heard if event.stage == "warning"] == [True]


def test_a_network_for_one_batch_size_is_not_returned() -> None:
    class OneRow(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.wide(self.more(self.stem(x).relu()).relu()).relu().mean((2, 3))
            return self.head(y if y.numel() % 70 == 0 else y.reshape(1, -1)[:, :70])

    twice = torch.cat([IMAGE, IMAGE])
    result = prune(OneRow().eval(), IMAGE, "magnitude", 0.7, latency=False)
    assert result.model(twice).shape == (2, 5)  # the code's own width stays
    assert "wide" not in result.plans[0].dropped()


def test_a_listener_can_hear_a_warning_once() -> None:
    heard: list[Event] = []
    tell = once(heard.append)
    for event in (Event("warning", "a"), Event("plan", "a"), Event("warning", "a"), Event("plan", "a")):
        tell(event)
    assert [event.stage for event in heard] == ["warning", "plan", "plan"]
    assert once(ignore) is ignore


def test_trained_networks_that_run_throughout_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(Net().eval(), IMAGE + 1, "magnitude", 0.7, latency=False)


def test_a_module_can_be_left_alone_and_is_suggested() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
            self.more, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.more(self.body(x)).mean((2, 3)))

    net = Parts().eval()
    assert [group.name for group in preflight.read(net, IMAGE, ("body",)).free] == ["more"]
    with pytest.raises(SettingError, match=r"matches 'bodi', .* \(did you mean 'body'\?\)"):
        preflight.read(net, IMAGE, ("bodi",))


@pytest.mark.parametrize("method", ["magnitude", "filter_std", "reconstruction", "random_units"])
def test_a_missing_target_is_said_before_anything_is_read_or_built(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: object, **__: object) -> object:
        raise AssertionError("work was begun")

    given = "secateur.run.given_inputs"
    for place in (f"{given}.load_data", f"{given}.named_images", "secateur.run.pruning.build"):
        monkeypatch.setattr(place, touched)
    for place in ("secateur.run.subject.load_data", "secateur.run.subject.build"):
        monkeypatch.setattr(place, touched)
    with pytest.raises(TargetError, match="say how much to keep"):
        prune("lenet5", None, method, data="mnist5k")
    with pytest.raises(TargetError, match="say how much to keep"):
        prune(Net(), None, method, calibrate=tmp_path)
    with pytest.raises(TargetError, match="say how much to keep"):
        run_recipe(Recipe(model="lenet5", data="mnist5k", method=method))
    with pytest.raises(AssertionError, match="work was begun"):  # a budget tells later
        prune("lenet5", None, method, data="mnist5k", budget=Budget(max_macs=0.5))


def test_without_data_a_network_is_run_on_images_of_its_own_size() -> None:
    result = run_recipe(Recipe(model="lenet5", method="magnitude", keep=0.5, latency=False), tell=[].append)
    assert result.example_inputs.shape == (1, 1, 28, 28)
    assert result.after.counts.macs < 0.51 * result.before.counts.macs


COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, 0], [0, -1, -1]])


def learnable(count: int) -> tuple[Tensor, Tensor]:
    """Return images, (N, 3, 8, 8), whose colour tells the label."""
    labels = torch.arange(count) % 5
    return COLOURS[labels][:, :, None, None].expand(-1, -1, 8, 8).clone(), labels


class Judge(nn.Module):
    """Tells five colours apart without any training."""

    def __init__(self) -> None:
        super().__init__()
        self.tint, self.head = nn.Conv2d(3, 10, 1, bias=False), nn.Linear(10, 5, bias=False)
        with torch.no_grad():
            self.tint.weight.copy_(torch.cat([COLOURS, -COLOURS])[:, :, None, None])
            self.head.weight.copy_(torch.cat([torch.eye(5), -torch.eye(5)], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tint(x).mean((2, 3)))


@pytest.mark.parametrize(("right", "known"), [(40, False), (38, False), (8, True)])
def test_validation_images_that_the_network_knows_are_told_of_once(right: int, known: bool) -> None:
    """The test images have the labels that the network gives to so many of them, and others."""
    images, labels = learnable(40)
    moved = torch.where(torch.arange(40) < right, labels, (labels + 1) % 5)
    data = from_arrays(learnable(60), (images, moved), learnable(40), mean=(0.0,) * 3, std=(1.0,) * 3, classes=5)
    heard: list[Event] = []
    prune(Judge(), method="magnitude", target=0.7, data=data, latency=False, repair=(), rounds=2, tell=heard.append)
    texts = [event.text for event in heard if event.stage == "warning" and "trained on the former" in event.text]
    assert len(texts) == known
    assert not known or "100.0 % of 40 validation images right and 20.0 % of the test images" in texts[0]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_none_is_found_and_large_ones_are_no_trouble(wrong: float) -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.fill_(3e38)  # whose sum is none of float32
    preflight.check_weights(net)
    with torch.no_grad():
        net.weight[1, 0] = wrong
    with pytest.raises(ModelError, match="'weight' contains NaN or infinite values"):
        preflight.check_weights(net)
