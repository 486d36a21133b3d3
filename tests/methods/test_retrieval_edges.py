"""Edges by what they add: by hand, in layers and networks, and through a run that finds images again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
import task_worlds as worlds
from commands import run as run_command
from nets import images, make
from secateur import build, check_method, load_data
from secateur.checks.networks import SHAPE, networks
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply, masked, run
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError, TargetError
from secateur.methods.retrieval_edges import RetrievalEdges
from secateur.training import Settings

ANY = Limits(multiple=1)


def pair() -> tuple[nn.Sequential, Tensor]:
    """Maps of 1 and 10 that a layer reads with kernels of these weights, which rank otherwise alone."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[4.0, 0.3], [3.0, 2.0]]).reshape(2, 2, 1, 1))
    return net, torch.ones(2, 1, 2, 2)


def asked(net: nn.Module, given: Tensor, target: Target | None = None, **more: Any) -> Problem:
    return Problem(net, trace(net, given[:1]), target, images=[given], limits=ANY, **more)


def kept(plan: Plan, name: str) -> list[Any]:
    return next(it for it in plan.edits if isinstance(it, ZeroWeights) and it.tensor == name).mask().flatten(1).tolist()


def test_contributions_and_norms_by_hand() -> None:
    net, given = pair()
    problem = asked(net, given)
    data, weights = (
        RetrievalEdges(ratio=0.3).scores(problem),
        RetrievalEdges(criterion="weights", ratio=0.3).scores(problem),
    )
    torch.testing.assert_close(data["2.weight"], torch.tensor([[4.0, 3.0], [3.0, 20.0]]).double())
    torch.testing.assert_close(weights["2.weight"], torch.tensor([[4.0, 0.3], [3.0, 2.0]]).double())
    assert set(data) == {"2.weight", "4.weight"}  # the stem is left alone
    for stem in (False, True):
        found = RetrievalEdges(ratio=0.3, stem=stem).scores(asked(make("plain"), images()))
        assert ("0.0.weight" in found) is stem


def test_the_smallest_of_each_layer_go() -> None:
    net, given = pair()
    plan = RetrievalEdges(criterion="weights", ratio=0.25).plan(asked(net, given))
    assert kept(plan, "2.weight") == [[True, False], [True, True]]
    assert sum(map(sum, kept(plan, "4.weight"))) == 3


def test_the_norms_of_kernels() -> None:
    net = make("plain")
    problem = asked(net, images())
    weight = net.get_parameter("2.0.weight").detach().double()
    for norm, power in (("l1", 1), ("l2", 2)):
        found = RetrievalEdges(criterion="weights", norm=norm, ratio=0.5).scores(problem)["2.0.weight"]
        torch.testing.assert_close(found, weight.abs().pow(power).sum((2, 3)).pow(1 / power))


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_target_is_just_met_and_unread_maps_go_without_a_trace(scope: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
        nn.Flatten(),
        nn.Linear(192, 4),
    ).eval()
    with torch.no_grad():
        net[2].weight[:, 1] *= 1e-3
    problem = asked(net, images(), Target(0.96, "nonzero"))
    plan = RetrievalEdges(scope=scope).plan(problem)
    left, whole = size(problem.graph, plan).nonzero, size(problem.graph).nonzero
    assert 0.94 * whole < left <= 0.96 * whole
    assert 1 in plan.dropped()["0"]
    zeros = Plan(tuple(edit for edit in plan.edits if isinstance(edit, ZeroWeights)))
    with masked(net, problem.graph, zeros):
        expected = run(net, images())
    torch.testing.assert_close(run(apply(net, problem.graph, plan), images()), expected, rtol=1e-4, atol=1e-5)


def test_kernels_that_are_zero_already_go_first() -> None:
    net, given = pair()
    with torch.no_grad():
        net[2].weight[1, 1] = 0.0
    assert kept(RetrievalEdges(ratio=0.25).plan(asked(net, given)), "2.weight") == [[True, True], [True, False]]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images_are_found_again_by_a_network_whose_kernels_are_held_at_zero(tmp_path: Path) -> None:
    world = worlds.world("retrieval", tmp_path)
    data = load_data(world.data, image_size=worlds.SIDE, workers=0)
    torch.manual_seed(0)
    result = secateur.prune(
        build(world.model), method="retrieval_edges", target=Target(0.5, "nonzero"), data=data, latency=False,
        train=Settings(epochs=1, batch_size=8),
    )  # fmt: skip
    assert [metric.name for metric in data.task.metrics] == ["recall at 1", "mAP"]
    assert result.after.counts.nonzero <= 0.5 * result.before.counts.params
    (plan,) = result.plans
    zeros = [(edit.tensor, edit.mask()) for edit in plan.edits if isinstance(edit, ZeroWeights)]
    assert zeros
    if not plan.dropped():
        assert not any(bool(result.model.get_parameter(name)[~mask].any()) for name, mask in zeros)


def test_a_variant_keeps_its_promises() -> None:
    chain = networks()["chain"]
    method = RetrievalEdges(criterion="weights", scope="global", stem=True, linear=True)
    check_method(method, networks={"chain": (chain, torch.randn(2, *SHAPE))})


def test_what_it_needs_is_said() -> None:
    net, given = pair()
    graph = trace(net, given)
    assert RetrievalEdges().plan(asked(net, given, Target(1.0))) == EMPTY
    with pytest.raises(DataError, match="looks at what kernels add on images"):
        RetrievalEdges().plan(Problem(net, graph, Target(0.9, "nonzero")))
    with pytest.raises(TargetError, match="zeroed kernels leave the macs as they are"):
        RetrievalEdges().plan(asked(net, given, Target(0.5)))
    with pytest.raises(TargetError, match="say how much goes"):
        RetrievalEdges().plan(asked(net, given))
    with pytest.raises(SettingError, match="both a target and a ratio"):
        RetrievalEdges(ratio=0.5).plan(asked(net, given, Target(0.5, "nonzero")))
    with pytest.raises(SettingError, match=r"ratio must be in \[0, 1\)"):
        RetrievalEdges(ratio=1.0)
    with pytest.raises(TargetError, match="with one kernel left in every prunable layer") as caught:
        RetrievalEdges().plan(asked(net, given, Target(0.01, "nonzero")))
    assert caught.value.reachable is not None
    with pytest.raises(TargetError, match="no kernels can go but those of the first convolution"):
        RetrievalEdges(ratio=0.5).plan(asked(net[:1], given))
    with torch.no_grad():
        net[2].weight[0, 0] = float("nan")
    for criterion in ("data", "weights"):
        with pytest.raises(SettingError, match="contain NaN"):
            RetrievalEdges(criterion=criterion, ratio=0.5).plan(asked(net, given))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_line_takes_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = worlds.world("restoration", tmp_path)
    flags = ("--model", world.model, "--data", world.data, "--image-size", "32", "--workers", "0")
    chosen = ("--method", "retrieval_edges", "--criterion", "weights", "--scope", "global")
    ended = run_command(capsys, "plan", *flags, *chosen, "--keep", "0.6", "--of", "nonzero")
    assert ended.status == 0, ended
