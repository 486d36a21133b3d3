"""Training in a limited time: it stops, keeps the best state, and goes on after a kill. The clock is a counter."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.core.surgery import Hold
from secateur.errors import DataError, TrainingError
from secateur.events import Event
from secateur.tasks import Classification, Metric, Task
from secateur.training.lesson_kind import Judgement
from secateur.training.lessons import FEWEST, FINE_TUNING, IMITATING, Imitation, Labelled
from secateur.training.optimizers_and_schedules import lasting
from secateur.training.settings import Settings
from secateur.training.share import number_of
from secateur.training.time_limit import within

ACCURACY = Classification().metric
Net = Callable[..., nn.Module]


@dataclass
class Ticks:
    """A clock that is a second later whenever it is read."""

    seconds: float = 0.0
    kill: float = float("inf")

    def __call__(self) -> float:
        self.seconds += 1.0
        if self.seconds > self.kill:
            raise KeyboardInterrupt
        return self.seconds


@dataclass
class Fixed:
    """A lesson whose judgements were written down before; it has one batch of labelled noise."""

    verdicts: list[float]
    settings: Settings = field(default_factory=lambda: Settings(lr=0.1, batch_size=4, device="cpu"))
    task: Task | None = None
    passes: int | None = None
    teacher: nn.Module | None = None
    name: str = "fixed"
    poison: int = -1
    states: list[dict[str, Tensor]] = field(default_factory=list)

    def open(self, model: nn.Module, accelerator: object) -> nn.Module:
        self.model = model
        return model

    def count(self) -> int:
        return 4

    def batches(self, seed: int):
        rng = torch.Generator().manual_seed(seed)
        yield from (torch.randn(4, 3, 8, 8, generator=rng) for _ in range(4))

    def loss(self, parts: object, batch: Tensor) -> Tensor:
        self.poison -= 1
        return self.model(batch).square().mean() * (float("nan") if self.poison == -1 else 1.0)

    def judge(self, model: nn.Module) -> Judgement:
        self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return Judgement(self.verdicts.pop(0) if self.verdicts else 9.0)


@dataclass
class Failing(Fixed):
    """Its batches come to nothing, or its loss fails, after so many steps."""

    dry: int = 10**9
    steps: int = 10**9

    def batches(self, seed: int):
        yield from super().batches(seed) if self.dry > 0 else ()

    def loss(self, parts: object, batch: Tensor) -> Tensor:
        self.dry -= 1
        self.steps -= 1
        if self.steps < 0:
            raise DataError("a bad batch")
        return super().loss(parts, batch)


@pytest.mark.parametrize(("how", "said"), [({"dry": 4}, "come to no batch"), ({"steps": 6}, "a bad batch")])
def test_what_fails_gives_the_network_back(net: Net, how: dict[str, int], said: str) -> None:
    model = net(0)
    with pytest.raises(DataError, match=said):
        within(model, Failing([1.0], **how), 1e6, now=Ticks())
    assert same(model, net(0))


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def pair(net: Net) -> tuple[nn.Module, nn.Module]:
    """Return a network and one that is a little off."""
    dense = net(0).eval()
    thin = copy.deepcopy(dense)
    with torch.no_grad():
        thin.get_parameter("3.weight").add_(0.2 * torch.randn(4, 6, 1, 1, generator=torch.Generator().manual_seed(5)))
    return dense, thin


def pictures(count: int = 100) -> list[Tensor]:
    return list(torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3)).split(40))


def test_the_metric_goes_before_the_loss_and_nan_is_worse_than_anything() -> None:
    assert Judgement(2.0, 0.9, ACCURACY).better_than(Judgement(1.0, 0.8, ACCURACY))
    assert Judgement(1.0, 0.8, ACCURACY).better_than(Judgement(2.0, 0.8, ACCURACY))
    assert not Judgement(1.0, 0.8, ACCURACY).better_than(Judgement(1.0, 0.8, ACCURACY))
    assert Judgement(1.0).better_than(Judgement(float("nan")))
    assert not Judgement(float("nan")).better_than(Judgement(1.0))
    error = Metric("MAE", higher_is_better=False)
    assert Judgement(2.0, 0.8, error).better_than(Judgement(1.0, 0.9, error))
    assert not Judgement(1.0, float("nan"), error).better_than(Judgement(2.0, 5.0, error))


def test_judgements_in_checkpoints_are_read_also_those_of_an_earlier_version() -> None:
    for found in (Judgement(2.0, 0.9, ACCURACY), Judgement(2.0)):
        assert Judgement.of(asdict(found)) == found
        assert Judgement.of({"loss": found.loss, "accuracy": found.value}) == found


def test_it_stops_in_time_and_says_so(net: Net) -> None:
    clock = Ticks()
    taught = within(net(), Fixed([1.0]), 50, used=10, now=clock)
    assert taught.ended == "time"
    assert taught.begun == 10
    assert 48 <= taught.seconds <= 50
    assert 20 < taught.steps < 40
    assert taught.passes == taught.steps / 4


def test_the_best_state_is_kept_and_not_the_last(net: Net) -> None:
    model, lesson = net(), Fixed([1.0, 0.7, 0.5, 0.6])
    taught = within(model, lesson, 60, now=Ticks())
    assert (taught.before.loss, taught.after.loss) == (1.0, 0.5)
    assert 0 < taught.selected < taught.steps
    assert len(lesson.states) > 3
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, lesson.states[2][name], rtol=0, atol=0)


def test_a_network_that_gets_no_better_comes_back_bit_for_bit_with_its_modes(net: Net) -> None:
    model = net().train()
    model[6].eval()
    kept = copy.deepcopy(model)
    state = torch.get_rng_state()
    taught = within(model, Fixed([1.0]), 40, now=Ticks())
    assert taught.steps > 10
    assert taught.selected == 0
    assert taught.after == taught.before
    assert same(model, kept)
    assert [m.training for m in model.modules()] == [m.training for m in kept.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_a_loss_that_is_not_finite_ends_it_with_the_best_state(net: Net) -> None:
    model, lesson = net(), Fixed([1.0, 0.5], poison=14)
    taught = within(model, lesson, 100, now=Ticks())
    assert taught.ended == "diverged"
    assert taught.after.loss == 0.5
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, lesson.states[1][name], rtol=0, atol=0)


def test_passes_are_an_upper_bound(net: Net) -> None:
    taught = within(net(), Fixed([1.0], passes=2), 1000, now=Ticks())
    assert (taught.ended, taught.steps, taught.passes) == ("passes", 8, 2.0)
    none = within(net(), Fixed([1.0], passes=0), 1000, now=Ticks())
    assert (none.ended, none.steps) == ("passes", 0)


def test_no_step_is_taken_where_there_is_no_time_for_one(net: Net) -> None:
    taught = within(net(), Fixed([1.0]), 2, used=1.5, now=Ticks())
    assert (taught.ended, taught.steps, taught.selected) == ("time", 0, 0)


def test_batches_whose_gradients_are_averaged_are_one_step(net: Net) -> None:
    taught = within(net(), Fixed([1.0], Settings(accumulate=4, device="cpu")), 40, now=Ticks())
    assert taught.steps == int(4 * taught.passes) // 4
    plain = Settings(lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant", device="cpu")
    model, alone = net().eval(), net().eval()  # dropout draws nothing
    taught = within(model, Fixed([1.0, 0.5], replace(plain, accumulate=4), passes=1), 1000, now=Ticks())
    assert (taught.steps, taught.selected) == (1, 1)
    losses = [alone(batch).square().mean() for batch in Fixed([]).batches(number_of(0, 1))]
    torch.stack(losses).mean().backward()
    for own, parameter in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(own, parameter - 0.1 * parameter.grad)


def test_zeros_stay_zero(net: Net) -> None:
    model = net()
    mask = torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    with torch.no_grad():
        model[0].weight.mul_(mask)
    kept = model[0].weight.clone()
    taught = within(model, Fixed([1.0, 0.5]), 40, shaper=Hold(model, {"0.weight": mask}), now=Ticks())
    assert taught.selected > 0
    assert bool((model[0].weight[~mask] == 0).all())
    assert not torch.equal(model[0].weight, kept)


def test_after_a_kill_it_goes_on_with_the_time_that_is_left(pair: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    dense, thin = pair
    file, first = tmp_path / "minutes.ckpt", copy.deepcopy(thin)
    with pytest.raises(KeyboardInterrupt):
        within(first, Imitation(dense, pictures(), "x"), 100, used=7, checkpoint=file, now=Ticks(kill=60))
    with safe_open(file, framework="pt") as opened:
        noted = json.loads(opened.metadata()["secateur.training"])
    heard: list[Event] = []
    again, clock = copy.deepcopy(thin), Ticks()
    taught = within(again, Imitation(dense, pictures(), "x"), 100, checkpoint=file, now=clock, tell=heard.append)
    assert [event.text for event in heard if "going on" in event.text]
    assert taught.begun == 7
    assert taught.seconds <= 100
    assert noted["steps"] > 0
    assert taught.steps > noted["steps"]
    assert f"going on after step {noted['steps']}, " in heard[0].text
    assert taught.after.loss < noted["best"]["loss"] < taught.before.loss
    assert clock.seconds < 70
    alone = within(copy.deepcopy(thin), Imitation(dense, pictures(), "x"), 100, used=7, now=Ticks())
    assert taught.before == alone.before
    assert taught.after.loss < taught.before.loss
    judged = Imitation(dense, pictures(), "x")
    judged.open(again, _Here())
    assert judged.judge(again) == taught.after
    rerun = within(copy.deepcopy(thin), Imitation(dense, pictures(), "x"), 100, checkpoint=file, now=Ticks())
    assert (rerun.steps, rerun.after) == (taught.steps, taught.after)


class _Here:
    device = torch.device("cpu")


def test_a_kill_loses_neither_the_best_state_nor_what_was_before(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "minutes.ckpt"
    with pytest.raises(KeyboardInterrupt):
        within(net(), Fixed([1.0, 0.5]), 100, checkpoint=file, now=Ticks(kill=40))
    taught = within(net(), Fixed([]), 100, checkpoint=file, now=Ticks())
    assert (taught.before.loss, taught.after.loss) == (1.0, 0.5)


def test_checkpoints_of_other_trainings_and_damaged_ones_are_refused(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "minutes.ckpt"
    within(net(), Fixed([1.0]), 20, checkpoint=file, now=Ticks())
    with pytest.raises(TrainingError, match="belongs to another training"):
        within(net(), Fixed([1.0]), 20, checkpoint=file, seed=1, now=Ticks())
    whole = file.read_bytes()
    with safe_open(file, framework="pt") as opened:
        facts = json.loads(opened.metadata()["secateur.training"])
    for name, value in (("before", {}), ("used", "x"), ("at", None), ("optimizer", 1)):
        save_file(load_file(file), file, metadata={"secateur.training": json.dumps({**facts, name: value})})
        with pytest.raises(TrainingError, match="damaged or no training checkpoint"):
            within(net(), Fixed([1.0]), 20, checkpoint=file, now=Ticks())
    file.write_bytes(whole[:50])
    with pytest.raises(TrainingError, match="damaged or no training checkpoint"):
        within(net(), Fixed([1.0]), 20, checkpoint=file, now=Ticks())


def test_the_same_clock_gives_the_same_bits(pair: tuple[nn.Module, nn.Module]) -> None:
    dense, thin = pair
    one, other = copy.deepcopy(thin), copy.deepcopy(thin)
    for model in (one, other):
        within(model, Imitation(dense, pictures(), "x"), 60, now=Ticks())
    assert same(one, other)
    assert not same(one, thin)


def test_imitation_comes_nearer_on_images_that_it_never_learned_from(pair: tuple[nn.Module, nn.Module]) -> None:
    dense, thin = pair
    kept = copy.deepcopy(dense)
    norm = copy.deepcopy(thin[1])
    fresh = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        before = (thin.eval()(fresh) - dense(fresh)).square().sum()
    taught = within(thin, Imitation(dense, pictures(), "x"), 200, now=Ticks())
    with torch.no_grad():
        after = (thin.eval()(fresh) - dense(fresh)).square().sum()
    assert taught.after.loss < taught.before.loss
    assert after < before
    assert same(dense, kept)
    assert torch.equal(thin[1].running_mean, norm.running_mean)  # what a repair has fitted
    assert torch.equal(thin[1].running_var, norm.running_var)


@pytest.mark.parametrize(("count", "held"), [(32, 16), (50, 16), (100, 20), (1000, 200)])
def test_a_fifth_is_held_out_and_at_least_sixteen(count: int, held: int) -> None:
    lesson = Imitation(nn.Identity(), pictures(count), "x")
    assert len(lesson.held) == held >= FEWEST
    assert len(lesson.kept) + len(lesson.held) == count
    assert not set(lesson.kept) & set(lesson.held)


class Two(nn.Module):
    """Takes named inputs and returns a dict of two outputs of other shapes, and a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 3), nn.Conv2d(2, 4, 1)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, object]:
        return {"scores": (self.one(a),), "maps": self.other(b), "classes": self.one(a).argmax(1)}


