from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kills import Killed
from secateur.core.zeros.shaper import Shaper
from secateur.data import from_loaders
from secateur.errors import ArtifactError, DataError, ModelError, SettingError, TrainingError
from secateur.events import Event
from secateur.training import History, Row, Settings, Speed, fit

Net = Callable[[int], nn.Module]
Plain = Callable[..., Settings]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def no_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_it_is_the_loop_that_everyone_writes(toy: Any, net: Net, plain: Plain) -> None:
    ours, theirs = no_dropout(net(0)), no_dropout(net(0))
    history = fit(ours, toy, plain())
    passes = [call["seed"] for call in toy.asked if call["split"] == "train"][-3:]
    rule = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(rule, T_max=9)
    theirs.train()
    means: list[float] = []
    for seed in passes:
        losses: list[float] = []
        for images, labels in toy.batches("train", 16, shuffle=True, seed=seed):
            loss = F.cross_entropy(theirs(images), labels)
            rule.zero_grad()
            loss.backward()
            rule.step()
            rates.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    for (name, one), two in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    assert [row.train_loss for row in history.rows] == pytest.approx(means, rel=1e-5)


def test_the_history_tells_the_truth(toy: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    history = fit(model, toy, plain(epochs=2))
    model.eval()
    images, labels = toy._split("val")
    with torch.no_grad():
        scores = model(images)
    last = history.rows[-1]
    assert last.val_loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
    assert last.val_metric == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    assert [row.epoch for row in history.rows] == [1, 2]
    assert history.rows[0].lr == 0.05
    assert history.selected == 2
    assert History.from_dict(history.to_dict()) == history
    assert {call["split"] for call in toy.asked} == {"train", "val"}  # never the test split


def test_it_learns(toys: Any, net: Net, plain: Plain) -> None:
    history = fit(net(0), toys(images=96), plain(epochs=8, lr=0.1))
    assert history.rows[-1].train_loss < 0.7 * history.rows[0].train_loss
    assert history.rows[-1].val_metric is not None
    assert history.rows[-1].val_metric > 0.6


def test_everything_else_stays_as_it_was(toy: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    model[0].weight.requires_grad_(False)
    model[3].to(memory_format=torch.channels_last)
    model[1].eval()
    model[7].bias.grad = torch.ones(3) * 1e6  # from earlier work: must not be applied
    frozen, modes = model[0].weight.clone(), [m.training for m in model.modules()]
    strides = [parameter.stride() for parameter in model.parameters()]
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    fit(model, toy, plain(memory_format="channels_last", epochs=1))
    assert torch.equal(model[0].weight, frozen)
    assert [m.training for m in model.modules()] == modes
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert max(parameter.abs().max().item() for parameter in model.parameters()) < 100


def test_accelerates_state_is_the_callers(toy: Any, net: Net, plain: Plain) -> None:
    from accelerate.state import AcceleratorState, PartialState

    before = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    fit(net(0), toy, plain(epochs=1))
    fit(net(0), toy, plain(epochs=1, precision="bf16"))  # accelerate alone would refuse
    assert (PartialState._shared_state, AcceleratorState._shared_state) == before


def test_the_seed_decides(toy: Any, net: Net, plain: Plain) -> None:
    def trained(seed: int, augment: str = "noise") -> dict[str, Tensor]:
        model = net(0)
        fit(model, toy, plain(epochs=1, augment=augment), seed=seed)
        return weights(model)

    torch.manual_seed(1)
    first = trained(0)
    torch.manual_seed(2)
    assert same(first, trained(0))
    assert not same(first, trained(1))
    assert not same(first, trained(0, "none"))


def test_epochs_differ_from_each_other(toy: Any, net: Net, plain: Plain) -> None:
    fit(net(0), toy, plain(epochs=3))
    seeds = [call["seed"] for call in toy.asked if call["split"] == "train"]
    assert len(set(seeds[-3:])) == 3


def test_accumulated_batches_are_one_large_batch(toys: Any, plain: Plain) -> None:
    one, two = (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    data = toys(images=40)  # 16 + 16 + 8 against (8 + 8) + (8 + 8) + 8
    fit(one, data, plain(batch_size=16))
    fit(two, data, plain(batch_size=8, accumulate=2))
    torch.testing.assert_close(weights(one), weights(two))


def test_gradients_are_clipped(toy: Any, plain: Plain) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    before = model[1].weight.detach().clone()
    settings = plain(epochs=1, batch_size=48, clip_grad=1e-3, momentum=0.0, weight_decay=0.0, lr=1.0)
    fit(model, toy, settings)
    moved = torch.cat([(model[1].weight - before).flatten(), torch.zeros(1)]).norm().item()
    assert 1e-4 < moved <= 1.001e-3


class Spy(Shaper):
    """Holds a mask and pulls at a weight, like a method's shaper."""

    def __init__(self, model: nn.Module, strength: float = 0.0) -> None:
        self.weight: nn.Parameter = model[0].weight
        self.strength = strength
        self.steps: list[int] = []
        self.hold()

    def hold(self) -> None:
        with torch.no_grad():
            self.weight[0] = 0

    def penalty(self) -> Tensor | None:
        return self.strength * self.weight[1:].square().sum() if self.strength else None

    def after_step(self, step: int) -> None:
        self.steps.append(step)
        self.hold()


def test_masks_are_held_after_every_step(toy: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    spy = Spy(model)
    fit(model, toy, plain(epochs=2, batch_size=16, accumulate=2), shaper=spy)
    assert spy.steps == [0, 1, 2, 3]
    assert not model[0].weight[0].any()
    assert model[0].weight[1:].all()


def test_the_penalty_is_part_of_what_is_minimised(toy: Any, net: Net, plain: Plain) -> None:
    norms: list[float] = []
    losses: list[float] = []
    for strength in (0.0, 1.0):
        model = net(0)
        settings = plain(epochs=4, accumulate=2)
        history = fit(model, toy, settings, shaper=Spy(model, strength))
        norms.append(model[0].weight.norm().item())
        losses.append(history.rows[0].train_loss)
    assert norms[1] < 0.7 * norms[0]
    assert losses[1] == pytest.approx(losses[0], abs=0.2)  # the history shows the loss without the penalty


def test_the_teacher_teaches_and_is_left_alone(toy: Any, net: Net, plain: Plain) -> None:
    pupil, teacher = net(0), net(1).train()
    with torch.no_grad():
        teacher[7].bias.copy_(torch.tensor([-9.0, -9.0, 9.0]))  # always says class 2
    before = weights(teacher)
    settings = plain(epochs=6, distill=1.0, temperature=1.0)
    fit(pupil, toy, settings, teacher=teacher)
    pupil.eval()
    assert (pupil(toy._split("val")[0]).argmax(1) == 2).all()
    assert same(before, weights(teacher))
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_is_needed_only_for_distillation(toy: Any, net: Net, plain: Plain) -> None:
    with pytest.raises(TrainingError, match=r"'distill' is 0\.5 but there is no teacher"):
        fit(net(0), toy, plain(distill=0.5))
    one, two = net(0), net(0)
    fit(one, toy, plain(epochs=1))
    fit(two, toy, plain(epochs=1), teacher=net(1))
    assert same(weights(one), weights(two))


def test_statistics_are_recalibrated_before_training(toy: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    history = fit(model, toy, plain(epochs=0, recalibrate=True, augment="noise"))
    assert history.rows == ()
    assert history.selected == 0
    assert toy.asked[-1]["augment"] == "none"
    batches = list(toy.batches("train", 16, shuffle=True, seed=toy.asked[-1]["seed"]))
    outputs = [model[0](images) for images, _ in batches]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean.detach())


def test_best_is_judged_on_validation_images(toys: Any, net: Net, plain: Plain) -> None:
    kept: list[tuple[Row, dict[str, Tensor]]] = []
    model = net(0)

    def tell(event: Event) -> None:
        if event.stage == "train" and event.text.startswith("epoch"):
            kept.append((Row(**{**event.values, "epoch": int(event.values["epoch"])}), weights(model)))

    settings = plain(epochs=8, lr=0.5, schedule="constant", select="best")  # restless on purpose
    history = fit(model, toys(), settings, tell=tell)
    accuracies = [row.val_metric or 0 for row in history.rows]
    assert history.selected == accuracies.index(max(accuracies)) + 1
    assert history.selected < 8
    assert same(weights(model), kept[history.selected - 1][1])
    assert [row for row, _ in kept] == list(history.rows)


def test_without_validation_images(toys: Any, net: Net, plain: Plain) -> None:
    history = fit(net(0), toys(val=0), plain(epochs=1))
    assert history.rows[0].val_loss is None
    assert history.rows[0].val_metric is None
    with pytest.raises(TrainingError, match="no validation images"):
        fit(net(0), toys(val=0), plain(select="best"))


def killed_in(epoch: int) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if event.stage == "train" and not event.text and event.values["epoch"] == epoch and event.step % 3 == 2:
            raise Killed

    return tell


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optimizer": "adamw",
            "schedule": "step",
            "milestones": (2,),
            "accumulate": 2,
            "memory_format": "channels_last",
        },
        {
            "select": "best",
            "warmup_epochs": 1,
            "label_smoothing": 0.1,
            "recalibrate": True,
            "lr": 1.0,
            "precision": "bf16",
        },
    ],
)
def test_a_killed_training_goes_on_as_if_nothing_happened(
    toys: Any, tmp_path: Path, net: Net, plain: Plain, changes: dict[str, Any]
) -> None:
    settings = plain(epochs=4, augment="noise", **changes)
    whole, part = net(0), net(0)
    expected = fit(whole, toys(), settings, shaper=Spy(whole), seed=7)
    path = tmp_path / "checkpoint"
    for epoch in (2, 3):  # killed twice
        with pytest.raises(Killed):
            fit(part, toys(), settings, shaper=Spy(part), seed=7, checkpoint=path, tell=killed_in(epoch))
        part = net(99)  # another process would start with other weights
    spy = Spy(part)
    torch.manual_seed(123)
    history = fit(part, toys(), settings, shaper=spy, seed=7, checkpoint=path)
    assert same(weights(whole), weights(part))
    assert [without_time(row) for row in history.rows] == [without_time(row) for row in expected.rows]
    assert history.selected == expected.selected
    assert spy.steps[0] == 2 * (2 if settings.accumulate == 2 else 3)

    finished = net(98)
    assert fit(finished, toys(), settings, seed=7, checkpoint=path) == history
    assert same(weights(finished), weights(part))


def without_time(row: Row) -> tuple[object, ...]:
    return row.epoch, row.train_loss, row.train_metric, row.val_loss, row.val_metric, row.lr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("speed", {"precision": "fp8"}),
        ("speed", {"speed": "on"}),
        ("speed", 1),
        ("rows", [{"epoch": 1}]),
        ("optimizer", {}),
        ("steps", None),
    ],
)
def test_what_no_training_has_written_is_refused_and_changes_nothing(
    name: str, value: object, tmp_path: Path, toy: Any, net: Net, plain: Plain
) -> None:
    path, settings = tmp_path / "checkpoint", plain(epochs=1, precision="auto")
    fit(net(0), toy, settings, checkpoint=path)
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["secateur.training"])
    save_file(load_file(path), path, metadata={"secateur.training": json.dumps({**facts, name: value})})
    model = net(0)
    with pytest.raises(TrainingError, match=r"damaged or no training checkpoint.*; delete it"):
        fit(model, toy, settings, checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), net(0).parameters(), strict=True))


