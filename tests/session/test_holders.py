"""Whatever a training loop holds goes through a cut, or is refused before anything has changed."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from loops import batch, image, network, opened, same, sgd, train
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.optim.swa_utils import SWALR, AveragedModel

import secateur
from secateur.core.surgery import relative_difference, run
from secateur.errors import ModelError, PlanError, SettingError
from secateur.session import Session


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    net = network()
    optimizer = sgd(net)
    train(net, optimizer, 0)
    return net, optimizer


def test_schedulers_alone_bring_their_optimizer() -> None:
    net, optimizer = trained()
    steps = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
    chained = torch.optim.lr_scheduler.SequentialLR(optimizer, steps, [1])
    opened(net).step(chained, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), SWALR(optimizer, 0.01), None)
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in net.parameters())
    train(net, optimizer, 1)
    chained.step()


class Wrapping(torch.optim.Optimizer):
    """An optimizer around another, under a name of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.parameters(), {})
        self.base_optimizer = sgd(net)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            before = self.state[parameter].get("before", parameter)
            self.state[parameter]["before"] = before.detach() + 0.1 * parameter.detach()
        self.base_optimizer.step()


def test_an_optimizer_within_another_is_carried_along_with_it() -> None:
    net, other = network(), network()
    wrapping, plain = Wrapping(net), sgd(other)
    sessions = opened(net, steps=1), opened(other, steps=1)
    for seed in range(2):
        train(net, wrapping, seed)
        train(other, plain, seed)
        sessions[0].step(wrapping)
        sessions[1].step(plain)
    train(net, wrapping, 2)
    train(other, plain, 2)
    assert same(net, other)


def test_all_optimizers_are_refused_or_moved_together() -> None:
    net, first = trained()
    second = torch.optim.Adam(net.parameters())
    train(net, second, 1)
    second.state[net[0][0].weight]["history"] = torch.zeros(7)
    session = opened(net)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match="'history' of shape"):
        session.step([first, second])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(first.state[p]["momentum_buffer"].shape == p.shape for p in net.parameters())
    del second.state[net[0][0].weight]["history"]
    assert session.step([first, second])
    train(net, first, 2)
    train(net, second, 3)


def test_weights_of_a_loss_stay_in_the_optimizer() -> None:
    net = network()
    scale = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*net.parameters(), scale], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (net(batch(0)[0]).square().mean() * scale.sum()).backward()
        optimizer.step()
        moment = optimizer.state[scale]["momentum_buffer"].clone()
    opened(net).step(optimizer)
    assert torch.equal(optimizer.state[scale]["momentum_buffer"], moment)
    assert optimizer.param_groups[0]["params"][-1] is scale


@pytest.mark.parametrize(
    ("holder", "kind", "said"),
    [
        (lambda net: sgd(copy.deepcopy(net)), ModelError, "SGD holds no weight of the network .* session.model.param"),
        (lambda net: nn.Linear(2, 2), ModelError, "Linear neither is nor holds .* a network of the shapes"),
        (lambda net: AveragedModel(nn.Linear(2, 2)), ModelError, "AveragedModel neither is nor holds"),
        (lambda net: nn.ModuleList([copy.deepcopy(net) for _ in "ab"]), ModelError, "ModuleList holds 2 networks"),
        (lambda net: "adam", SettingError, "cannot carry a str along: give optimizers"),
        (lambda net: net.parameters, SettingError, "cannot carry a method along"),
    ],
)
def test_what_belongs_elsewhere_is_refused(holder: Any, kind: type[Exception], said: str) -> None:
    net, optimizer = trained()
    session = opened(net)
    with pytest.raises(kind, match=said):
        session.step(optimizer, holder(net))
    assert net[0][0].out_channels == 16
    session.step(optimizer)
    with pytest.raises(kind, match=said):  # also when nothing is due
        session.step(optimizer, holder(net))


def test_an_average_that_was_forgotten_is_named() -> None:
    net, optimizer = trained()
    average = AveragedModel(net)
    session = opened(net)
    session.step(optimizer)
    with pytest.raises(ModelError, match="give every average of the weights to each step"):
        session.step(optimizer, average)


