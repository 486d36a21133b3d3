"""Random numbers and other things beside the inputs that a forward can look at: notice that it has."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery.generators import Source, common, held
from secateur.core.surgery.untouched import equal

_PLAIN = (bool, int, float, str, type(None))


class Around:
    """What lies around a network: generators, and what its modules note down when they run."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.sources = common() + held(model.modules())
        self._states = [pickle.dumps(source.get()) for source in self.sources]
        self._plain = _plain(model)
        with torch.inference_mode(False), torch.no_grad():
            self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def drawn(self) -> list[Source]:
        """Return the generators that were used since."""
        return [s for s, state in zip(self.sources, self._states, strict=True) if pickle.dumps(s.get()) != state]

    def noted(self) -> bool:
        """Tell whether modules have changed a number that they hold, or a buffer, since."""
        if _plain(self._model) != self._plain:
            return True
        now = dict(self._model.named_buffers())
        return now.keys() != self._buffers.keys() or any(_differ(now[name], b) for name, b in self._buffers.items())


def _plain(model: nn.Module) -> list[dict[str, Any]]:
    return [{key: value for key, value in vars(m).items() if type(value) in _PLAIN} for m in model.modules()]


def _differ(buffer: Tensor, before: Tensor) -> bool:
    return buffer.shape != before.shape or buffer.dtype != before.dtype or not equal(buffer, before)
