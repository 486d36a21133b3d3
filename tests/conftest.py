from __future__ import annotations

import gc
import importlib
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    max_examples=24,  # enough to find what was broken on purpose, in the time that the suite has
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ci")
torch.set_num_threads(1)  # networks as small as these only wait for each other
gc.disable()  # nearly all that is made until every test is found stays until the end


def pytest_collection_finish() -> None:
    """Take what tests and libraries consist of out of later searches for garbage: it would be most of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 50)  # for what libraries add when they are first used
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _times_of_layers_are_kept_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SECATEUR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_seed_for_every_test() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _networks_count_as_trained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the warning of random weights, which nearly all these networks have, to the tests of it."""
    if request.path.name != "test_preflight.py":
        monkeypatch.setattr("secateur.run.preflight.is_untrained", lambda model: False)


@pytest.fixture(autouse=True)
def _times_need_not_be_steady(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time networks for a moment: what becomes of times is tested, and times themselves by the tests of measuring."""
    if "measure" not in request.path.parts:
        timing = importlib.import_module("secateur.measure.side_by_side")
        turns_of = timing.turns_of
        brief = lambda made, seconds, *rest, **more: turns_of(made, min(seconds, 0.1), *rest, **more)  # noqa: E731
        monkeypatch.setattr(timing, "turns_of", brief)
