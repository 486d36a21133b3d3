"""Files that are written by replacing put nothing in the place of what is no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import report
from secateur.atomic import refuse_special, write_file
from secateur.encoding import encode
from secateur.errors import ArtifactError, ExportError, SecateurError, TrainingError
from secateur.export import export_pt2, export_source
from secateur.training import checkpoint

NET = nn.Linear(2, 2)
WRITERS: dict[str, tuple[Callable[[Path], object], type[SecateurError]]] = {
    "encode": (lambda path: encode(NET, path, force=True), ArtifactError),
    "export": (lambda path: export_pt2(NET, torch.ones(2, 2), path), ExportError),
    "weights beside": (
        lambda path: export_source(NET, torch.ones(2, 2), path.with_suffix(".py")),
        ExportError,
    ),
    "report": (lambda path: report.write(path.parent, out=path), ArtifactError),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_links_are_refused_before_any_work_and_stay(name: str, tmp_path: Path) -> None:
    write, kind = WRITERS[name]
    pipe, link, target = (tmp_path / f"{each}.safetensors" for each in ("pipe", "link", "target"))
    os.mkfifo(pipe)
    target.write_text("old")
    link.symlink_to(target)
    for path, words in ((pipe, "it is a pipe, socket or device"), (link, "it is a symbolic link")):
        with pytest.raises(kind, match=f"^cannot write {path}: {words}[^\n]*; [^\n]*$"):
            write(path)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert target.read_text() == "old"
    assert set(tmp_path.iterdir()) == {pipe, link, target}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_no_writer_replaces_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        write_file(tmp_path / "pipe", b"new")
    with pytest.raises(TrainingError, match="it is a pipe"):
        checkpoint.write(tmp_path / "pipe", {})
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("name", ["", "..", "/"])
def test_what_is_no_name_for_a_file_is_refused(name: str) -> None:
    with pytest.raises(OSError, match="no name for a file"):
        refuse_special(Path(name))
    with pytest.raises(ArtifactError, match=r"^cannot write \S+: it is no name for a file; give another path$"):
        encode(NET, name, force=True)
