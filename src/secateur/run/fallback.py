"""Going on without a fit where the network or its images allow none and nobody has asked for one."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.method import Method
from secateur.data import Calibration, Data
from secateur.data.calibration import FEWEST, MOST
from secateur.errors import BranchingError
from secateur.events import Tell, ignore, warn
from secateur.methods import default, find, name_of
from secateur.methods.reconstruction import Reconstruction
from secateur.outcome import Step
from secateur.repair import WITHOUT_IMAGES, affordable

FEWEST_CHOSEN = 16
"""Images below which weights are the better guide to what goes than what layers can be fitted to."""


def without_fit(
    error: BranchingError,
    method: Method,
    repair: Sequence[str],
    *,
    then: Sequence[Step] = (),
    method_asked: bool,
    repair_asked: bool,
    tell: Tell = ignore,
) -> tuple[Method, tuple[str, ...]]:
    """Return what to go on with where the forward takes other ways for other images, and warn once.

    Args:
        error: what the run ended with.
        method: that of the run.
        repair: those of the run.
        then: further rounds, whose methods somebody has named.
        method_asked: whether somebody has named the method; else the one that is taken without images stands in.
        repair_asked: whether somebody has named the repairs; else it is the one that looks at no image.
        tell: hears the warning.

    Raises:
        BranchingError: the same, if a fit was asked for.
    """
    named = [method] if method_asked else []
    if any(_fits(each) for each in (*named, *(step.method for step in then))):
        raise error
    if repair_asked and (method_asked or "reconstruct" in repair):
        raise error
    now: list[str] = []
    if not method_asked:
        name = default(images=False)
        method = find(name)()
        now.append(f"{name} chooses what goes")
    if not repair_asked:
        repair = WITHOUT_IMAGES
        now.append(f"the repair is {' and '.join(repair)}")
    warn(f"{str(error).partition(': ')[0]}: {' and '.join(now)}", tell)
    return method, tuple(repair)


def _fits(method: Method) -> bool:
    """Tell whether a method decides by what layers can be fitted to, itself or in how it shares out."""
    return isinstance(method, Reconstruction) or getattr(method, "allocate", "") == "reconstruction"


def for_images(
    images: Calibration | None,
    data: Data | None,
    most: int,
    method: Method,
    repair: Sequence[str],
    *,
    method_asked: bool,
    tell: Tell = ignore,
) -> tuple[Method, tuple[str, ...]]:
    """Return the method and the repairs that the images are enough for, and warn of whatever is wrong with them.

    Too few images, repeats and images of a single colour say nothing of others: what is fitted to them, or chosen by
    them, makes others worse than no fit and a choice by the weights would.

    Args:
        images: unlabelled ones that were given; None for none.
        data: labelled data, whose training images stand in for them.
        most: how many of these.
        method: of the run.
        repair: of the run.
        method_asked: whether somebody has named the method, which is then left as it is.
        tell: hears the warnings.
    """
    if images is None and data is None:
        return method, tuple(repair)
    different = images.different if images is not None else min(most, data.size("train")) if data is not None else 0
    enough, now, usual = affordable(repair, different), list[str](), find(default(images=False))
    if different < FEWEST_CHOSEN and not method_asked and not isinstance(method, usual):
        method = usual()
        now.append(f"{name_of(method)} chooses what goes")
    elif different < FEWEST_CHOSEN and isinstance(method, Reconstruction):
        now.append(f"{name_of(method)} chooses next to blindly (name another method)")
    if enough != tuple(repair):
        left = f"the repair is {' and '.join(enough)}, not {' and '.join(repair)}" if enough else "nothing is repaired"
        now.append(left)
    doubts = [] if images is None else list(images.doubts)
    if now:
        doubts = [doubt for doubt in doubts if images is None or doubt != images.note]
        count = f"{different} training images" if images is None else images.used
        doubts.insert(0, f"{count}: too few, so {' and '.join(now)}; give {FEWEST} to {MOST:,}")
    for doubt in doubts:
        warn(doubt, tell)
    return method, enough
