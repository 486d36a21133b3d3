"""Every error that Secateur raises on purpose: one base, one class for each kind of trouble.

A message is one sentence that says what happened, where, and what to do about it. The command line prints
it after ``error:`` and exits with status 1; nothing that already existed is lost.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?|[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST = 300
_FITS = ("reconstruct", "reconstruction", "errors")  # a repair; a method and an allocation; shares of a cut
_MEANT: dict[str, tuple[str, ...]] = dict.fromkeys(("reconstruct", "reconstruction", "fit", "refit"), _FITS)
_CARRIED = "Original Traceback (most recent call last):"  # of a process that reads, or a device that computes
_RAISED = re.compile(r"(?:\w+\.)*(\w+)(?:: *(.*))?")
_LONG_WORD = re.compile(r"(\S{120})\S{80,}(\S{60})")  # what nobody reads to its end; of paths that is what counts


class SecateurError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: one sentence; what it quotes of others is made one line, without what steers a terminal, and long words
            in it are cut.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_brief(message))


class SettingError(SecateurError):
    """A setting, option, name or recipe entry that is out of range or unknown."""


class ModelError(SecateurError):
    """A model that cannot be built, loaded or run on the example inputs."""


class BranchingError(ModelError):
    """A model whose forward takes other ways for other images, where all have to meet at the same layers."""


class DataError(SecateurError):
    """A data set that is missing, damaged or does not fit the model."""


class TraceError(SecateurError):
    """A network that could not be read into groups of units."""


class PlanError(SecateurError):
    """A plan that does not belong to this network, or is damaged."""


class TargetError(SecateurError):
    """A target that cannot be reached.

    Attributes:
        reachable: the smallest fraction that can be kept, in the target's own measure; None where unknown.
    """

    def __init__(self, message: str, reachable: float | None = None) -> None:
        super().__init__(message)
        self.reachable = reachable


class ContractError(SecateurError, AssertionError):
    """A pruning method that breaks a promise that every method makes, found by ``check_method``.

    Attributes:
        promise: the promise that is broken, in a few words, for instance ``"same seed, same plan"``.
    """

    def __init__(self, message: str, promise: str) -> None:
        super().__init__(message)
        self.promise = promise


class VerificationError(SecateurError):
    """The pruned network does not compute what the silenced original computes."""


class CutError(VerificationError):
    """The pruned network does not run, or computes something else, because the network was not read rightly.

    Attributes:
        place: the module in which it first does so; empty for the network itself.
        plan: the ``Plan`` that was to be carried out; None where nobody has said which.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.plan: object = None


class TrainingError(SecateurError):
    """Training cannot start or go on, for instance because the loss is not finite."""


class ArtifactError(SecateurError):
    """A result folder that is missing, damaged, foreign, or in the way."""


class ExportError(SecateurError):
    """An export that failed, or whose output differs from the network's."""


def visible(text: str) -> str:
    """Return a text of others without what steers a terminal: colours, movements of the cursor, bells."""
    return _UNSEEN.sub("", text)


def _brief(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # halves of letters, which no terminal can write
    return _LONG_WORD.sub(r"\1...\2", " ".join(visible(text).split()))


def first_line(error: BaseException, last: bool = False) -> str:
    """Return the first line of an error of others, or its last one, fit for a sentence of ours.

    Its class if it says nothing; colours are taken out, and no more than 300 letters are quoted.
    """
    lines = [line.strip() for line in visible(str(error)).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    return _short(lines[-1 if last else 0])


def reason_of(error: BaseException) -> str:
    """Return the class of an error of others and its first line, as ``ValueError: no such file``.

    Of one that torch has carried over from another process or thread they are those of what was raised there.
    """
    if match := _carried(str(error)):
        kind, said = match
        return f"{kind}: {said}" if said else kind
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def _carried(text: str) -> tuple[str, str] | None:
    """Return the class and the first line of the error at the end of a traceback in a text; None if it has none."""
    _, found, traceback = text.rpartition(_CARRIED)
    lines = traceback.splitlines()
    places = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    if not found or not places:
        return None
    line = next((line for line in lines[places[-1] :] if line.strip() and not line.startswith(" ")), "")
    match = _RAISED.fullmatch(visible(line))
    return (match[1], _short((match[2] or "").strip())) if match else None


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def nearest(name: object, known: Iterable[object]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to ``name``, else an empty string.

    What has a name of its own in each place is answered with the one of this place.
    """
    if not isinstance(name, str) or len(name) > 200:  # no name that anybody misspelt; the search takes its square
        return ""
    others = [each for each in known if isinstance(each, str)] if hasattr(known, "__iter__") else []
    meant = [each for each in _MEANT.get(name, ()) if each in others]
    close = meant or difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
