"""Processes of Python that have imported the library when they begin.

Most of what a small process takes is the import of torch and of what trainings use. One process does this once for all
tests beside it and is forked for each process that is asked for; it does nothing else, so that there is no thread which
a fork could cut off. Where importing is the point of a test, the process must be one of ``subprocess``.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

FORKING = sys.platform == "linux"  # forks after the import of torch may end badly on others
IMPORTED = ("torch", "torch._dynamo", "torchmetrics", "accelerate", "secateur.training.loop", "secateur.run.pruning")
SERVER = """
import gc, importlib, json, os, runpy, signal, socket, sys, types

signal.signal(signal.SIGINT, signal.SIG_IGN)
line = socket.socket(fileno=int(sys.argv[1]))
gc.disable()
for name in sys.argv[2:]:
    importlib.import_module(name)
gc.freeze()
gc.enable()
threads = os.listdir("/proc/self/task")
assert len(threads) == 1, threads
path = list(sys.path)
while True:
    text, files, _, _ = socket.recv_fds(line, 1 << 18, 3)
    if not text:
        sys.exit()
    asked = json.loads(text)
    if "ended" in asked:
        number, status = os.waitpid(asked["ended"], os.WNOHANG)
        line.send(json.dumps(os.waitstatus_to_exitcode(status) if number else None).encode())
        continue
    number = os.fork()
    if not number:
        break
    for file in files:
        os.close(file)
    line.send(json.dumps(number).encode())

line.close()
signal.signal(signal.SIGINT, signal.default_int_handler)
for place, file in enumerate(files):
    os.dup2(file, place)
    os.close(file)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["env"])
words = asked["words"]
if words[0] == "-m":
    sys.argv, sys.path[:] = words[1:], [os.getcwd(), *path[1:]]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
else:
    given = words[0] == "-c"
    sys.argv = ["-c", *words[2:]] if given else words
    sys.path[:] = ["" if given else os.path.dirname(words[0]), *path[1:]]
    server, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    with open(os.devnull if given else words[0]) as script:
        code = compile(words[1] if given else script.read(), "<string>" if given else words[0], "exec")
    exec(code, vars(sys.modules["__main__"]))
"""


class Process:
    """One such process, with what tests use of ``subprocess.Popen``: its streams are text.

    Standard error goes to a file, so that no reader of standard output waits for the reader of the other.
    """

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path | None,
        env: Mapping[str, str] | None,
        stdout: IO[str] | None,
        stderr: IO[str] | None,
    ) -> None:
        self.returncode: int | None = None
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it is there as long as the process)
        stdin, writes = os.pipe()
        reads, out = os.pipe()
        asked = {"words": list(words), "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        files = [stdin, stdout.fileno() if stdout else out, (stderr or self.errors).fileno()]
        self.pid: int = _ask(asked, files)
        os.close(stdin)
        os.close(out)
        self.stdin, self.stdout = open(writes, "w"), open(reads)  # noqa: SIM115 (the same)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait(60)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, text: str = "", timeout: float = 240) -> tuple[str, str]:
        if not self.stdin.closed:
            self.stdin.write(text)
            self.stdin.close()
        said = self.stdout.read()
        self.wait(timeout)
        self.errors.seek(0)
        return said, self.errors.read()

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


Running = Process | subprocess.Popen[str]


@functools.cache
def _line() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-c", SERVER, str(theirs.fileno()), *IMPORTED]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=env)
    theirs.close()
    atexit.register(lambda: (ours.close(), server.wait(60)))
    return ours


def _ask(asked: dict[str, object], files: Sequence[int] = ()) -> int | None:
    socket.send_fds(_line(), [json.dumps(asked).encode()], files)
    return json.loads(_line().recv(1 << 10))


def start(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> Running:
    """Start Python with these words: a file or ``-c CODE`` or ``-m MODULE``, and arguments.

    Args:
        words: what would follow the name of the interpreter.
        cwd: the folder to begin in; by default this one.
        env: all of the environment; what is read while torch is imported makes no difference.
        stdout: a file for standard output, which is a pipe by default.
        stderr: a file for standard error, which is kept for ``communicate`` by default.
    """
    if FORKING:
        return Process(words, cwd, env, stdout, stderr)
    pipe = subprocess.PIPE
    command, streams = [sys.executable, *words], {"stdin": pipe, "stdout": stdout or pipe, "stderr": stderr or pipe}
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, **streams)


def run(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run Python with these words, as by ``start``, and return how it ended with what it said."""
    process = start(words, cwd=cwd, env=env, stdout=stdout, stderr=stderr)
    out, err = process.communicate(timeout=240)
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)
