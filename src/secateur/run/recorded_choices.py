"""What the clock decides in a run is decided once: kept in the work folder, and in the recipe that is saved.

Times differ from run to run, so what is chosen by them differs too, and with it the numbers that come out. A run that
goes on after a kill, and one that repeats a saved recipe, take what was chosen before instead of measuring again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from secateur import reading
from secateur.artifact.bounded_reading import MOST
from secateur.errors import SecateurError
from secateur.events import Event, Tell, ignore
from secateur.run.byproducts import BESIDE, Byproducts
from secateur.run.work_folder import Work, digest, keep
from secateur.training import Settings, Speed
from secateur.training.speed import Memory

T = TypeVar("T")
_UNUSABLE = (SecateurError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass
class Choices:
    """The choices of one run.

    Attributes:
        work: its folder; None for none.
        given: those of an earlier run, by name, as its recipe holds them (``Recipe.chosen``).
        tell: hears of those that cannot be used here.
        made: those of this run, by name, in values that TOML and JSON have.
    """

    work: Work | None = None
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tell: Tell = ignore
    made: dict[str, Any] = field(default_factory=dict[str, Any])

    def take(
        self,
        name: str,
        model: nn.Module,
        facts: tuple[object, ...],
        choose: Callable[[], Any],
        read: Callable[[Any], T],
        *,
        beside: Byproducts | None = None,
        bound: bool = False,
    ) -> T:
        """Return what was chosen before, else choose now and write that down before it is used.

        Args:
            name: of the choice.
            model: the network that it is about.
            facts: what else it depends on; a work folder holds it under a name made of all this.
            choose: returns it, in values that TOML and JSON have.
            read: makes of such values what is wanted; fails for what cannot be used here.
            beside: what else comes of choosing, kept with the choice in the work folder.
            bound: whether a recipe's choice, too, belongs to this very network and these facts alone.

        Raises:
            ArtifactError: if it cannot be written.
        """
        key = digest(model, facts) if bound or self.work is not None else ""  # of all weights: once
        name = f"{name}-{key}" if bound else name
        path = None if self.work is None else self.work.file(f"{name}-{key}.json")
        known = self._recall(name, path, read, beside)
        if known is not None:
            return known
        value = choose()
        self._note(name, path, value, beside)
        return read(value)

    def _recall(
        self, name: str, path: Path | None, read: Callable[[Any], T], beside: Byproducts | None = None
    ) -> T | None:
        """Return what was chosen before in this run, in the recipe, or in the work folder; None if nothing was."""
        places: list[Mapping[str, Any]] = [self.made, self.given]
        if path is not None:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                stored = reading.values(reading.text(path, MOST))
                places += [stored] if isinstance(stored, dict) else []
        for place in places:
            if name not in place:
                continue
            try:
                found = read(place[name])
                if beside is not None and place is not self.made and place is not self.given:
                    beside.recall(place[BESIDE])
            except _UNUSABLE as error:
                if place is self.given:
                    why = reading.shown(error)
                    text = f"the choice '{name}' of the recipe cannot be used here ({why}) and is made anew"
                    self.tell(Event("warning", text))
                continue
            self.made[name] = place[name]
            return found
        return None

    def _note(self, name: str, path: Path | None, value: Any, beside: Byproducts | None = None) -> None:
        if path is not None:
            keep(path, json.dumps({name: value} | ({} if beside is None else {BESIDE: beside.noted()})))
        self.made[name] = value

    def speed(self, name: str, model: nn.Module, settings: Settings) -> Memory:
        """Return where a training finds and leaves the way in which it runs, one for all trainings of this name."""
        facts = (settings.precision, settings.memory_format, settings.compile)
        path = None if self.work is None else self.work.place(f"{name}.json", model, *facts)

        def recall(device: str) -> Speed | None:
            def read(value: Any) -> Speed:
                if value["device"] != device:
                    raise ValueError(f"it is for {value['device']}, and this is {device}")
                return Speed(**{key: entry for key, entry in value.items() if key != "device"})

            return self._recall(name, path, read)

        def note(speed: Speed, device: str) -> None:
            self._note(name, path, {**asdict(speed), "device": device})

        return Memory(recall, note)
