"""Silence for PyTorch's exporters, which print, warn and log much that is no news to a user."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Generator

from ..core.together import Together

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def ready_to_compile() -> None:
    """Import what ``torch.compile`` and torch's timer build with, which logs that there is no CUDA, unasked."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.suppress(ImportError):  # said by those, if it matters
            importlib.import_module("torch.utils.cpp_extension")
    finally:
        logger.setLevel(level)


quiet = Together(_quiet)
"""A context that keeps the exporters from printing, warning and logging."""
