"""The first term of the series by hand, against the loss itself, and against the oracle."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
import task_worlds as worlds
from commands import run
from kills import Killed
from nets import make
from secateur import build, check_method, load_data
from secateur.checks.networks import SHAPE, networks
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.sizes.unit_work import making_flops
from secateur.core.trace import trace
from secateur.data import from_arrays
from secateur.errors import DataError, SettingError
from secateur.events import Event
from secateur.measure import quality
from secateur.measure.oracle_ranks import loss_changes, rank_correlation
from secateur.measure.unit_statistics import gate_gradients
from secateur.methods.magnitude import Magnitude
from secateur.methods.taylor import Taylor
from secateur.tasks import Custom, Segmentation
from secateur.training import Settings

ANY = Limits(multiple=1)
WEIGHTED = Custom(lambda output, wanted: (output * wanted).flatten(1).sum(1).mean(), lambda output, wanted: 0.0)


def two_units() -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    """Both units send the image; nobody reads the second, and the targets are the gradients of the first."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]])
    gradients = torch.tensor([[0.1, -0.1, 0.1, -0.1], [0.05, 0.05, 0.05, 0.05]])
    return net, (values.reshape(2, 1, 2, 2), gradients.reshape(2, 1, 2, 2))


def asked(net: nn.Module, *batches: Any, keep: float | None = 0.5, **more: Any) -> Problem:
    target = None if keep is None else Target(keep, "units")
    return Problem(net, trace(net, batches[0][0][:1]), target, batches=batches, limits=ANY, **more)


def test_the_form_of_2017_by_hand() -> None:
    """|mean of z * g| is 0.05 and 0.10 for the two examples; the absolute value of their mean would be 0.025."""
    net, batch = two_units()
    problem = asked(net, batch, task=WEIGHTED)
    assert Taylor().criterion(problem).tolist() == pytest.approx([0.075, 0.0])
    everything = {"read": torch.ones(2, dtype=torch.bool)}
    (found,) = gate_gradients(net, problem.graph, [batch], WEIGHTED, everything)  # pyright: ignore
    assert float(found.gradients.sum(0)[0].abs() / found.positions[0]) == pytest.approx(0.025)


def test_the_form_of_2019_by_hand() -> None:
    """A batch's loss falls by (-0.2 + 0.4) / 2 without the unit; the other batch is twice the first's image."""
    net, (images, wanted) = two_units()
    problem = asked(net, (images, wanted), (2 * images, wanted), task=WEIGHTED)
    assert Taylor(form="2019").criterion(problem).tolist() == pytest.approx([(0.1**2 + 0.2**2) / 2, 0.0])
    assert Taylor(form="2019", batches=1).criterion(problem).tolist() == pytest.approx([0.1**2, 0.0])
    assert Taylor(form="2019").scores(problem)["0"].tolist() == pytest.approx([0.025, 0.0])


def test_a_unit_that_nobody_reads_goes_first() -> None:
    net, batch = two_units()
    for form in ("2017", "2019"):
        assert Taylor(form=form).plan(asked(net, batch, task=WEIGHTED)).dropped() == {"0": (1,)}


