from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import ModelError, SettingError
from secateur.measure import Latency, latency


class Spy(nn.Module):
    """A convolution that writes down how it was run."""

    def __init__(self, seen: list[tuple[int, bool, bool, bool]] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        kept = [] if seen is None else seen
        self.seen = lambda: kept  # lists that a network holds itself are put back

    def forward(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        self.seen().append((torch.get_num_threads(), last, self.training, torch.is_inference_mode_enabled()))
        return self.conv(x)

    def __deepcopy__(self, memo: object) -> Spy:
        return Spy(self.seen())


def test_values_are_sane_and_the_conditions_are_stated() -> None:
    model = Spy().train()
    before = torch.get_num_threads()
    result = latency(model, torch.randn(2, 3, 8, 8), threads=before + 1, seconds=0.02)
    assert 0 < result.milliseconds < 1000
    assert result.spread >= 0
    # three passes of warm-up at least, and every timed pass, go through the model
    assert 1 <= result.runs <= len(model.seen()) - 3
    assert (result.batch_size, result.threads, result.device, result.runtime) == (
        2,
        before + 1,
        "cpu",
        "eager",
    )
    assert torch.get_num_threads() == before
    assert set(model.seen()) == {(before + 1, False, False, True)}
    assert model.training


def test_channels_last_works_on_a_copy() -> None:
    model = Spy()
    result = latency(model, torch.randn(1, 3, 8, 8), seconds=0.01, runtime="channels_last")
    assert result.runtime == "channels_last"
    assert result.threads == torch.get_num_threads()
    assert all(last for _, last, _, _ in model.seen())
    assert model.conv.weight.is_contiguous()


def test_more_work_takes_longer() -> None:
    small, large = nn.Linear(8, 8), nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    fast = latency(small, torch.randn(1, 8), threads=1, seconds=0.02)
    slow = latency(large, torch.randn(256, 256), threads=1, seconds=0.02)
    assert slow.milliseconds > fast.milliseconds


def test_tuples_and_dicts_of_inputs() -> None:
    model = nn.Bilinear(2, 3, 1)
    a, b = torch.randn(4, 2), torch.randn(4, 3)
    assert latency(model, (a, b), seconds=0.01).batch_size == 4
    assert latency(model, {"input2": b, "input1": a}, seconds=0.01).batch_size == 4


def test_a_list_of_images_is_a_batch_of_as_many() -> None:
    class Detector(nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
            return [image.mean() for image in images]

    assert latency(Detector(), ([torch.rand(3, 8, 8)],), seconds=0.01).batch_size == 1
    assert latency(Detector(), ([torch.rand(3, 8, 8), torch.rand(3, 6, 9)],), seconds=0.01).batch_size == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be a whole number of threads, at least 1 and at most 4096, not 0"),
        ({"seconds": 0.0}, "seconds must be a number of seconds above 0"),
        ({"seconds": float("nan")}, "seconds must be a number of seconds above 0"),
        (
            {"runtime": "chanels_last"},
            "runtime must be one of eager, .*, not 'chanels_last'.*did you mean 'channels_last'",
        ),
    ],
)
def test_settings_out_of_range(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        latency(nn.Linear(2, 2), torch.randn(1, 2), **options)  # type: ignore[arg-type]


def test_threads_and_mode_come_back_after_a_failure() -> None:
    model = nn.Linear(2, 2).train()
    before = torch.get_num_threads()
    with pytest.raises(ModelError, match=r"cannot run on inputs of shape \(1, 3\)"):
        latency(model, torch.randn(1, 3), threads=before + 1)
    assert torch.get_num_threads() == before
    assert model.training


def test_there_and_back_through_a_dict() -> None:
    value = Latency(1.5, 0.25, 100, 1, 2, "cpu", "eager")
    assert Latency.from_dict(value.to_dict()) == value
