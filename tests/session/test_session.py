"""A network that a session prunes while somebody trains it ends as the same steps by hand would leave it."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import STEPS, batch, image, network, opened, same, sgd, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from nets import conv
from secateur.core.surgery import run
from secateur.errors import ArtifactError, ModelError, SecateurError, SettingError, TargetError
from secateur.session import Session

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda net: torch.optim.SGD(
        [
            {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 1e-3},
            {"params": [p for p in net.parameters() if p.dim() <= 1], "lr": 0.02},
        ],
        lr=0.05,
        momentum=0.9,
        nesterov=True,
    ),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), 0.01, amsgrad=True),
    "adafactor": lambda net: torch.optim.Adafactor(net.parameters(), 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_session_does_what_the_same_steps_by_hand_do(name: str) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Any, AveragedModel]:
        net = network()
        optimizer = OPTIMIZERS[name](net)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return net, optimizer, scheduler, AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)

    def epoch(net: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, average: Any, number: int) -> None:
        for seed in range(2):
            train(net, optimizer, 10 * number + seed)
            average.update_parameters(net)
        scheduler.step()

    net, optimizer, scheduler, average = begin()
    whole = secateur.size(secateur.trace(net, image())).macs
    session = opened(net)
    for number in range(STEPS + 1):
        epoch(net, optimizer, scheduler, average, number)
        session.step(optimizer, scheduler, average)

    hand, steered, timer, mean = begin()
    for number in range(STEPS + 1):
        epoch(hand, steered, timer, mean, number)
        if number < STEPS:
            left = secateur.size(secateur.trace(hand, image())).macs
            keep = 0.5 ** ((number + 1) / STEPS) * whole / left
            limits = secateur.Limits(multiple=1)
            steered.zero_grad()
            result = secateur.prune(hand, image(), "magnitude", keep, limits=limits, repair=(), latency=False)
            graph, plan = result.graph, result.plans[0]
            secateur.migrate_optimizer(steered, hand, result.model, graph, plan)
            mean.module = secateur.apply(mean.module, graph, plan)
            hand = result.model

    assert same(net, hand)
    assert same(average.module, mean.module)
    assert optimizer.param_groups[0]["lr"] == steered.param_groups[0]["lr"]
    assert session.kept <= 0.5
    assert session.finished


@pytest.mark.parametrize("schedule", ["geometric", "linear"])
def test_the_goal_is_reached_in_so_many_cuts(schedule: str) -> None:
    session = opened(network(), of="params", schedule=schedule)
    kept = [session.step().kept for _ in range(STEPS)]
    wanted = [0.5 ** (1 / 3), 0.5 ** (2 / 3), 0.5] if schedule == "geometric" else [5 / 6, 4 / 6, 0.5]
    for found, most in zip(kept, wanted, strict=True):
        assert most - 0.06 < found <= most


def test_a_target_says_of_what(recwarn: pytest.WarningsRecorder) -> None:
    session = opened(network(), keep=secateur.Target(0.6, "params"), steps=1)
    cut = session.step()
    assert cut.size.params <= 0.6 * sum(p.numel() for p in network().parameters())
    assert sum(p.numel() for p in session.model.parameters()) == cut.size.params == session.size.params


def test_steps_that_are_not_due_or_come_after_the_goal_do_nothing_and_say_so() -> None:
    net = network()
    heard: list[str] = []
    session = opened(net, steps=1, every=2, tell=lambda event: heard.append(event.text))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    early = session.step()
    assert not early
    assert "one of 2 calls" in early.note
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert session.step()
    shapes = [p.shape for p in net.parameters()]
    late = session.step()
    assert not late
    assert late.note == f"nothing was cut: the goal is reached, {session.kept:.3f} of the MACs is left"
    assert late.note in heard
    assert [p.shape for p in net.parameters()] == shapes
    assert len(session.finish(latency=False).plans) == 1


def test_a_size_of_ones_own_is_cut_to_at_once() -> None:
    net = network()
    optimizer = sgd(net)
    session = opened(net, every=5)
    assert 0.7 < session.step(optimizer, keep=0.8).kept <= 0.8
    assert session.cuts == 0
    with pytest.raises(SettingError, match=r"keep=0.9 is more than what is left: 0.7\d+ of the MACs"):
        session.step(optimizer, keep=0.9)
    with pytest.raises(SettingError, match=r"keep must be a number, not 'half'; correct this argument of Session.step"):
        session.step(optimizer, keep="half")  # type: ignore[arg-type]
    train(net, optimizer, 0)


def test_cuts_of_the_schedule_that_need_nothing_are_passed_over() -> None:
    session = opened(network())
    session.step(keep=0.6)
    first = session.step()
    assert not first
    assert "nothing had to be cut for 0.794" in first.note
    assert session.cuts == 1
    session.step()
    assert session.step()
    assert session.kept <= 0.5


def test_what_cannot_be_reached_changes_nothing() -> None:
    net = network()
    optimizer = sgd(net)
    train(net, optimizer, 0)
    session = opened(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(TargetError):
        session.step(optimizer, keep=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert session.step(optimizer)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": 1.5}, "keep must be in"),
        ({"keep": None}, "say how much to keep"),
        ({"steps": 0}, "steps must be a whole number of at least 1.*of Session"),
        ({"schedule": "cubic"}, "schedule must be one of geometric, linear"),
        ({"of": "flops"}, "of must be one of macs"),
        ({"leave": ("nowhere",)}, "no convolution or linear layer matches 'nowhere'"),
        ({"method": "magnitud"}, "did you mean 'magnitude'"),
        ({"method": secateur.METHODS["magnitude"](allocate="latency")}, "a session times nothing"),
        ({"example_inputs": None}, "give example_inputs, or data or calibrate"),
        ({"model": 3}, "model must be a network"),
    ],
)
def test_what_a_session_cannot_do_is_said_at_once(given: dict[str, Any], said: str) -> None:
    asked = {"model": network(), "example_inputs": image(), "method": "magnitude", "keep": 0.5, **given}
    with pytest.raises(SecateurError, match=said):
        Session(**asked)


def test_a_session_without_a_goal_measures_in_what_was_named() -> None:
    method = secateur.METHODS["magnitude"](keeps=(("0.0", 0.75),))
    session = opened(network(), method, keep=None, of="params", steps=2)
    cut = session.step()
    params = sum(p.numel() for p in network().parameters())
    assert cut.kept == session.kept == cut.size.params / params
    assert "of the params" in cut.note
    assert session.step(keep=0.5).size.params <= 0.5 * params


def test_unlabelled_images_choose_and_repair() -> None:
    net = network()
    images = torch.cat([batch(seed)[0] for seed in range(12)])
    session = Session(net, image(), keep=0.6, steps=1, calibrate=images, repair=("reconstruct",))
    session.step()
    result = session.finish(latency=False)
    assert type(result.method).__name__ == "Reconstruction"
    assert result.repairs
    assert "72" in result.calibration


def test_loaders_and_a_task_are_taken_as_by_prune() -> None:
    net, task = network(), secateur.tasks.Regression()
    loader = [(x, nn.functional.one_hot(y, 5).float()) for x, y in map(batch, range(4))]
    with pytest.raises(SecateurError, match="loaders say nothing about the task"):
        Session(net, method="taylor", keep=0.6, steps=1, data=[loader, loader])
    session = Session(net, method="taylor", keep=0.6, steps=1, data=[loader, loader], task=task)
    session.step()
    quality = session.finish(latency=False).after.quality
    assert quality is not None
    assert quality.metric.name == "R squared"


# going on after a kill


def loop(session: Session, optimizer: torch.optim.Optimizer, average: AveragedModel, epochs: range) -> None:
    for number in epochs:
        for seed in range(2):
            train(session.model, optimizer, 10 * number + seed)
            average.update_parameters(session.model)
        session.step(optimizer, average)


def begun() -> tuple[Session, torch.optim.Optimizer, AveragedModel]:
    net = network()
    return opened(net), torch.optim.AdamW(net.parameters(), 0.01), AveragedModel(net, use_buffers=True)


def test_a_killed_loop_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = begun()
    loop(*whole, range(5))
    half = begun()
    loop(*half, range(2))
    session, optimizer, average = half
    torch.save(
        {
            "session": session.state_dict(),
            "model": session.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
        },
        tmp_path / "half.pt",
    )
    kept = torch.load(tmp_path / "half.pt", weights_only=True)  # no code in it
    session, optimizer, average = begun()
    session.load_state_dict(kept["session"], optimizer, average)
    session.model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    average.load_state_dict(kept["average"])
    loop(session, optimizer, average, range(2, 5))
    assert same(session.model, whole[0].model)
    assert same(average.module, whole[2].module)
    assert len(session.finish(latency=False).plans) == STEPS


def test_a_state_is_loaded_once_and_into_the_same_network() -> None:
    session = opened(network())
    session.step()
    state = session.state_dict()
    session.load_state_dict(state)  # which changes nothing: it is as far as that
    session.step()
    with pytest.raises(SettingError, match="has cut already: build the original network again"):
        session.load_state_dict(state)
    other = Session(nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 5, 3)), image(), "magnitude", 0.5)
    shapes = [p.shape for p in other.model.parameters()]
    with pytest.raises(ArtifactError, match="not the original one of the session"):
        other.load_state_dict(state)
    assert [p.shape for p in other.model.parameters()] == shapes
    deeper = network()
    deeper.append(nn.Linear(5, 2))  # type: ignore[operator]
    for odd, said in (
        (network((16, 24, 20)), r"its '2.0.weight' is \(20, 24, 3, 3\), where that one's is \(16, 24, 3, 3\)"),
        (deeper, r"its '4.weight' is \(2, 5\), where that one's is not there"),
    ):
        shapes = [p.shape for p in odd.parameters()]
        with pytest.raises(ArtifactError, match=said):
            opened(odd).load_state_dict(state)
        assert [p.shape for p in odd.parameters()] == shapes
    old = {name: value for name, value in state.items() if name != "shapes"}  # as earlier versions wrote it
    opened(network()).load_state_dict(old)
    for damaged in (
        {},
        {**state, "plans": 3},
        {**state, "plans": ["{"]},
        {**state, "calls": "x"},
        {**state, "cuts": -1},
        {**state, "cuts": 2},
        {**state, "calls": -1, "cuts": -1},
        {**state, "differences": []},
        {**state, "shapes": 3},
        {"format": 9},
    ):
        with pytest.raises(ArtifactError, match=r"not the state of a session|newer version"):
            opened(network()).load_state_dict(damaged)
    with pytest.warns(UserWarning, match="goes on with another keep, steps than before"):
        opened(network(), keep=0.4, steps=4).load_state_dict(state)


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "between cuts"])
def test_a_network_that_somebody_else_has_changed_is_refused(cut: bool) -> None:
    net = network()
    session = opened(net)
    state = session.state_dict()
    if cut:
        session.step()
    width = net[1][0].out_channels
    parts = [copy.deepcopy(net[1]), copy.deepcopy(net[2])]
    net[1] = conv(net[1][0].in_channels, width + 6)
    net[2] = conv(width + 6, net[2][0].out_channels)
    before = copy.deepcopy(net.state_dict())
    said = rf"outside of its session: '1.0.weight', which was \({width}, .* is \({width + 6}, .*make a new session of"
    for call in (session.step, session.finish, lambda: session.load_state_dict(state)):
        with pytest.raises(ModelError, match=said):
            call()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net[1], net[2] = parts
    session.step()
    net[1] = nn.Identity()
    with pytest.raises(ModelError, match=r"'1.0.weight', which was .* is gone"):
        session.step()


def test_a_cut_says_so_if_no_optimizer_was_given() -> None:
    net = network()
    session = opened(net)
    assert session.step().note.endswith("is left; no optimizer was given, so none was carried along")
    assert session.step(torch.optim.lr_scheduler.StepLR(sgd(net), 1)).note.endswith("is left")


# what comes out


class Mine(nn.Module):
    """A network of somebody's own, that no name builds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_the_result_is_saved_and_read_and_exported_as_that_of_prune(tmp_path: Path) -> None:
    net = Mine()
    optimizer = sgd(net)
    session = opened(net, steps=2)
    for seed in range(3):
        train(net, optimizer, seed)
        session.step(optimizer)
    result = session.finish(latency=False)
    assert result.model is net
    assert result.verification < 1e-4
    assert result.after.counts.macs == session.size.macs
    assert result.before.counts.macs == secateur.size(secateur.trace(Mine(), image())).macs
    assert {width.layer: width.after for width in result.widths}["body.0.0"] == net.body[0][0].out_channels
    folder = result.save(tmp_path / "mine")
    loaded = secateur.load(folder, dense=Mine())
    assert same(loaded.model, net)
    assert torch.equal(run(loaded.model, image()), run(net, image()))
    file = tmp_path / "net.pt2"
    secateur.export_pt2(result.model, image(), file)
    assert torch.allclose(torch.export.load(file).module()(image()), run(net, image()), atol=1e-5)
    secateur.export_source(result.model, image(), tmp_path / "net.py")


