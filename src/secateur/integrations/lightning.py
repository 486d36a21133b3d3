"""Pruning in a ``Trainer`` of Lightning, by a callback."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from secateur.errors import SettingError
from secateur.integrations.epochs import Pruning, part_of
from secateur.session.holders import shapes_of

_AVERAGES = ("AveragedModel", "ModelEma", "ModelEmaV2", "ModelEmaV3")


def _base() -> Any:
    """Return the class of callbacks of the Lightning that is in use: it comes under two names."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(names, key=lambda each: each not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", name):
                raise
    raise SettingError("this callback needs Lightning: pip install 'secateur[lightning]'")


_Callback: Any = _base()


class PruningCallback(Pruning, _Callback):
    """Prunes a network of a ``LightningModule`` in place at the beginning of epochs, see ``secateur.Session``.

    Optimizers, schedulers, averages (of ``WeightAveraging`` and ``StochasticWeightAveraging``, and those of torch and
    timm in an attribute of the module or of a callback) and the wrapper of several processes follow. A checkpoint holds
    what was cut: ``trainer.fit(module, ckpt_path=...)`` with the original network goes on from there, and so do
    ``validate``, ``test`` and ``predict``.

    Args:
        example_inputs: what the network runs on.
        method: see ``secateur.Session``.
        keep: see there.
        network: which part of the ``LightningModule`` is the network, such as ``"net"``, which is taken if None; its
            forward is what is read.
        start: number of the epoch, from 0, that the first cut begins.
        every: epochs from one cut to the next.
        session: further arguments of ``secateur.Session``, by their names.

    Raises:
        SecateurError: one of its kinds, when the trainer begins; then nothing was cut.
    """

    usual_network = "net"
    first = "call trainer.fit with this callback"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin with the network as it is, and wait for the checkpoint, if there is one.

        Where nothing is trained, a network is read only if a checkpoint of a cut one comes.
        """
        network = part_of(pl_module, self._name)
        self._forget(pl_module)

        def known() -> bool:
            return self._session is not None and self._session.model is network

        if stage == "fit" and not known():
            self.begin(network)
        before: Callable[[Any], object] = pl_module.on_load_checkpoint

        def cut_before(checkpoint: Mapping[str, Any]) -> None:
            """Cut the network before the weights of a checkpoint come, which are those of the cut one."""
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if state:
                if not known():
                    self.begin(network)
                self.session.load_state_dict(state, *self._averages(trainer, pl_module))
            before(checkpoint)

        pl_module.on_load_checkpoint = cut_before

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Let the module be as it was: the checkpoint is read."""
        self._forget(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let the module be as it was, where nothing was trained."""
        self._forget(pl_module)

    @staticmethod
    def _forget(pl_module: Any) -> None:
        vars(pl_module).pop("on_load_checkpoint", None)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Cut if a cut is due: before the first batch of an epoch, whose own hook not every resumed run calls."""
        if self._when.is_due(self.session, trainer.current_epoch):
            wrapper = getattr(trainer.strategy, "model", None)
            held = (list(trainer.optimizers), self._averages(trainer, pl_module), wrapper)
            self._when.step(self.session, trainer.current_epoch, *held)

    def state_dict(self) -> dict[str, Any]:
        """Return what was cut, for the checkpoint."""
        return {} if self._session is None else self._session.state_dict()

    def _averages(self, trainer: Any, pl_module: Any) -> list[nn.Module]:
        """Return the network in each average that another callback or the module itself keeps."""
        wanted = shapes_of(self.session.model)
        held = [value for each in trainer.callbacks for value in vars(each).values()]
        found = [_averaged(each) for each in (*held, *pl_module.modules(), *vars(pl_module).values())]
        found += [vars(each).get("_average_model") for each in trainer.callbacks if _keeps_a_copy(each)]
        networks: dict[int, nn.Module] = {}
        for each in found:
            if isinstance(each, type(pl_module)):  # which may hold other networks of these shapes
                each = part_of(each, self._name)
            if isinstance(each, nn.Module):
                networks |= {id(one): one for one in each.modules() if shapes_of(one) == wanted}
        return list(networks.values())


def _averaged(value: Any) -> Any:
    """Return what an average of torch or timm averages; None where the value is no such thing."""
    if any(kind.__name__ in _AVERAGES for kind in type(value).__mro__):
        return getattr(value, "module", getattr(value, "ema", None))
    return None


def _keeps_a_copy(callback: object) -> bool:
    """Tell whether a callback is Lightning's own that averages in a plain copy of the module."""
    return any(kind.__name__ == "StochasticWeightAveraging" for kind in type(callback).__mro__)
