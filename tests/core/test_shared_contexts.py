from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from secateur.core.shared_contexts import Together


def test_of_blocks_that_overlap_the_first_enters_and_the_last_leaves() -> None:
    setting = ["as found"]

    @contextmanager
    def changed() -> Generator[None]:
        before = setting[0]
        setting[0] = "changed"
        try:
            yield
        finally:
            setting[0] = before

    together = Together(changed)
    one, other = together(), together()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert setting == ["changed"]
    other.__exit__(None, None, None)
    assert setting == ["as found"]
    with pytest.raises(KeyboardInterrupt), together():
        raise KeyboardInterrupt
    assert setting == ["as found"]
