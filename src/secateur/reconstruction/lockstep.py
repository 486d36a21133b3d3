"""Run a network on many batches side by side, all of them stopping at the same calls.

To fit a layer one needs its inputs of all images; to fit the next one, the inputs that the fitted layer leads to. With
all batches waiting at the same call, one forward pass of the whole network is enough for all layers, and nothing but
what the batches hold at that call is in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secateur.core.surgery import Inputs
from secateur.core.surgery.forward import forward

Watch = Callable[["Runner"], Any]
"""Makes the context in which a forward pass runs, such as a function mode, in the runner's own thread."""


class _Broken(BaseException):
    """Ends a forward pass that nobody waits for any more; only a bare ``except`` of the network's own can stop it."""


class Runner:
    """One forward pass in a thread of its own, which goes on only while somebody waits for it.

    Attributes:
        number: of the batch.
        stop: what the pass waits at, as given to ``pause``; None when it is over.
        started: whether it has been advanced at all.
    """

    def __init__(self, number: int, model: nn.Module, inputs: Inputs, watch: Watch) -> None:
        self.number = number
        self.stop: Any = None
        self._go, self._waiting = threading.Semaphore(0), threading.Semaphore(0)
        self._broken = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(model, inputs, watch), daemon=True)
        self.started = False

    def advance(self) -> Any:
        """Let the pass go on to its next stop and return that; None when it is over.

        Raises:
            ModelError: if the network fails on its inputs.
        """
        if not self.started:
            self.started = True
            self._thread.start()
        self._go.release()
        self._waiting.acquire()
        if self._error is not None:
            raise self._error
        return self.stop

    def pause(self, stop: Any) -> None:
        """Wait at a stop; called in the thread of the pass."""
        if self._broken:  # the network has swallowed the end that it was told before
            raise _Broken
        self.stop = stop
        self._waiting.release()
        self._go.acquire()
        if self._broken:
            raise _Broken

    def end(self) -> None:
        """Give up a pass that is not over."""
        if self.started and self._thread.is_alive():
            self._broken = True
            self._go.release()
            self._thread.join()

    def _work(self, model: nn.Module, inputs: Inputs, watch: Watch) -> None:
        self._go.acquire()
        try:
            with watch(self), torch.no_grad():
                forward(model, inputs)  # passes end in any order: whoever began them all puts things back
        except _Broken:
            pass
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        self.stop = None
        self._waiting.release()


class Lockstep:
    """Forward passes of one network over several batches.

    Args:
        model: the network, in evaluation mode; its weights may be changed whenever all passes wait.
        batches: what its forward takes, one for each pass.
        watch: the context of each pass; it calls ``Runner.pause`` where the pass is to wait.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs], watch: Watch) -> None:
        self.runners = [Runner(number, model, inputs, watch) for number, inputs in enumerate(batches)]

    def advance(self) -> list[Any]:
        """Let every pass go on to its next stop, one after the other, and return the stops."""
        return [runner.advance() for runner in self.runners]

    @contextmanager
    def __call__(self) -> Generator[Lockstep]:
        """Give up what is not over at the end."""
        try:
            yield self
        finally:
            for runner in self.runners:
                runner.end()
