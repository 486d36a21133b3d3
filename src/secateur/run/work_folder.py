"""The folder of a run under way: the plans that it has decided and the checkpoints of its trainings.

Every file is named after the network and the request that it belongs to, so that a run never goes on from what
another one left, however alike their shapes are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from secateur import artifact, reading
from secateur.artifact.bounded_reading import MOST, MOST_PLAN
from secateur.artifact.weights import read_into, to_bytes
from secateur.core.plan import Plan
from secateur.errors import ArtifactError, PlanError
from secateur.repair import Repair
from secateur.run.byproducts import BESIDE, Byproducts
from secateur.spelling import said

WORTH_KEEPING = 1.0
"""Seconds that a decision takes at least if it is kept."""

_DAMAGED = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Work:
    """Where a run keeps what it would otherwise do again after a kill.

    Attributes:
        folder: made when it is first needed.
    """

    folder: Path

    @staticmethod
    def at(folder: str | Path | None) -> Work | None:
        """Return the work folder that a run names; None if it names none.

        Raises:
            ArtifactError: if the name is empty.
        """
        if folder is None:
            return None
        if folder == "":
            raise ArtifactError("'work' is an empty text; name a folder for plans and checkpoints, or leave it out")
        return Work(Path(folder))

    def place(self, name: str, model: nn.Module, *facts: object) -> Path:
        """Return the file for something that follows from a network and some facts (by their ``repr``).

        Raises:
            ArtifactError: if the folder cannot be made.
        """
        stem, _, ending = name.rpartition(".")
        return self.file(f"{stem}-{digest(model, facts)}.{ending}")

    def file(self, name: str) -> Path:
        """Return the file of a name, in the folder.

        Raises:
            ArtifactError: if the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder, error) from None
        return self.folder / name

    def plan(
        self, name: str, model: nn.Module, facts: tuple[object, ...], decide: Callable[[], Plan], beside: Byproducts
    ) -> Plan:
        """Return the plan that an earlier run decided on the same network, else decide now.

        The plan is kept if it took a while; so a run that fails early leaves nothing behind to be cleared away.

        Args:
            name: of the file.
            model: the network.
            facts: what else the plan depends on.
            decide: makes it.
            beside: what else comes of it.

        Raises:
            ArtifactError: if the plan cannot be written.
        """
        path = self.place(name, model, *facts)
        story = path.with_name(f"{BESIDE}-{path.name}")
        if path.is_file():
            with contextlib.suppress(PlanError, OSError, *_DAMAGED):  # and decided again
                plan = Plan.from_json(reading.text(path, MOST_PLAN))
                beside.recall(reading.values(reading.text(story, MOST)))
                return plan
        started = time.perf_counter()
        plan = decide()
        if time.perf_counter() - started < WORTH_KEEPING:
            return plan
        keep(story, json.dumps(beside.noted()))
        keep(path, plan.to_json())
        return plan

    def repairs(
        self,
        name: str,
        dense: nn.Module,
        facts: tuple[object, ...],
        thin: nn.Module,
        mend: Callable[[], Sequence[Repair]],
        beside: Byproducts,
        *,
        always: bool,
    ) -> list[Repair]:
        """Give a network the weights of an earlier run's repair, else repair it now.

        The same sums come out a little different on other devices and with other threads, and what follows is kept
        under a name that depends on every bit.

        Args:
            name: of the file.
            dense: the network before the cut.
            facts: what else the repair depends on, the plan first of all.
            thin: the network after it, changed in place.
            mend: repairs it.
            beside: what else comes of it.
            always: keep the weights however quickly they were found.

        Raises:
            ArtifactError: if the weights cannot be written.
        """
        path = self.place(name, dense, *facts)
        story = path.with_suffix(".json")
        if path.is_file():
            with contextlib.suppress(OSError, ArtifactError, *_DAMAGED):
                stored = reading.values(reading.text(story, MOST))
                done = [Repair.from_dict(entry) for entry in stored["repairs"]]
                beside.recall(stored[BESIDE])
                read_into(thin, path)  # last: whatever is repaired again must be as the cut left it
                return done
        started = time.perf_counter()
        done = list(mend())
        if always or time.perf_counter() - started >= WORTH_KEEPING:
            keep(path, to_bytes(thin))
            keep(story, json.dumps({"repairs": [each.to_dict() for each in done], BESIDE: beside.noted()}))
        return done


def keep(path: Path, content: str | bytes) -> None:
    """Write a file of a work folder, atomically.

    Raises:
        ArtifactError: if it cannot be written.
    """
    try:
        artifact.write_file(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> ArtifactError:
    """Return what to raise where a work folder, or a file in it, cannot be written."""
    remedy = said("choose another work folder", "choose another --out")
    return ArtifactError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def digest(model: nn.Module, facts: tuple[object, ...]) -> str:
    """Return a short name for a network, bit by bit, and some facts (by their ``repr``)."""
    found = hashlib.sha256(repr(facts).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]
