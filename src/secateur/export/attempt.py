"""Writing a file in several ways until one computes what the network computes; no other is kept."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.distributions import Distribution

from secateur.atomic import refuse_special
from secateur.core.interrupts import deferred
from secateur.core.surgery.foreign import refuse_foreign
from secateur.core.surgery.untouched import private, randomness
from secateur.errors import ExportError, reason_of
from secateur.export.comparison import (
    TOLERANCE,
    Call,
    Exported,
    Found,
    Inputs,
    Kind,
    Runner,
    batch_of,
    call_of,
    difference,
    random_call,
    steady_difference,
    why_unlike,
)
from secateur.measure.forward import moved
from secateur.measure.quiet_exporters import quiet
from secateur.spelling import said

_LITTLE = 1 << 16
"""Bytes of a disk that is full but for what a block cannot hold."""


@dataclass(frozen=True)
class Way:
    """One way to write a network.

    Attributes:
        dynamic: whether the file is to take batches of any size.
        write: writes the network, given a batch to trace it with, to a path.
        load: makes what was written run.
        beside: suffix of a second file that ``write`` puts beside the first.
        steady: makes it run with constants in the place of random numbers, where it draws otherwise than torch.
    """

    dynamic: bool
    write: Callable[[nn.Module, Call, Path], None]
    load: Callable[[Path], Runner]
    beside: str = ""
    steady: Callable[[Path], Runner] | None = None


Check: TypeAlias = Callable[[nn.Module, Way, Path, Sequence[Call]], Found]
"""Compares what was written with the network on some calls."""


def export(
    model: nn.Module,
    example_inputs: Inputs,
    path: Path,
    kind: Kind,
    ways: Sequence[Way],
    reference: nn.Module | None = None,
    check: Check | None = None,
) -> Exported:
    """Try the ways in turn; keep the first file that computes the same as the network, or as the reference if given.

    With a ``check`` of its own, the first that passes it.

    Raises:
        ExportError: if none does, or the file cannot be written; nothing is left then.
        ModelError: if the network cannot be copied, or has shapes and no values.
    """
    if path.name in ("", ".."):
        raise ExportError(f"'{path}' is no name for a file; give one such as model.{kind}")
    beside = {path.with_suffix(way.beside) for way in ways if way.beside}
    for file in sorted({path, *beside}):
        try:
            refuse_special(file)
        except OSError as error:
            raise _unwritable(file, error) from error
    for given in (model,) if reference is None else (model, reference):
        refuse_foreign(given)
    network = private(model).cpu().eval()  # the caller's mode and device stay untouched
    expected = network if reference is None else private(reference).cpu().eval()
    example = call_of(moved(example_inputs, torch.device("cpu")))
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix or '.' + kind}")
    reasons: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # writers have words of their own for a folder that takes no files
        for way in ways:
            if way.dynamic and not batch_of(example):
                continue
            try:
                with (
                    quiet(),
                    randomness(),
                    _unvalidated(),
                    torch.no_grad(),
                ):  # code that was written draws weights first
                    found = _attempt(network, expected, example, way, temporary, check or _same)
            except OSError:
                raise
            except Exception as error:  # exporters raise anything, NotImplementedError to internal assertions
                if _full(temporary.parent):  # which torch's writer says in words of its own
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                reasons.append(reason_of(error).replace(str(temporary), str(path)))
                continue
            if not found.refusal:
                beside = path.with_suffix(way.beside) if way.beside else None
                with deferred:  # one alone would not fit beside an older file
                    if beside is not None:
                        os.replace(temporary.with_suffix(way.beside), beside)
                    os.replace(temporary, path)
                return Exported(path, kind, found.difference, way.dynamic, beside, found.int8)
            reasons.append(found.refusal)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        for suffix in {temporary.suffix, *(way.beside for way in ways if way.beside)}:
            with contextlib.suppress(OSError):  # of a disk that takes nothing, which has been said
                temporary.with_suffix(suffix).unlink(missing_ok=True)
    raise ExportError(f"cannot export the network as {kind}: {reasons[-1]}; no file was kept, the network is unharmed")


def _unwritable(path: Path, error: OSError) -> ExportError:
    elsewhere = said("choose another path", "copy the result to where files can be written, and export that")
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else elsewhere
    return ExportError(f"cannot write {path}: {error.strerror or error}; {remedy}")


def _attempt(network: nn.Module, expected: nn.Module, example: Call, way: Way, temporary: Path, check: Check) -> Found:
    """Write once, reload and compare over the example and a random batch."""
    # torch.export treats a size of 1 as a constant, so a dynamic batch is traced with two or more
    way.write(network, random_call(example, max(2, batch_of(example)) if way.dynamic else 0, seed=0), temporary)
    other = random_call(example, batch_of(example) + 1 if way.dynamic else 0, seed=1)
    return check(expected, way, temporary, (example, other))


def _same(expected: nn.Module, way: Way, file: Path, calls: Sequence[Call]) -> Found:
    """Return the largest difference, which must be rounding."""
    run = way.load(file)
    found = max(difference(expected, run, call) for call in calls)
    if found > TOLERANCE and way.steady is not None:
        run = way.steady(file)
        found = min(found, max(steady_difference(expected, run, call) for call in calls))
    if found <= TOLERANCE:
        return Found(found)
    if not math.isfinite(found):
        reasons = (why_unlike(expected, run, call) for call in calls)
        return Found(found, next(filter(None, reasons), "whole numbers that it puts out differ"))
    return Found(found, f"its outputs differ by {found:.1e} of their size, more than {TOLERANCE:.0e}")


@contextmanager
def _unvalidated() -> Generator[None]:
    """Let distributions not look at the values of their arguments, which no exporter could follow."""
    before = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _full(folder: Path) -> bool:
    """Say whether hardly anything can be written to a disk."""
    return shutil.disk_usage(folder).free < _LITTLE


def write_through(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