def test_averages_are_cut_alike_and_keep_their_own_weights() -> None:
    timm = pytest.importorskip("timm.utils")
    net, optimizer = trained()
    averages = [AveragedModel(net, use_buffers=True), timm.ModelEmaV2(net, 0.5), timm.ModelEmaV3(net, decay=0.5)]
    bare, around = copy.deepcopy(net), AveragedModel(nn.ModuleDict({"net": net, "loss": nn.Linear(2, 2)}))
    first = timm.ModelEma(net)
    for seed in range(2):
        train(net, optimizer, seed)
        averages[0].update_parameters(net)
        averages[1].update(net)
        averages[2].update(net)
    originals = [copy.deepcopy(each.module) for each in averages]
    modules = [each.module for each in averages]
    session = opened(net, steps=1)
    cut = session.step(optimizer, *averages, bare, around, first)
    graph = session.finish(latency=False).graph
    for average, module, original in zip(averages, modules, originals, strict=True):
        assert average.module is module
        assert not same(module, net)
        with secateur.masked(original, graph, cut.plan):
            expected = run(original, image())
        assert relative_difference(expected, run(module, image())) < 1e-5
    averages[0].update_parameters(net)
    averages[1].update(net)
    averages[2].update(net)
    first.update(net)
    for each in (bare, around.module["net"], first.ema):
        assert each[0][0].weight.shape == net[0][0].weight.shape


def test_gradient_scalers_need_nothing() -> None:
    net, optimizer = trained()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def scaled(seed: int) -> None:
        x, y = batch(seed)
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(net(x), y)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    scaled(0)
    before = [p.clone() for p in net.parameters()]
    assert opened(net, steps=1).step(optimizer, scaler)
    scaled(1)
    assert scaler.get_scale() == 8.0
    assert any(p.shape != q.shape for p, q in zip(net.parameters(), before, strict=True))


def zeroing(net: nn.Module) -> Session:
    return opened(
        net,
        secateur.METHODS["random_masks"](granularity="kernels", candidates=2),
        keep=secateur.Target(0.6, "nonzero"),
        steps=2,
        data=secateur.from_arrays(*[(batch(0)[0].numpy(), batch(0)[1].numpy())] * 2),
    )


def zeros_in(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight == 0 for name, weight in net.named_parameters() if bool((weight == 0).any())}


def test_weights_that_a_method_sets_to_zero_stay_zero_while_the_loop_trains() -> None:
    net, optimizer = trained()
    session = zeroing(net)
    session.step(optimizer)
    zeros = zeros_in(net)
    assert zeros
    for seed in range(2):
        train(net, optimizer, seed)
    for name, mask in zeros.items():
        assert not net.get_parameter(name)[mask].any()
        assert net.get_parameter(name)[~mask].all()
    session.step()
    train(net, sgd(net), 3)  # which nobody has given to the session
    assert sum(int((p == 0).sum()) for p in net.parameters()) > sum(int(mask.sum()) for mask in zeros.values())
    assert session.finish(latency=False).after.counts.nonzero == session.size.nonzero


def test_zeros_are_held_after_a_kill_too_and_let_go_with_the_network() -> None:
    net, optimizer = trained()
    session = zeroing(net)
    session.step(optimizer)
    again = network()
    resumed = zeroing(again)
    resumed.load_state_dict(session.state_dict())
    again.load_state_dict(net.state_dict())
    assert resumed.kept == session.kept
    zeros = zeros_in(again)
    train(again, sgd(again), 1)
    assert zeros_in(again).keys() == zeros.keys()
    assert all(torch.equal(mask, zeros[name]) for name, mask in zeros_in(again).items())
    held = len(_global_optimizer_post_hooks)
    del session, resumed, net, again, optimizer
    gc.collect()
    assert len(_global_optimizer_post_hooks) == held - 2


def test_regrouped_layers_are_new_to_optimizers_and_averages() -> None:
    net, optimizer = trained()
    session = opened(net, "self_grouping", steps=1, keep=0.7)
    for holder in (optimizer, AveragedModel(net)):
        with pytest.raises(PlanError, match="regrouped layers have new parameters"):
            session.step(holder)
        assert net[0][0].out_channels == 16
    assert session.step()
    fresh = sgd(net)
    train(net, fresh, 1)
