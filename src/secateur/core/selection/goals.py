"""How somebody says how much goes: by a target or by a setting of the method, and in what measure."""

from __future__ import annotations

from secateur.core.sizes.size import Target
from secateur.errors import SettingError, TargetError
from secateur.spelling import said, setting


def check_said(target: Target | None, given: object, name: str, what: str) -> None:
    """Refuse a run that says how much goes in no way or in two.

    Args:
        target: what was asked for.
        given: the setting of the method that says it too; None where it was not given.
        name: of this setting.
        what: what it is, such as "the ratio of each layer".

    Raises:
        SettingError: if both are given.
        TargetError: if none is.
    """
    if target is not None and given is not None:
        raise SettingError(f"both a target and a {name} say how much goes; give one of them")
    if target is None and given is None:
        goal = said("target=", "--keep", "keep in [target]")
        raise TargetError(f"say how much goes: a target ({goal}), or {what} ({setting(name)})")


def check_zeros(target: Target | None, what: str) -> None:
    """Refuse a target in a size that zeroed weights do not change.

    Args:
        target: what was asked for; None for nothing.
        what: is zeroed, such as "kernels".

    Raises:
        TargetError: saying in what the target can be set.
    """
    if target is not None and target.keep < 1.0 and target.of != "nonzero":
        nonzero = said("Target(..., 'nonzero')", "--of nonzero", "of = 'nonzero'")
        raise TargetError(
            f"zeroed {what} leave the {target.of} as they are; set the target in nonzero ({nonzero})", 1.0
        )
