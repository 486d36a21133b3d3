"""Masks that are on a network while it trains: what is out of play is zero and gets no gradient."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from secateur.core.graph import tensor_of
from secateur.core.zeros.shaper import Shaper
from secateur.core.zeros.splicing import Overlay


def smallest(values: Tensor, count: int) -> Tensor:
    """Return which values stay, boolean, when exactly so many of the smallest go; of equal ones the first.

    Args:
        values: of any shape.
        count: at most as many as there are; below 1 all stay.
    """
    if count < 1:
        return torch.ones(values.shape, dtype=torch.bool, device=values.device)
    flat = values.detach().flatten()
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    threshold = torch.kthvalue(flat, count).values
    gone, level = flat < threshold, flat == threshold
    gone |= level & (level.cumsum(0) <= count - gone.sum())
    return ~gone.reshape(values.shape)


class Masks:
    """Which weights of a network are in play; all of them at first.

    Args:
        model: the network that trains.
        names: of the weights that may go out of play.
        remember: whether weights out of play keep their value aside and come back with it; else they come back as 0.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], *, remember: bool = False) -> None:
        self._tensors = {name: tensor_of(model, name) for name in names}
        self._keep = {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in self._tensors.items()}
        self._whole = dict.fromkeys(self._tensors, True)
        self._overlay = Overlay(self._tensors.items()) if remember else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(self._tensors)

    @contextlib.contextmanager
    def attached(self) -> Generator[None]:
        """Keep gradients from weights out of play inside the block, so that no optimizer remembers any either."""
        with contextlib.ExitStack() as stack:
            for name, tensor in self._tensors.items():
                if tensor.requires_grad:
                    handle = tensor.register_hook(partial(self._masked, name))
                    stack.callback(handle.remove)
            yield

    def keep(self, name: str) -> Tensor:
        """Return who is in play, boolean, where the weight is."""
        device = self._tensors[name].device
        if self._keep[name].device != device:
            self._keep[name] = self._keep[name].to(device)
        return self._keep[name]

    def sizes(self, name: str) -> Tensor:
        """Return how large each weight is; those out of play have the size that they would come back with."""
        tensor = self._tensors[name].detach() if self._overlay is None else self._overlay.whole(name)
        return tensor.abs()

    def tensor(self, name: str) -> Tensor:
        """Return a weight itself."""
        return self._tensors[name]

    @torch.no_grad()
    def put(self, keeps: Mapping[str, Tensor]) -> None:
        """Say anew who is in play, in some of the weights or all."""
        for name, keep in keeps.items():
            self._keep[name], self._whole[name] = keep, bool(keep.all())
            if self._overlay is None:
                self._tensors[name].mul_(self.keep(name))
            else:
                self._overlay.show(name, keep)

    @torch.no_grad()
    def hold(self) -> None:
        """Set what is out of play back to zero, whatever an optimizer has done to it."""
        for name, tensor in self._tensors.items():
            if self._whole[name]:
                continue
            if self._overlay is None:
                tensor.mul_(self.keep(name))
            else:
                self._overlay.show(name, self.keep(name))

    def state_dict(self) -> dict[str, Tensor]:
        """Return who is in play, and what is kept aside."""
        aside = {} if self._overlay is None else self._overlay.state_dict()
        return {f"keep/{n}": keep for n, keep in self._keep.items()} | {f"aside/{n}": t for n, t in aside.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        for name in self._tensors:
            self._keep[name] = state[f"keep/{name}"].bool()
            self._whole[name] = bool(self._keep[name].all())
        if self._overlay is not None:
            self._overlay.load_state_dict({name: state[f"aside/{name}"] for name in self._tensors})

    def _masked(self, name: str, gradient: Tensor) -> Tensor | None:
        return None if self._whole[name] else gradient * self.keep(name)


class Masking(Shaper, ABC):
    """Decides while a network trains who is in play, and holds the others at zero after every step.

    Args:
        masks: of the network that trains.
    """

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    def after_step(self, step: int) -> None:
        """Hold what is out of play at zero."""
        self._masks.hold()

    @abstractmethod
    def finish(self) -> None:
        """Leave in the network what the end of the training says, whenever it has ended."""
