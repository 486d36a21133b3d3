"""Silence for PyTorch's exporters, which print, warn and log much that is no news to a user."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Generator

from secateur.core.shared_contexts import Together

_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    root, nobody = logging.getLogger(), logging.NullHandler()
    sink = io.StringIO()
    silent = contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink)
    with warnings.catch_warnings(), _silent_descriptor(), silent[0], silent[1]:
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        root.addHandler(nobody)  # else a warning of the root logger itself sets up logging for the whole program
        root.addFilter(_not_its_own)
        try:
            yield
        finally:
            root.removeFilter(_not_its_own)
            root.removeHandler(nobody)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _not_its_own(record: logging.LogRecord) -> bool:
    """Keep back what is logged by no logger of its own, as the quantisation of ONNX Runtime does."""
    return False


@contextlib.contextmanager
def _silent_descriptor() -> Generator[None]:
    """Drop what is written to descriptor 1 itself: the older exporter prints whole graphs there, in C++."""
    try:
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # as in a program without a console
            sys.stdout.flush()
        own = os.dup(1)
    except (OSError, ValueError):
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)


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