def test_inputs_and_outputs_may_have_any_structure() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dense, images = Two(), [{"a": torch.randn(40, 6), "b": torch.randn(40, 2, 3, 3)} for _ in range(2)]
    thin = copy.deepcopy(dense)
    with torch.no_grad():
        thin.one.weight.mul_(0.5)
        thin.other.bias.zero_()
    lesson = Imitation(dense, images, "x")
    lesson.open(thin, _Here())
    rows = [lesson._gathered([place]) for place in lesson.held]
    with torch.no_grad():
        pairs = [(thin(**row), dense(**row)) for row in rows]
    parts = [
        [(own["scores"][0], right["scores"][0]) for own, right in pairs],
        [(o["maps"], r["maps"]) for o, r in pairs],
    ]
    wanted = [sum((o - r).square().sum() for o, r in part) / sum(r.square().sum() for _, r in part) for part in parts]
    assert lesson.judge(thin).loss == pytest.approx(float(sum(wanted)) / 2, rel=1e-5)
    taught = within(thin, Imitation(dense, images, "x"), 100, now=Ticks())
    assert taught.after.loss < taught.before.loss


def test_labels_teach_as_the_settings_say_and_validation_images_judge(toy, net: Net, plain) -> None:
    model = net()
    taught = within(model, Labelled(toy, plain(epochs=5), net(1)), 1000, now=Ticks())
    assert (taught.ended, taught.passes) == ("passes", 5.0)
    assert taught.before.value is not None
    assert taught.after.value is not None
    assert taught.after.better_than(taught.before)
    assert taught.selected > 0
    assert {call["split"] for call in toy.asked} == {"train", "val"}
    assert {call["batch_size"] for call in toy.asked} == {16}
    assert sum(call["split"] == "train" for call in toy.asked) == 1 + 5 + 1  # counted, passed through, and begun anew
    assert Labelled(toy, None, net(1)).settings == FINE_TUNING
    assert Labelled(toy, None, net(1)).passes is None
    assert Labelled(toy, plain(distill=0.5), net(1)).teacher is not None
    assert Labelled(toy, plain(), net(1)).teacher is None


def test_the_schedule_is_laid_over_the_share_that_is_over() -> None:
    def rates(settings: Settings, *shares: float) -> list[float]:
        rule = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        now = iter([shares[0], *shares])
        schedule, found = lasting(rule, settings, lambda: next(now)), list[float]()
        for _ in shares:
            rule.step()
            schedule.step()
            found.append(rule.param_groups[0]["lr"])
        return found

    assert rates(Settings(), 0.0, 0.5, 1.0) == pytest.approx([1.0, 0.5, 0.0])
    assert rates(Settings(schedule="constant"), 0.0, 1.0) == [1.0, 1.0]
    steps = Settings(epochs=10, schedule="step", milestones=(5, 8), gamma=0.1)
    assert rates(steps, 0.4, 0.6, 0.9) == pytest.approx([1.0, 0.1, 0.01])
    assert rates(replace(Settings(), warmup_epochs=5), 0.25, 0.5, 1.0) == pytest.approx([0.5, 1.0, 0.0])
    assert IMITATING.weight_decay == 0  # or it would pull a network that is right already away from it
