"""The commands that tests fork are as those that a new interpreter starts."""

import json
import os
import signal
import sys

import pytest

from tests.processes import ForkedPopen, finish, start_lab, start_python
from tests.project import SEEDS, Project, by_seed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each test starts new interpreters")

LOOK = """
import json, os, signal, sys, threading
seen = {
    "arguments": [sys.argv, sys.orig_argv[1:], open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0))[1:]],
    "path": [place for place in sys.path if not place.endswith("plugins")],  # lab's own for Hydra
    "directory": os.getcwd(),
    "environment": {name: value for name, value in os.environ.items() if not name.startswith(("KMP_", "TORCHIND"))},
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name not in ("seen", "__file__", "__cached__")),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "session": os.getsid(0) == os.getpid() == os.getpgid(0),
    "parent": os.getppid(),
    "threads": len(os.listdir("/proc/self/task")),
    "umask": os.umask(0o22),
    "input": sys.stdin.read(),
}
print(json.dumps(seen))
print("a word", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("session", [False, True])
def test_a_forked_process_sees_what_a_new_one_sees(tmp_path, session):
    options = {"cwd": tmp_path, "env": {"OF_ITS_OWN": "1"}, "start_new_session": session}
    forked, new = (start_python("-c", LOOK, "7", "b c", new=new, **options) for new in (False, True))
    assert isinstance(forked, ForkedPopen)
    assert forked.is_fork
    one, other = finish(forked), finish(new)
    assert (one.code, one.err) == (other.code, other.err) == (7, "a word\n")
    assert json.loads(one.out) == json.loads(other.out)
    assert json.loads(one.out)["parent"] == os.getpid()


def test_its_end_is_told_as_that_of_any_child(tmp_path):
    sleeping = [start_python("-c", "import time; time.sleep(100)", cwd=tmp_path) for _ in range(2)]
    assert [process.poll() for process in sleeping] == [None, None]
    sleeping[0].kill()
    sleeping[1].send_signal(signal.SIGTERM)
    assert [finish(process).code for process in sleeping] == [-signal.SIGKILL, -signal.SIGTERM]
    raising = finish(start_python("-c", "raise KeyError('x')", cwd=tmp_path))
    assert raising.code == 1
    assert raising.err.endswith("KeyError: 'x'\n")
    interrupted = finish(start_python("-c", "import os; os.kill(os.getpid(), 2)", cwd=tmp_path))
    assert interrupted.code == -signal.SIGINT
    assert finish(start_python("-c", "raise SystemExit('a reason')", cwd=tmp_path))[::2] == (1, "a reason\n")


def test_where_the_interpreter_itself_would_read_the_environment_a_new_one_is_started(tmp_path):
    for name in ("OMP_NUM_THREADS", "PYTHONPATH"):
        process = start_lab("--version", cwd=tmp_path, env={name: "3"})
        assert not process.is_fork
        assert finish(process).code == 0


@pytest.mark.slow
def test_runs_in_forks_come_to_what_those_in_new_interpreters_do(tmp_path, unbroken):
    project = Project(tmp_path / "project", new=True)
    done = project.lab(*SEEDS, "hydra.launcher.isolation=process")
    assert done.code == 0, done.err
    assert by_seed(project.runs()) == unbroken
