"""The built-in tasks by name, as recipes and the command line give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from secateur.arguments import checked
from secateur.core.task import Task
from secateur.errors import SettingError, nearest
from secateur.tasks.classification import Classification
from secateur.tasks.detection import Detection
from secateur.tasks.regression import Regression
from secateur.tasks.restoration import Restoration
from secateur.tasks.retrieval import Retrieval
from secateur.tasks.segmentation import Segmentation

TASKS: Mapping[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Detection, Regression, Restoration, Retrieval, Segmentation)
}
"""The class of each built-in task."""


@checked
def read_task(spec: str) -> Task:
    """Return the built-in task that a text names, with its settings: ``segmentation`` or ``segmentation?ignore=11``.

    Raises:
        SettingError: as ``task_of``, or if a setting has no value.
    """
    name, _, query = spec.partition("?")
    options = dict[str, Any]()
    for part in filter(None, query.split("&")):
        option, given, text = part.partition("=")
        if not given:
            raise SettingError(f"the setting '{option}' of the task '{name}' has no value; write {name}?{option}=VALUE")
        options[option] = _value(text)
    return task_of(name, options)


def _value(text: str) -> Any:
    """Return what a setting says: none, a truth value or a number, else the text itself."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@checked
def task_of(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return the built-in task of this name with these settings.

    Raises:
        SettingError: if there is no such task or setting, or a value is out of range.
    """
    if name not in TASKS:
        raise SettingError(f"unknown task '{name}'{nearest(name, list(TASKS))}; there are {', '.join(TASKS)}")
    kind = TASKS[name]
    known = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    for option in options or {}:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise SettingError(f"{name} has no setting '{option}'{nearest(option, known)}; {has}")
    return kind(**(options or {}))
