"""Carrying out the runs of a comparison, those that are there already excepted."""

from __future__ import annotations

from pathlib import Path

from secateur.compare import run_files
from secateur.compare.comparison import Comparison
from secateur.compare.requests import Request, distinct, requests
from secateur.compare.run_files import Run
from secateur.compare.run_one import Conductor, work_claimed, writing
from secateur.errors import (
    ArtifactError,
    ModelError,
    PlanError,
    SecateurError,
    SettingError,
    TargetError,
    TrainingError,
)
from secateur.events import Event, Tell, ignore, once, warn
from secateur.progress import shown
from secateur.run.sources import change, hold, recorded, refuse
from secateur.spelling import said

_OF_ONE = (SettingError, TargetError, PlanError, ModelError, TrainingError)  # other methods may do what was asked


@shown
def carry_out(
    comparison: Comparison,
    folder: str | Path,
    *,
    download: bool = False,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> list[tuple[Request, Run]]:
    """Carry out all runs that are not there yet; one that was killed goes on from its last epoch.

    Several processes may share a folder: each takes runs that no other has.

    Args:
        comparison: what to compare.
        folder: where the runs are kept, ``runs/NAME.json``, and what a run under way needs, ``work/NAME``.
        download: whether a missing data set may be fetched.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: hears the progress and the warnings, instead of a display and of Python's warnings; the stage ``"run"``
            says which run begins.

    Returns:
        All runs in the order of ``requests``.

    Raises:
        SecateurError: one of its kinds; what no run could do is refused before the first one, and what one method
            cannot do after all the others.
    """
    folder, wanted, busy = Path(folder), distinct(requests(comparison)), dict[str, str]()
    failed: list[SecateurError] = []
    tell = once(tell)
    _make(folder)
    conductor = Conductor(comparison, folder, download, tell)
    refuse(folder, change(recorded(folder / "work"), comparison.base))
    if any(run_files.load(folder, request) is None for request in wanted):
        conductor.refuse_early(wanted[0].recipe)
        hold(folder / "work", comparison.base)
    for number, request in enumerate(wanted, 1):
        if run_files.load(folder, request) is not None:
            continue
        with work_claimed(folder / "work" / f"{request.name}.lock") as holder:
            if holder is not None:
                busy[request.title] = holder
            elif run_files.load(folder, request) is None:  # it may have come to its end meanwhile
                tell(Event("run", f"run {number} of {len(wanted)}: {request.title}", number - 1, len(wanted)))
                try:
                    run_files.save(folder, request, conductor.run(request))
                except SecateurError as error:
                    error.args = (f"{request.title}: {error}",)
                    if not isinstance(error, _OF_ONE):
                        raise
                    failed.append(error)
                    _forget(folder / "work" / request.name)  # or a corrected library would go on with what went wrong
                    warn(f"left out: {error}", tell)
                    continue
                _forget(folder / "work" / request.name)
    there = {request.title for request, _ in gather(comparison, folder)}
    missing = [title for title in busy if title not in there]
    if failed:
        others = len(failed) - 1
        more = f", and {others} other run{'s' * (others > 1)} cannot be made either" if others else ""
        look = f"; look at the others with {said('secateur.compare.gather', '--show')}" if there else ""
        going = f" ({len(missing)} still going in other processes)" if missing else ""
        failed[0].args = (f"{failed[0]}{more}{look}{going}, and correct the recipe to carry out what is missing",)
        raise failed[0]
    if missing:
        raise ArtifactError(
            f"{len(missing)} of {len(wanted)} runs in {folder} are still going in other processes, {missing[0]} in "
            f"process {busy[missing[0]]}; wait until they end, or look at the runs that are there "
            f"with {said('secateur.compare.gather', '--show')}"
        )
    return gather(comparison, folder)


def gather(comparison: Comparison, folder: str | Path) -> list[tuple[Request, Run]]:
    """Return the runs of a comparison that are there.

    Raises:
        ArtifactError: if a file is damaged.
    """
    found = [(request, run_files.load(Path(folder), request)) for request in requests(comparison)]
    return [(request, run) for request, run in found if run is not None]


def _make(folder: Path) -> None:
    with writing(folder):
        for name in ("runs", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)


def _forget(work: Path) -> None:
    for path in work.glob("*") if work.is_dir() else ():
        path.unlink(missing_ok=True)
    if work.is_dir():
        work.rmdir()
