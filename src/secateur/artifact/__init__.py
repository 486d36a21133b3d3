"""The result of a run as a folder: everything to check it, repeat it and use it, and no pickle in it."""

from __future__ import annotations

from secateur.artifact.document import document
from secateur.artifact.folder import check, record, refuse, write_file
from secateur.artifact.store import Loaded, load, save

__all__ = ["Loaded", "check", "document", "load", "record", "refuse", "save", "write_file"]
