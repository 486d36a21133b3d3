"""Ctrl-C while something is put back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.interrupts import deferred
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import masked
from secateur.core.surgery.steady_draws import WithoutDropout
from secateur.core.trace import trace


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def ordinary_handler() -> Generator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_one_waits_until_the_outermost_block_is_left() -> None:
    done: list[str] = []

    def blocks() -> None:
        with deferred:
            with deferred:
                interrupt()
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        blocks()
    assert done == ["inner", "outer"]
    with deferred:  # and is heard once
        pass


def test_a_second_one_breaks_through() -> None:
    done: list[str] = []

    def block() -> None:
        with deferred:
            interrupt()
            done.append("first")
            interrupt()
            done.append("second")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["first"]


def test_the_handler_of_the_program_hears_it() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    with deferred:
        interrupt()
        assert not heard
    assert heard == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred:
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_change_nothing() -> None:
    found: list[Any] = []

    def enter() -> None:
        with deferred:
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.head(self.two(y.view(y.shape[0], 8, y.shape[2], y.shape[3])).mean((2, 3)))


def interrupted_in(file: str, function: str, event: str, nth: int) -> Any:
    """Return a trace function that presses Ctrl-C once, at the n-th event in a function."""
    left = [nth]

    def trace_calls(frame: FrameType, kind: str, arg: object) -> Any:
        if frame.f_code.co_filename.endswith(file) and frame.f_code.co_name == function:
            return trace_lines
        return None

    def trace_lines(frame: FrameType, kind: str, arg: object) -> Any:
        if kind == event:
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                interrupt()
        return trace_lines

    return trace_calls


@pytest.mark.parametrize(
    ("file", "function"),
    [
        ("surgery/silence.py", "_zero"),
        ("surgery/restoring.py", "_restore_table"),
        ("surgery/untouched.py", "_write"),
        ("fx/_symbolic_trace.py", "revert_all_patches"),
    ],
)
@pytest.mark.parametrize("nth", [1, 3])
def test_networks_and_processes_are_left_as_they_were(file: str, function: str, nth: int) -> None:
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    net.register_buffer("count", torch.zeros(3))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    call = nn.Module.__call__
    sys.settrace(interrupted_in(file, function, "line", nth))
    try:
        with pytest.raises(KeyboardInterrupt):
            trace(net, x)
    finally:
        sys.settrace(None)
        patched, nn.Module.__call__ = nn.Module.__call__ is not call, call
    assert not patched
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert torch.is_grad_enabled()


def test_silenced_weights_come_back_if_putting_them_back_is_interrupted() -> None:
    net = Net().eval()
    graph, before = trace(net, torch.randn(2, 3, 8, 8)), net.two.weight.clone()

    class Pressing(WithoutDropout):
        def _called(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if getattr(func, "__name__", "") in ("copy_", "index_copy_"):
                interrupt()
            return func(*args, **named)

    with pytest.raises(KeyboardInterrupt), Pressing(), masked(net, graph, Plan((DropUnits("one", (0, 1)),))):
        assert not torch.equal(net.two.weight, before)
    assert torch.equal(net.two.weight, before)


def test_a_mode_is_active_and_left_or_not_active() -> None:
    sys.settrace(interrupted_in("torch/overrides.py", "__enter__", "line", 1))
    try:
        with pytest.raises(KeyboardInterrupt), WithoutDropout():
            pytest.fail("entered")
    finally:
        sys.settrace(None)
    assert torch._C._len_torch_function_stack() == 0  # pyright: ignore[reportPrivateUsage]
