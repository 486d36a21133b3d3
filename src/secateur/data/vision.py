"""The one place that imports torchvision, which is optional and slow to import."""

from __future__ import annotations

import importlib
from typing import Any

from secateur.errors import SecateurError


def torchvision() -> Any:
    """Return the module torchvision.

    Raises:
        SecateurError: if it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise SecateurError('this data set needs torchvision: pip install "secateur[vision]"') from error