def test_a_session_that_has_cut_nothing_has_a_result_too(tmp_path: Path) -> None:
    result = opened(network()).finish(latency=False)
    assert result.before.counts == result.after.counts
    assert same(secateur.load(result.save(tmp_path / "whole"), dense=network()).model, result.model)


def test_the_result_is_timed_if_asked() -> None:
    session = opened(network(), steps=1)
    session.step()
    result = session.finish(runtime="eager", threads=1)
    assert result.speed is not None
    assert result.after.latency is not None
    with pytest.raises(SettingError, match="runtime"):
        session.finish(runtime="abacus")  # type: ignore[arg-type]


def test_a_pickled_network_of_a_session_is_read_elsewhere(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 3), nn.Flatten(), nn.Linear(80, 4))
    session = opened(net, steps=1)
    session.step()
    torch.save(net, tmp_path / "net.pt")
    code = f"import torch; print(torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False)[0].out_channels)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) == net[0].out_channels < 16
    assert same(torch.load(io.BytesIO((tmp_path / "net.pt").read_bytes()), weights_only=False), net)


def test_an_optimizer_of_the_dense_network_moves_to_the_result_of_several_rounds() -> None:
    net = network()
    optimizer = sgd(net)
    for seed in range(2):
        train(net, optimizer, seed)
    dense = net[0][0].weight
    moment = optimizer.state[dense]["momentum_buffer"].clone()
    optimizer.zero_grad()
    result = secateur.prune(net, image(), "magnitude", 0.5, rounds=3, repair=(), latency=False)
    assert len(result.graphs) == len(result.plans) == 3
    assert result.graph.group("0.0").size == 16
    result.migrate(optimizer)
    thin = result.model[0][0].weight
    rows = [next(i for i in range(16) if torch.equal(dense[i], row)) for row in thin]  # all inputs stay
    assert torch.equal(optimizer.state[thin]["momentum_buffer"], moment[rows])
    train(result.model, optimizer, 3)
    with pytest.raises(ModelError, match="not the model's"):
        result.migrate(optimizer)
