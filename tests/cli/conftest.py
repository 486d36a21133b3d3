from __future__ import annotations

from pathlib import Path

import pytest

from commands import NETWORKS, PRUNED, Call, run


@pytest.fixture
def secateur(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run the command line in this process, in a folder of its own, as on a pipe of 80 columns."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "SECATEUR_DEBUG", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETWORKS)
    return lambda *words: run(capsys, *words)


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a result folder that no test may change: LeNet-5 with half of its MACs, untrained."""
    from secateur.cli.app import app

    folder = tmp_path_factory.mktemp("pruned") / "small"
    with pytest.raises(SystemExit) as ended:
        app(["prune", *PRUNED, "--out", str(folder), "--quiet"])
    assert not ended.value.code
    return folder
