"""``prune``: what comes out, and what stays as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from nets import Plain, images, make
from secateur.core.graph import Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import CLOSE
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Shaper
from secateur.data import Data
from secateur.errors import SettingError, TargetError, VerificationError
from secateur.events import Event
from secateur.measure import count, quality
from secateur.methods.magnitude import Magnitude
from secateur.run import prune
from secateur.run import round as one_round
from secateur.training import Settings
from states import tensors

PAPER = Paper("On tests", "Ada Author", "Journal of Tests", 2020)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("of", ["macs", "params", "nonzero", "units"])
def test_the_target_is_met_and_barely(of: str, net: nn.Module) -> None:
    result = prune(net, images(1), target=Target(0.5, of), limits=Limits(multiple=1), latency=False)  # type: ignore[arg-type]
    assert result.target == Target(0.5, of)  # type: ignore[arg-type]
    if of != "units":
        kept = getattr(result.after.counts, of) / getattr(result.before.counts, of)
        assert 0.35 < kept <= 0.5
    else:
        assert sum(width.after for width in result.widths if width.layer != "3.fc") == 12


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_widths_that_run_fast_meet_the_target_closely_in_deep_networks(of: str, keep: float) -> None:
    result = prune("resnet20", images(1), target=Target(keep, of), repair=(), latency=False)  # type: ignore[arg-type]
    kept = getattr(result.after.counts, of) / getattr(result.before.counts, of)
    assert CLOSE * keep < kept <= keep
    assert set(result.multiples.values()) == {8, 16}
    gone = {name: len(units) for name, units in result.plans[0].dropped().items()}
    assert sum(count % result.multiples[name] != 0 for name, count in gone.items()) <= 1  # finer, to come so close


def test_what_is_reported_is_what_is_counted(net: nn.Module, data: Data) -> None:
    result = prune(net, method="magnitude", target=0.5, data=data, latency=False)
    assert result.before.counts == count(net, data.example())
    assert result.after.counts == count(result.model, data.example())
    assert result.after.quality == quality(result.model, data.batches("test", 256))
    assert result.after.quality is not None
    assert result.after.quality.examples == 40
    assert [(width.layer, width.before) for width in result.widths] == [("0.0", 8), ("2.0", 16), ("3.fc", 5)]
    assert result.widths[0].after == result.model.get_submodule("0.0").out_channels
    assert result.verification < 1e-5
    assert result.middle is None
    assert result.histories == ()
    assert [row.layer for row in result.explanation.rows] == ["0.0", "2.0", "3.fc"]
    assert {"trace", "plan", "apply", "verify", "measure"} <= set(result.seconds)


def test_the_network_that_goes_in_is_untouched(net: nn.Module, data: Data, train: Settings) -> None:
    net[0].eval()  # type: ignore[index]
    net.get_parameter("2.0.weight").requires_grad_(False)
    before, modes = tensors(net), [module.training for module in net.modules()]
    result = prune(net, None, "magnitude", 0.5, data, train=train, rounds=2, latency=False)
    assert result.dense is net
    assert same(tensors(net), before)
    assert [module.training for module in net.modules()] == modes
    assert [module.training for module in result.model.modules()] == modes
    assert not result.model.get_parameter("2.0.weight").requires_grad
    assert all(parameter.grad is None for parameter in (*net.parameters(), *result.model.parameters()))
    assert {id(p) for p in net.parameters()}.isdisjoint(id(p) for p in result.model.parameters())


def test_the_plan_replays_to_the_same_network(net: nn.Module) -> None:
    result = prune(net, images(1), "filter_std", 0.6, latency=False, repair=())
    replayed = apply(net, trace(net, images(1)), Plan.from_json(result.plans[0].to_json()))
    assert same(tensors(replayed), tensors(result.model))


def test_names_and_numbers_stand_for_objects(net: nn.Module) -> None:
    one = prune(net, images(1), "magnitude", 0.5, latency=False)
    two = prune(net, images(1), Magnitude(), Target(0.5, "macs"), latency=False)
    assert one.plans == two.plans
    assert one.method == two.method


def test_a_named_network_is_drawn_by_the_seed_and_fits_the_example() -> None:
    example = torch.randn(1, 1, 28, 28)
    state = torch.get_rng_state()
    made = [prune("lenet5", example, target=0.5, seed=seed, latency=False) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert same(tensors(made[0].dense), tensors(made[1].dense))
    assert not same(tensors(made[0].dense), tensors(made[2].dense))
    assert made[0].plans == made[1].plans


def test_layers_left_alone_keep_their_channels(net: nn.Module) -> None:
    for leave in (("2.*",), ["2.0"], "2.0"):
        result = prune(net, images(1), target=0.6, leave=leave, latency=False)
        assert set(result.plans[0].dropped()) == {"0.0"}


def test_inside_blocks_streams_keep_their_channels_in_every_round() -> None:
    net = make("option A")
    for rounds in (1, 2):
        result = prune(net, images(1), "magnitude", 0.5, groups="inside blocks", rounds=rounds, latency=False)
        assert {name for plan in result.plans for name in plan.dropped()} == {"conv1"}
        assert "left alone: 2 groups of 16 units" in " ".join(note for plan in result.plans for note in plan.notes)
    assert {"stem.0", "conv2"} & set(prune(net, images(1), "magnitude", 0.5, latency=False).plans[0].dropped())
    with pytest.raises(SettingError, match="groups must be one of all, inside blocks"):
        prune(net, images(1), target=0.5, groups="inside")  # pyright: ignore[reportArgumentType]


def test_a_network_of_streams_alone_is_refused_with_the_reason() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x) + self.b(x))

    with pytest.raises(TargetError, match=r"can be pruned: .*1 group of 4 units .* \(groups = inside blocks\)"):
        prune(Sum(), images(1), target=0.5, groups="inside blocks", latency=False)


def test_limits_hold_over_all_rounds(net: nn.Module) -> None:
    limits = Limits(min_units=3, multiple=3)
    result = prune(net, images(1), target=Target(0.4, "units"), limits=limits, rounds=2, latency=False)
    assert [width.after for width in result.widths[:2]] == [3, 6]


def test_several_inputs_are_fine(net: nn.Module) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Plain()

        def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(image * scale)}

    inputs = {"image": images(1), "scale": torch.ones(1)}
    result = prune(Two(), inputs, target=0.5, latency=False)
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs
    assert prune(Two(), (images(1), torch.ones(1)), target=0.5, latency=False).plans


def test_the_dense_network_may_be_kept_whole(net: nn.Module) -> None:
    result = prune(net, images(1), target=1.0, latency=False)
    assert result.plans == (Plan(),)
    assert result.after.counts == result.before.counts


# rounds


@dataclass(frozen=True)
class Watching(ScoreMethod):
    """Notes what it is shown."""

    seen: ClassVar[list[Problem]] = []
    paper: ClassVar[Paper] = PAPER

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.arange(group.size).float()

    def plan(self, problem: Problem) -> Plan:
        self.seen.append(problem)
        return super().plan(problem)


def test_rounds_approach_the_target_in_equal_ratios(net: nn.Module) -> None:
    Watching.seen.clear()
    target, limits = Target(0.27, "params"), Limits(multiple=1)
    result = prune(net, images(1), Watching(), target, rounds=3, limits=limits, latency=False)
    assert len(result.plans) == len(Watching.seen) == 3
    dense = result.before.counts.params
    for number, problem in enumerate(Watching.seen, start=1):
        assert problem.history == result.plans[: number - 1]
        assert problem.target is not None
        goal = problem.target.keep * size(problem.graph).params
        assert goal == pytest.approx(dense * 0.27 ** (number / 3))
        left = size(problem.graph, result.plans[number - 1]).params
        assert 0.8 * goal < left <= goal
    assert result.after.counts.params == left
    assert result.verification < 1e-5


def test_every_round_has_randomness_of_its_own(net: nn.Module) -> None:
    def drawn(seed: int) -> list[float]:
        Watching.seen.clear()
        prune(net, images(1), Watching(), 0.3, rounds=2, seed=seed, latency=False)
        return [float(torch.rand((), generator=problem.rng)) for problem in Watching.seen]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1)}) == 4


def test_each_round_is_fine_tuned(net: nn.Module, data: Data, train: Settings) -> None:
    result = prune(net, None, "magnitude", 0.3, data, train=train, rounds=3, latency=False)
    assert [len(history.rows) for history in result.histories] == [2, 2, 2]
    assert result.middle is not None
    assert result.middle.counts == result.after.counts
    assert result.middle.quality != result.after.quality
    assert {"fine-tune"} <= set(result.seconds)


def test_fine_tuning_learns(net: nn.Module, data: Data, train: Settings) -> None:
    result = prune(net, None, "magnitude", 0.5, data, train=replace(train, epochs=15), latency=False)
    assert result.middle is not None
    assert result.middle.quality is not None
    assert result.after.quality is not None
    assert result.after.quality.value > 0.8 > 0.5 > result.middle.quality.value  # chance is 0.2


def test_the_dense_network_can_teach(net: nn.Module, data: Data, train: Settings) -> None:
    alone = prune(net, None, "magnitude", 0.5, data, train=train, latency=False)
    taught = prune(net, None, "magnitude", 0.5, data, train=replace(train, distill=0.9), latency=False)
    assert alone.plans == taught.plans
    assert not same(tensors(alone.model), tensors(taught.model))


def test_the_same_seed_gives_the_same_network_bit_for_bit(net: nn.Module, data: Data, train: Settings) -> None:
    def made(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed + 100)  # not what decides
        return tensors(
            prune(net, None, "random_units", 0.5, data, train=train, rounds=2, seed=seed, latency=False).model
        )

    assert same(made(3), made(3))
    assert not same(made(3), made(4))


@dataclass(frozen=True)
class Shaping(ScoreMethod):
    """Pulls the first half of the first layer to zero while the network trains, then removes what is small."""

    paper: ClassVar[Paper] = PAPER

    def score(self, group: Group, problem: Problem) -> Tensor:
        return next(iter(group.rows(problem.model, "makes"))).norm(dim=1)

    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        class Pull(Shaper):
            def after_step(self, step: int) -> None:
                model.get_parameter("0.0.weight").data[:4] *= 0.5

        yield Pull()


def test_a_method_that_shapes_trains_a_copy_before_it_decides(net: nn.Module, data: Data, train: Settings) -> None:
    before = tensors(net)
    result = prune(net, None, Shaping(), Target(0.5, "units"), data, train=train, latency=False)
    assert result.plans[0].dropped()["0.0"] == (0, 1, 2, 3)
    assert same(tensors(net), before)
    assert "shape" in result.seconds
    unshaped = prune(net, None, Shaping(), Target(0.5, "units"), data, latency=False)
    assert unshaped.plans[0].dropped()["0.0"] != (0, 1, 2, 3)


# telling, and refusing to believe


def test_the_listener_hears_of_every_stage(net: nn.Module, data: Data, train: Settings) -> None:
    heard: list[Event] = []
    prune(net, None, "magnitude", 0.5, data, train=train, latency=False, tell=heard.append)
    stages = [event.stage for event in heard]
    firsts = sorted({"trace", "measure", "plan", "apply", "train"}, key=stages.index)
    assert firsts == ["trace", "measure", "plan", "apply", "train"]
    assert all(event.text for event in heard if event.stage in ("trace", "plan", "apply"))


def test_nothing_is_printed_or_written(
    net: nn.Module,
    data: Data,
    train: Settings,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    prune(net, None, "magnitude", 0.5, data, train=train, latency=False)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_cut_is_never_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, graph: object, plan: Plan) -> nn.Module:
        thin = apply(model, graph, plan)  # type: ignore[arg-type]
        with torch.no_grad():
            thin.get_parameter("2.0.weight").copy_(thin.get_parameter("2.0.weight").flip(1))
        return thin

    monkeypatch.setattr(one_round, "apply", wrong)
    with pytest.raises(VerificationError, match=r"differs from the silenced one.*first at '2\.0'.*nothing was written"):
        prune(make("plain"), images(1), target=0.5, latency=False)


@dataclass(frozen=True)
class Lazy(ScoreMethod):
    """Ignores the target."""

    paper: ClassVar[Paper] = PAPER

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.zeros(group.size)

    def plan(self, problem: Problem) -> Plan:
        return super().plan(replace(problem, target=Target(0.9)))


def test_a_plan_that_falls_short_of_the_target_is_refused(net: nn.Module) -> None:
    with pytest.raises(TargetError, match=r"Lazy left 0\.8\d* of the macs where at most 0\.5 was asked for"):
        prune(net, images(1), Lazy(), 0.5, limits=Limits(multiple=1), latency=False)


@pytest.mark.parametrize("method", ["gradual", "magnitude"])
def test_a_method_that_acts_in_training_says_that_there_is_none(trained: nn.Module, method: str) -> None:
    heard: list[Event] = []
    target = Target(0.9, "nonzero")
    prune(trained, torch.zeros(1, 3, 8, 8), method, target, repair=(), latency=False, tell=heard.append)
    said = [event.text for event in heard if "no training was asked for" in event.text]
    assert [text.split()[0] for text in said] == ([method] if method == "gradual" else [])
