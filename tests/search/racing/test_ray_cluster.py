"""Workers far away count the same errors: same winner, whatever their number, and although one of them dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nets import images, make
from secateur.core.selection.search_results import Search
from secateur.core.selection.target_selection import plan_of
from secateur.core.surgery import run
from secateur.core.trace import trace
from secateur.errors import SettingError
from secateur.search import HeldOut, best_of
from secateur.search.racing import ray_cluster as clusters

NET = make("option A")
GRAPH = trace(NET, images(1))


def held(number: int = 200) -> HeldOut:
    x = images(number, 1)
    labels = run(NET, x).argmax(1)
    return HeldOut(x, torch.where(torch.rand(number) < 0.2, (labels + 1) % 5, labels))


def plans(number: int = 9) -> list[Any]:
    rng = torch.Generator().manual_seed(3)
    drawn = [torch.rand(GRAPH.units, generator=rng) > 0.3 for _ in range(number)]
    return [plan_of(GRAPH, keep) for keep in drawn]


@pytest.fixture(scope="module")
def ray() -> Generator[Any]:
    module = pytest.importorskip("ray")
    here = str(Path(__file__).parents[2] / "src")
    paths = os.pathsep.join([here, str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    module.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    yield module
    module.shutdown()


def found(search: Search) -> tuple[int, int]:
    return search.best, search.trials[search.best].errors


def test_the_winner_is_the_same_near_and_far(ray: Any) -> None:
    subject, candidates = held(), plans()
    assert found(best_of(NET, GRAPH, candidates, subject, ray="local")) == found(
        best_of(NET, GRAPH, candidates, subject)
    )


def test_the_work_of_a_lost_worker_is_done_again(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker that starts dies at once; what it should have done is done by another."""
    subject, candidates = held(), plans(4)
    mark, honest = str(tmp_path / "died"), clusters._carry_out

    def dying(*given: Any) -> Any:
        if not os.path.exists(mark):
            with open(mark, "w"):
                pass
            time.sleep(0.1)
            os._exit(1)
        return honest(*given)

    monkeypatch.setattr(clusters, "_carry_out", dying)
    far = best_of(NET, GRAPH, candidates, subject, ray="local", complete=True)
    assert os.path.exists(mark)
    assert far == best_of(NET, GRAPH, candidates, subject, complete=True)


def test_without_ray_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r'pip install "secateur\[ray\]"'):
        best_of(NET, GRAPH, plans(2), held(), ray="local")


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(SettingError, match=r"no Ray cluster answers at 'nowhere:1' \(ConnectionError\); check"):
        best_of(NET, GRAPH, plans(2), held(), ray="nowhere:1")
