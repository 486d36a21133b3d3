"""Pruning in a ``Trainer`` of Hugging Face transformers, by a callback."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from secateur import reading
from secateur.atomic import write_file
from secateur.errors import ArtifactError, SettingError, first_line
from secateur.events import ignore, warn
from secateur.integrations.epochs import Pruning, part_of
from secateur.session.agreement import several_processes

FILE = "pruning.json"
_MOST = 256 * reading.MIB


def _base() -> Any:
    try:
        return importlib.import_module("transformers").TrainerCallback
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise SettingError("this callback needs transformers: pip install 'secateur[transformers]'") from None


_Callback: Any = _base()


class PruningCallback(Pruning, _Callback):
    """Prunes the network of a ``Trainer`` in place at the beginning of epochs, see ``secateur.Session``.

    Optimizer and scheduler follow. Every checkpoint gets a file with what was cut. To go on from one, build the
    original network and the trainer, call ``resume(folder)``, then ``trainer.train(resume_from_checkpoint=folder)``.

    Args:
        example_inputs: what the network runs on, such as ``{"pixel_values": images}``.
        method: see ``secateur.Session``.
        keep: see there.
        network: which part of the trainer's model is the network; empty for all of it.
        start: number of the epoch, from 0, that the first cut begins.
        every: epochs from one cut to the next.
        session: further arguments of ``secateur.Session``, by their names.

    Attributes:
        trainer: where several processes train, set it to the trainer, whose wrapper of the network has to follow.

    Raises:
        SecateurError: one of its kinds, when the trainer is made; then nothing was cut.
    """

    first = "make a trainer with callbacks=[...]"
    trainer: Any = None

    def resume(self, folder: str | Path) -> None:
        """Cut the network as far as it was when the trainer wrote a checkpoint.

        Raises:
            ArtifactError: if the folder does not say what was cut, or the network is not the original one.
        """
        path = Path(folder) / FILE
        try:
            state = reading.values(reading.text(path, _MOST))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} cannot be read ({first_line(error)}): take a checkpoint that was written with this callback"
            ) from None
        self.session.load_state_dict(state)

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begin with the network as it is."""
        self.begin(part_of(model, self._name))
        if args.load_best_model_at_end:
            warn("load_best_model_at_end fails if the best network is one that was wider: leave it out", ignore)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Cut if a cut is due."""
        if several_processes() and self.trainer is None:
            raise SettingError(
                "several processes train, and their wrapper of the network has to follow: set callback.trainer = "
                "trainer before trainer.train()"
            )
        wrapper = getattr(self.trainer, "model_wrapped", None)
        self._when.step(self.session, int((state.epoch or 0.0) + 1e-6), optimizer, wrapper)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what was cut beside the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_file(folder / FILE, json.dumps(self.session.state_dict()).encode())
