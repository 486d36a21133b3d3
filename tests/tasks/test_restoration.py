from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from measured import measured, sentence
from secateur.errors import DataError, ModelError
from secateur.tasks import Restoration, read_task
from secateur.tasks.restoration import signal_to_noise

TASK = Restoration()
Image = NDArray[np.float64]


def luma(image: Image) -> Image:
    """Y of YCbCr in 16..235, as rgb2ycbcr of MATLAB computes it for Set5."""
    red, green, blue = image
    return 16.0 + 65.481 * red + 128.553 * green + 24.966 * blue


def psnr(found: Image, right: Image) -> float:
    return float(20 * np.log10(255 / np.sqrt(((found - right) ** 2).mean())))


def ssim(found: Image, right: Image) -> float:
    """Wang et al. 2004, formula 13, with their window, pixel by pixel."""
    steps = np.arange(11) - 5
    line = np.exp(-(steps**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(found.shape[0] - 10):
        for x in range(found.shape[1] - 10):
            a, b = found[y : y + 11, x : x + 11], right[y : y + 11, x : x + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            likeness = (2 * mean_a * mean_b + c1) * (2 * both + c2)
            values.append(likeness / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


def pictures(batch: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    right = torch.rand(batch, channels, height, width)
    return right + 0.1 * torch.randn_like(right), right  # the first leaves 0..1 in places


@pytest.mark.parametrize(("channels", "border"), [(3, 0), (3, 4), (1, 2)])
def test_against_the_definitions(channels: int, border: int):
    found, right = pictures(2, channels, 24, 21)
    expected: list[tuple[float, float]] = []
    for one, other in zip(found.double().numpy().clip(0, 1), right.double().numpy(), strict=True):
        planes = [luma(each) if channels == 3 else 255 * each[0] for each in (one, other)]
        a, b = (plane[border : 24 - border, border : 21 - border] for plane in planes)
        expected.append((psnr(a, b), ssim(a, b)))
    value = measured(Restoration(border=border), (found, right))
    assert value == (pytest.approx(np.mean(expected, 0)[0], rel=1e-5), pytest.approx(np.mean(expected, 0)[1], abs=2e-5))


def test_red_green_and_blue_are_judged_together_where_that_is_asked_for():
    found, right = pictures(2, 3, 24, 21)
    value = measured(Restoration(border=2, channels="rgb"), (found, right))
    error = (found.clamp(0, 1) - right)[..., 2:-2, 2:-2].double().square().mean(dim=(1, 2, 3))
    assert value[0] == pytest.approx(float((-10 * error.log10()).mean()), rel=1e-5)
    planes = [measured(Restoration(border=2), (found[:, at, None], right[:, at, None]))[1] for at in range(3)]
    assert value[1] == pytest.approx(np.mean(planes), abs=2e-5)
    assert read_task("restoration?border=2&channels=rgb") == Restoration(border=2, channels="rgb")


def test_black_and_white_by_hand():
    """Luma of 16 and of 235 in 8 bits."""
    value = measured(TASK, (torch.zeros(1, 3, 12, 12), torch.ones(1, 3, 12, 12)))
    assert value[0] == pytest.approx(20 * math.log10(255 / 219), abs=1e-5)


def test_several_batches_are_one_even_of_several_sizes():
    found, right = pictures(5, 3, 16, 16)
    whole = measured(TASK, (found, right))
    parts = measured(TASK, (found[:2], right[:2]), (found[2:2], right[2:2]), (found[2:], right[2:]))
    assert parts == pytest.approx(whole, rel=1e-6)
    other = pictures(1, 3, 20, 13)
    (alone,) = {measured(TASK, other)[0]}
    assert measured(TASK, (found, right), other)[0] == pytest.approx((5 * whole[0] + alone) / 6, rel=1e-6)


def test_the_same_image_has_the_largest_ratio_and_leaves_a_mean_of_others():
    found, right = pictures(1, 3, 12, 12)
    assert measured(TASK, (right, right)) == (100.0, pytest.approx(1))
    (noise, _) = measured(TASK, (found, right))
    assert measured(TASK, (found, right), (right, right))[0] == pytest.approx((noise + 100) / 2, rel=1e-6)


def test_nan_is_worse_than_any():
    found, right = pictures(2, 3, 12, 12)
    found[0, 0, 5, 5] = math.nan
    assert all(TASK.metric.key(value) == -math.inf for value in measured(TASK, (found, right)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision(dtype: torch.dtype):
    found, right = (each.to(dtype) for each in pictures(1, 3, 12, 12))
    expected = measured(TASK, (found.float(), right.float()))
    assert measured(TASK, (found, right)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_mean_absolute_error():
    found, right = pictures(2, 3, 5, 5)
    own = found.clone().requires_grad_()
    loss = TASK.loss(TASK.output((own,)), (None, right))
    loss.backward()
    assert loss.item() == pytest.approx((found - right).abs().mean().item())
    assert own.grad is not None
    assert torch.allclose(own.grad, (found - right).sign() / found.numel())
    assert TASK.loss(found.half(), (None, right)).dtype == torch.float32


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(3, 8, 8), "float32 of shape (3, 8, 8)"),
        (torch.zeros(1, 3, 8, 8).byte(), "uint8 of shape (1, 3, 8, 8)"),
        (SimpleNamespace(sample=1), "a SimpleNamespace"),
        ({"out": 1}, "a table of out"),
    ],
)
def test_what_came_out_instead_is_said(returned: Any, said: str):
    assert sentence(ModelError, lambda: TASK.output(returned)).endswith(f", not {said}")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (torch.zeros(2, 3, 6, 6), "of shape (2, 3, 12, 12), as the network returns them, not float32"),
        (torch.zeros(2, 1, 12, 12), "not float32 of shape (2, 1, 12, 12)"),
        (torch.zeros(2, 3, 12, 12).byte(), "not uint8"),
        (torch.full((2, 3, 12, 12), 255.0), "must be in 0..1, and there are some from 255 to 255"),
        (torch.full((2, 3, 12, 12), -0.1), "from -0.1 to -0.1"),
        (torch.full((2, 3, 12, 12), math.nan), "from nan to nan"),
        (None, "not nothing"),
    ],
)
def test_targets_that_do_not_fit(target: Any, said: str):
    output = torch.zeros(2, 3, 12, 12)
    assert said in sentence(DataError, lambda: TASK.loss(output, (None, target)))
    assert said in sentence(DataError, lambda: TASK.meter(torch.device("cpu")).update(output, (None, target)))


def test_images_that_are_too_small():
    small = torch.zeros(1, 3, 12, 14)
    said = sentence(DataError, lambda: measured(Restoration(border=1), (small, small)))
    assert "12x14 without 1 pixels on each side" in said
    assert TASK.loss(small[..., :2, :2], (None, small[..., :2, :2])) == 0  # crops are trained on


def test_without_examples():
    assert "no examples" in sentence(DataError, lambda: measured(TASK))


@pytest.mark.parametrize(("channels", "border"), [(3, 0), (3, 4), (1, 2)])
def test_the_noise_of_single_images_is_that_of_the_metric(channels, border):
    found, wanted = torch.rand(2, channels, 24, 24), torch.rand(2, channels, 24, 24)
    meter = Restoration(border=border).meter(torch.device("cpu"))
    meter.update(found, (found, wanted))
    assert float(signal_to_noise(found, wanted, Restoration(border=border)).mean()) == pytest.approx(
        meter.compute()[0], rel=1e-5
    )