def test_the_history_of_an_earlier_version_is_read(toy: Any, net: Net, plain: Plain) -> None:
    history = fit(net(0), toy, plain(epochs=2))
    old = json.loads(json.dumps(history.to_dict()).replace("train_metric", "train_accuracy"))
    old["rows"] = [
        {name.replace("val_metric", "val_accuracy"): each for name, each in row.items()} for row in old["rows"]
    ]
    del old["metric"]
    assert History.from_dict(old) == history
    assert "val_metric" not in str(old)


def test_a_damaged_history_is_one_sentence(toy: Any, net: Net, plain: Plain) -> None:
    values = fit(net(0), toy, plain(epochs=1)).to_dict()
    for wrong in (
        {},
        {**values, "speed": {"precision": "fp8"}},
        {**values, "speed": None},
        {**values, "rows": [{}]},
        {**values, "rows": [3]},
    ):
        with pytest.raises(ArtifactError, match="the stored history is damaged"):
            History.from_dict(wrong)
    with pytest.raises(SettingError, match="'compile' must be one of on, off, not 'maybe'"):
        Speed(compile="maybe")


def test_a_foreign_checkpoint_changes_nothing(tmp_path: Path, toy: Any, net: Net, plain: Plain) -> None:
    path = tmp_path / "checkpoint"
    fit(net(0), toy, plain(epochs=1), checkpoint=path)
    content, model = path.read_bytes(), net(0)
    before = weights(model)
    with pytest.raises(TrainingError, match="belongs to another training"):
        fit(model, toy, plain(epochs=1, lr=0.02), checkpoint=path)
    assert same(before, weights(model))
    assert path.read_bytes() == content


