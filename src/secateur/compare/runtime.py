"""In what all runs of a comparison are timed: chosen once for a folder, so that their times can be compared."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from torch import Tensor, nn

from secateur import artifact, reading
from secateur.artifact.locks import claimed
from secateur.errors import SettingError
from secateur.events import Tell
from secateur.measure import Runtime
from secateur.measure.runtimes import known
from secateur.recipe import Recipe
from secateur.run.headline_speed import asked_for, fastest_of, meant_for


def runtime_of(
    folder: Path, recipe: Recipe, dense: nn.Module, example: Tensor, tell: Tell
) -> tuple[Runtime | None, int | None]:
    """Return the runtime and the threads of a comparison's runs.

    Args:
        folder: of the comparison; the choice is kept in it, for the other runs and processes.
        recipe: of any of its runs; the runtime that it names is taken, and a choice made only if it wants times.
        dense: the network that the choice is made for.
        example: of its inputs.
        tell: hears of the choice.

    Returns:
        None for the runtime if nothing is named or timed, None for the threads if they are not named.
    """
    named, _, threads = asked_for(recipe.runtime, recipe.threads, recipe.budget)
    if named is not None or not recipe.latency:
        return named, threads
    path = folder / "work" / "runtime.json"
    with claimed(path.with_suffix(".lock"), wait=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SettingError):
            return known(reading.values(reading.text(path, reading.MIB))["runtime"]), threads
        found = fastest_of(dense, example, meant_for(recipe.export), threads, tell)
        artifact.write_file(path, json.dumps({"runtime": found}).encode())
    return found, threads