def test_where_the_loss_is_linear_the_series_is_exact() -> None:
    """Positions times |theta| of one example equals the change of its loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 1, 1)).eval()
    images, wanted = torch.randn(1, 3, 6, 6), torch.randn(1, 1, 4, 4)
    problem = asked(net, (images, wanted), task=WEIGHTED, loss=lambda it: float((it(images) * wanted).sum().detach()))
    changes = loss_changes(problem)["0"]
    torch.testing.assert_close(16 * Taylor().criterion(problem), changes.abs(), rtol=1e-4, atol=1e-5)
    assert rank_correlation(Taylor(flops=0.0).scores(problem), {"0": changes}).overall == pytest.approx(1.0)


def test_layers_are_normalised_and_work_is_weighed_against_them() -> None:
    torch.manual_seed(0)
    net = make("plain")
    batch = (torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0]))
    problem = asked(net, batch)
    free, weighed = Taylor(flops=0.0).scores(problem), Taylor(flops=10.0).scores(problem)
    work, offsets = making_flops(problem.graph) / 1e6, problem.graph.offsets
    for name, values in free.items():
        assert float(values.norm()) == pytest.approx(1.0)
        lost = 10.0 * work[offsets[name] : offsets[name] + len(values)]
        torch.testing.assert_close(values - weighed[name], lost)
    assert float(work[0]) == pytest.approx(2 * 64 * 28 / 1e6)


def test_examples_count_alike_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    net = make("squeeze and excite")
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    whole, apart = (Taylor().criterion(asked(net, *it)) for it in ([(images, labels)], parts))
    torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-8)


@functools.cache
def trained() -> tuple[nn.Module, list[Any]]:
    """A network that has learnt to tell four patterns apart, and images of them."""
    rng = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 1, 8, 8, generator=rng)
    labels = torch.arange(256) % 4
    images = patterns[labels] + 0.7 * torch.randn(256, 1, 8, 8, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 10, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(40, 4),
        )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval(), list(zip(images.split(64), labels.split(64), strict=True))


def test_it_agrees_with_the_oracle_better_than_the_size_of_filters_or_chance() -> None:
    net, batches = trained()
    problem = asked(net, *batches, loss=lambda network: quality(network, batches).loss_or_error)
    changes = loss_changes(problem)
    chance = {name: torch.rand(len(values), generator=problem.rng) for name, values in changes.items()}
    taylor = rank_correlation(Taylor(flops=0.0).scores(problem), changes)
    others = [rank_correlation(scores, changes) for scores in (Magnitude().scores(problem), chance)]
    assert taylor.overall > 0.6
    assert all(taylor.overall > other.overall + 0.1 for other in others)
    assert all(taylor.groups[name] > 0.3 for name in changes)


def in_rounds(form: Any, **more: Any) -> secateur.Result:
    net, batches = trained()
    images, labels = (torch.cat(column) for column in zip(*batches, strict=True))
    data = from_arrays((images, labels), (images[:64], labels[:64]), (images[64:128], labels[64:128]))
    train = Settings(epochs=1, batch_size=64, lr=0.01, augment="none", precision="float32", compile="off", device="cpu")
    return secateur.prune(
        net, method=Taylor(form=form), target=Target(0.5, "units"), data=data, train=train, rounds=2, limits=ANY,
        repair=(), latency=False, **more,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["2017", "2019"])
def test_rounds_look_anew_and_go_on_after_a_kill(form: Any, tmp_path: Path) -> None:
    whole, plans = in_rounds(form), list[Event]()
    assert len(whole.plans) == 2
    assert all(plan.edits for plan in whole.plans)

    def kill(event: Event) -> None:
        plans.extend([event] if event.stage == "plan" and event.text else [])
        if len(plans) == 2:
            raise Killed

    with pytest.raises(Killed):
        in_rounds(form, work=tmp_path, tell=kill)
    again = in_rounds(form, work=tmp_path)
    assert again.plans == whole.plans
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


def test_every_task_has_a_first_term(tmp_path: Path) -> None:
    for name in worlds.TASKS:
        world = worlds.world(name, tmp_path / name.replace(" ", "-"))
        task = Segmentation(ignore=11) if name == "segmentation" else None
        data = load_data(world.data, image_size=worlds.SIDE, workers=0, task=task)
        batches = list(data.batches("train", 4))
        net = build(world.model).eval()
        problem = Problem(net, trace(net, data.example()), Target(0.7, "units"), batches=batches, task=data.task)
        scores = torch.cat(list(Taylor().scores(problem).values()))
        assert bool(scores.isfinite().all()), name
        assert len(scores.unique()) > len(scores) // 2, name
        assert Taylor(form="2019").plan(problem).edits, name


def test_a_variant_keeps_its_promises() -> None:
    chain = networks()["chain"]
    check_method(Taylor(form="2019"), networks={"chain": (chain, torch.randn(2, *SHAPE))})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"flops": -1.0}, "flops must be at least 0, not -1.0"),
        ({"batches": 0}, "batches must be at least 1, not 0"),
        ({"form": "2018"}, "must be one of 2017, 2019"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Taylor(**settings)


def test_it_needs_batches_and_numbers() -> None:
    net, batch = two_units()
    graph = trace(net, batch[0])
    for batches in (None, []):
        with pytest.raises(DataError, match="taylor takes gradients"):
            Taylor().plan(Problem(net, graph, Target(0.5, "units"), batches=batches))
    with torch.no_grad():
        net[0].weight[0] = float("nan")
    with pytest.raises(SettingError, match="contain NaN"):
        Taylor().plan(asked(net, batch, task=WEIGHTED))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_line_takes_the_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = worlds.world("regression", tmp_path)
    flags = ("--model", world.model, "--data", world.data, "--image-size", "32", "--workers", "0", "--keep", "0.6")
    ended = run(capsys, "plan", *flags, "--method", "taylor", "--form", "2019", "--batches", "2")
    assert ended.status == 0, ended
