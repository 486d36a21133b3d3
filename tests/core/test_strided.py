"""The smaller matrix product computes what the masked convolution computes, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.core.patterns import stride_mask
from secateur.core.strided import StridedConv2d
from secateur.errors import PlanError


@given(
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 4), st.integers(2, 4)),
    step=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    polarity=st.sampled_from(["keep", "drop"]),
    data=st.data(),
)
def test_it_equals_the_masked_convolution(
    inputs, outputs, kernel, step, padding, dilation, bias, polarity, data
) -> None:
    size = kernel[0] * kernel[1]
    stride = data.draw(st.integers(2, size))
    offsets = [data.draw(st.integers(0, stride - 1)) for _ in range(inputs)]
    mask = torch.stack([stride_mask(kernel, stride, offset, polarity) for offset in offsets])
    mask = mask.expand(outputs, inputs, *kernel)
    convolution = nn.Conv2d(inputs, outputs, kernel, step, padding, dilation, bias=bias)
    thin = StridedConv2d(convolution, mask)
    x = torch.randn(2, inputs, 9, 10, requires_grad=True)
    weight = (convolution.weight.detach() * mask).requires_grad_()
    expected = F.conv2d(x, weight * mask, convolution.bias, step, padding, dilation)
    found = thin(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert thin.weight.shape == (outputs, int(mask[0].sum()))
    torch.testing.assert_close(thin.dense_weight(), weight)

    pull = torch.randn_like(expected)
    (dx, dw) = torch.autograd.grad(expected, (x, weight), pull)
    (x_found, w_found) = torch.autograd.grad(found, (x, thin.weight), pull)
    torch.testing.assert_close(x_found, dx, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        thin.weight.copy_(w_found)
    torch.testing.assert_close(thin.dense_weight(), dw * mask, rtol=1e-5, atol=1e-4)


def test_a_mask_that_drops_everything_leaves_the_bias() -> None:
    convolution = nn.Conv2d(2, 3, 3)
    found = StridedConv2d(convolution, torch.zeros(3, 2, 3, 3, dtype=torch.bool))(torch.randn(1, 2, 5, 5))
    assert torch.equal(found, convolution.bias[None, :, None, None].expand(1, 3, 3, 3))  # type: ignore[index]


def test_its_weights_survive_a_state_dict() -> None:
    mask = stride_mask((3, 3), 2, 1).expand(3, 2, 3, 3)
    one, two = (StridedConv2d(nn.Conv2d(2, 3, 3), mask) for _ in range(2))
    two.load_state_dict(one.state_dict())
    assert set(one.state_dict()) == {"weight", "bias"}
    assert torch.equal(two.dense_weight(), one.dense_weight())


def test_other_masks_and_convolutions_are_refused() -> None:
    mask = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    uneven = mask.clone()
    uneven[0, 0, 0, 0] = False
    for convolution, given_mask in (
        (nn.Conv2d(2, 4, 3), uneven),
        (nn.Conv2d(2, 4, 3), mask[:2]),
        (nn.Conv2d(4, 4, 3, groups=2), mask),
        (nn.Conv2d(2, 4, 3, padding="same"), mask),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), mask),
    ):
        with pytest.raises(PlanError, match=r"mask must have|only convolutions with one group"):
            StridedConv2d(convolution, given_mask)
