"""The commands of tests as processes of their own, nearly all of them forks of one that has imported torch."""

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lab.warm.interpreters import Interpreters
from lab.warm.server import TITLE_BYTES

TIMEOUT = 240  # seconds that a command may take on a machine that is busy with others
NewPopen = subprocess.Popen  # in whose place a test may put the other


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class ForkedPopen(subprocess.Popen[Any]):
    """Popen, which starts Python's modules and code without the seconds that a new interpreter spends on imports."""

    is_fork = False

    def _execute_child(self, *arguments: Any, **named: Any) -> None:
        execute_child: Any = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(execute_child).bind(*arguments, **named).arguments
        words = asked["args"]
        is_code = isinstance(words, list) and words[:2] in ([sys.executable, "-m"], [sys.executable, "-c"])
        if not is_code or asked["pass_fds"] or not can_fork(asked["env"] or os.environ):
            return execute_child(*arguments, **named)
        ends = [asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        theirs = {0: asked["p2cread"], 1: asked["c2pwrite"], 2: asked["errwrite"]}
        files = {number: number if end == -1 else end for number, end in theirs.items()}
        try:
            self.pid = zygote().start(words[1:], files, asked["cwd"], asked["env"], asked["start_new_session"])
            self._child_created = self.is_fork = True
        finally:
            self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


@cache
def zygote() -> Interpreters:
    """The warm interpreter of this process; what multiprocessing starts from this process are forks of it, too."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here, channel = str(Path(__file__).parent), theirs.fileno()
    code = f"import sys; sys.path.insert(1, {here!r}); import zygote; del sys.path[1]; zygote.serve({channel})"
    command = [sys.executable, "-c", code, " " * TITLE_BYTES]
    subprocess.Popen(command, pass_fds=[channel], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    theirs.close()
    made = Interpreters(ours, os.environ)
    made.serve_multiprocessing()
    return made


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a fork does for a command with this environment.  LAB_TESTS_NEW=1: none does, each is a new process."""
    return sys.platform == "linux" and "LAB_TESTS_NEW" not in os.environ and zygote().suit(environment)


def start_lab(*arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m lab ARGUMENTS`.  options: as `start_python` has them."""
    return start_python("-m", "lab", *arguments, cwd=cwd, **options)


def start_python(
    *arguments: str, cwd: Path, new: bool = False, env: Mapping[str, str] = {}, **options: Any
) -> subprocess.Popen[str]:
    """Start `python -m MODULE ...` or `python -c CODE ...`.

    new: start a new interpreter, as users do, whatever that costs.  env: variables beside those of this process.
    options: Popen's.
    """
    kind = NewPopen if new else ForkedPopen
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *arguments]
    return kind(command, cwd=str(cwd), env={**os.environ, **env}, text=True, **{**streams, **options})


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process to end by itself."""
    out, err = process.communicate(timeout=TIMEOUT)
    return Ended(process.returncode, out, err)