def test_a_shaper_with_a_state_is_resumed_with_it(tmp_path: Path, toy: Any, net: Net, plain: Plain) -> None:
    class Remembering(Spy):
        seen = torch.zeros(())

        def after_step(self, step: int) -> None:
            self.seen = self.seen + step

        def state_dict(self) -> dict[str, Tensor]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            self.seen = state["seen"]

    path = tmp_path / "checkpoint"
    model = net(0)
    with pytest.raises(Killed):
        fit(model, toy, plain(), shaper=Remembering(model), checkpoint=path, tell=killed_in(3))
    shaper = Remembering(model)
    fit(model, toy, plain(), shaper=shaper, checkpoint=path)
    assert shaper.seen == sum(range(9))


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_a_loss_that_is_not_finite_is_undone(
    toys: Any, tmp_path: Path, net: Net, plain: Plain, with_checkpoint: bool
) -> None:
    good = net(0)
    fit(good, toys(), plain(epochs=2, schedule="constant"))
    model, path = net(0), tmp_path / "checkpoint"
    settings = plain(epochs=3, schedule="constant")
    with pytest.raises(TrainingError) as caught:
        fit(model, toys(poison=(2, 1)), settings, checkpoint=path if with_checkpoint else None)
    text = str(caught.value)
    assert "became nan at step 2 of epoch 3" in text
    assert "put back to the end of epoch 2" in text
    assert "lower 'lr' (it was 0.05)" in text
    assert (str(path) in text) == with_checkpoint
    assert same(weights(model), weights(good))
    assert model.training


