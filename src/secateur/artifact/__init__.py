"""The result of a run as a folder: everything to check it, repeat it and use it, and no pickle in it."""

from __future__ import annotations

from secateur.artifact.document import document
from secateur.artifact.folder import recover, refuse
from secateur.artifact.locks import check_name
from secateur.artifact.manifest import check, record
from secateur.artifact.store import Loaded, load, save, saving
from secateur.atomic import is_full, write_file

__all__ = [
    "Loaded",
    "check",
    "check_name",
    "document",
    "is_full",
    "load",
    "record",
    "recover",
    "refuse",
    "save",
    "saving",
    "write_file",
]