@pytest.mark.parametrize("select", ["last", "best"])
def test_weights_too_large_to_compute_with_are_noticed_after_the_last_step(
    toy: Any, net: Net, plain: Plain, select: str
) -> None:
    model = net(0)
    before = weights(model)

    class Bomb(Spy):
        def after_step(self, step: int) -> None:
            if step == 2:
                for parameter in model.parameters():
                    parameter.fill_(1e30)

    with pytest.raises(
        TrainingError, match=r"validation loss is nan after the last step of epoch 1; .*before training"
    ):
        fit(model, toy, plain(epochs=1, select=select), shaper=Bomb(model))
    assert same({**before, "0.weight": model[0].weight}, weights(model))


def test_a_weight_that_explodes_in_the_last_step_is_noticed(toy: Any, net: Net, plain: Plain) -> None:
    model = net(0)
    before = weights(model)

    class Bomb(Spy):
        def after_step(self, step: int) -> None:
            if step == 2:
                self.weight.fill_(float("inf"))

    with pytest.raises(TrainingError, match=r"weight is nan or infinite .*its state before training"):
        fit(model, toy, plain(), shaper=Bomb(model))
    assert same({**before, "0.weight": model[0].weight}, weights(model))
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())


def test_progress_is_told_but_not_too_often(toys: Any, net: Net, plain: Plain) -> None:
    events: list[Event] = []
    fit(net(0), toys(images=128), plain(epochs=2, batch_size=2), tell=events.append)
    progress = [event for event in events if event.stage == "train"]
    assert progress[-1].step == progress[-1].total == 128
    assert 40 <= len(progress) <= 48
    assert all(math.isfinite(value) for event in progress for value in event.values.values())
    assert "epoch 2 of 2" in progress[-1].text
    steps = [event.step for event in progress]
    assert steps == sorted(steps)


def test_what_cannot_be_trained_is_said(toys: Any, toy: Any, net: Net, plain: Plain) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        fit(net(0).requires_grad_(False), toy, plain())
    for seed in (-1, 2**70, 0.5):
        with pytest.raises(SettingError, match="seed must be a whole number of at least 0"):
            fit(net(0), toy, plain(), seed=seed)
    with pytest.raises(TrainingError, match="needs a CUDA device"):
        fit(net(0), toy, plain(precision="fp16"))
    with pytest.raises(ModelError, match="toy has 5 classes but the network scores 3"):
        fit(net(0), toys(classes=5), plain())
    with pytest.raises(ModelError, match="the teacher scores 4 classes and the network 3"):
        fit(net(0), toy, plain(distill=0.5), teacher=nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    with pytest.raises(ModelError, match="cannot run on inputs of shape"):
        fit(nn.Linear(5, 5), toy, plain())


@pytest.mark.parametrize("first", [True, False])
def test_an_empty_batch_is_refused(net: Net, plain: Plain, first: bool) -> None:
    batches = [(torch.zeros(count, 3, 8, 8), torch.zeros(count, dtype=torch.long)) for count in (0, 2)]
    data = from_loaders(batches if first else batches[::-1], batches[1:], batches[1:], classes=3)
    with pytest.raises(DataError, match="a training batch has no examples"):
        fit(net(0), data, plain(precision="auto"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_said(toy: Any, net: Net, plain: Plain) -> None:
    with pytest.raises(TrainingError, match="no CUDA device"):
        fit(net(0), toy, plain(device="cuda"))


def test_outputs_other_than_tensors(toy: Any, net: Net, plain: Plain) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(0)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(images), "aside": images}

    one, two = Wrapped(), net(0)
    fit(one, toy, plain(epochs=1))
    fit(two, toy, plain(epochs=1))
    assert same(weights(one.inner), weights(two))


def test_mixed_precision_is_used_and_weights_stay_float32(toy: Any, net: Net, plain: Plain) -> None:
    seen: set[torch.dtype] = set()
    model = net(0)
    handle = model[0].register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    history = fit(model, toy, plain(epochs=1, precision="bf16"))
    handle.remove()
    assert torch.bfloat16 in seen
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert history.speed == Speed("bf16", "contiguous", "off")
