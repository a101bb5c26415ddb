"""A warm interpreter for tests: it has imported what the commands import, and starts each command by a fork of itself.

`python -c` and `python -m` in a new interpreter spend seconds on importing torch; here the same code runs in a process
that is new in all that a test can see: a child of the one that asked, with its own arguments, environment, directory,
descriptors, signal handlers and mask, and session, and with `sys.path` as the interpreter would make it. What differs
is that imported modules are there already and are not taken apart at the end, and that all such processes share one
seed of `hash`. What depends on these is tested in new interpreters.

It runs as a process of its own (`serve`), which does nothing but fork. Linux only.
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing.util
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LONGEST_MESSAGE = 2**17
TITLE_BYTES = 2000
# read while modules are imported, or by the interpreter: where these differ only a new interpreter will do
READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "PYTORCH_", "TORCH_LOGS")
# what the commands import beside lab's own modules, which are all imported
HEAVY_MODULES = (
    *("torch._dynamo", "torch.distributed.run", "torch.distributed.fsdp", "torchvision", "sklearn.datasets"),
    *("hydra.main", "hydra._internal.hydra", "rich.progress", "optuna", "optuna.storages"),
    "tabulate",  # torch._dynamo imports it at exit, after which the interpreter no longer tells that a signal ended it
    *("tensorboard.summary.writer.event_file_writer", "tensorboard.plugins.hparams.summary_v2"),
)


class Zygote:
    """The side that asks for processes.

    channel: to the process that forks.  owner: the process whose children the new ones become.  environment: that of
    the interpreter's start.
    """

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]):
        self.channel, self.owner = channel, os.getpid()
        self.lock = threading.Lock()
        self.start_values = values_at_start(environment)

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork is as good as a new interpreter for a process with this environment, started from here."""
        return os.getpid() == self.owner and values_at_start(environment) == self.start_values

    def start(
        self, arguments: Sequence[str], cwd: str, env: Mapping[str, str], files: Mapping[int, int], session: bool
    ) -> int:
        """Start `python ARGUMENTS`, of the form `-m MODULE ...` or `-c CODE ...`. Returns the number of the process.

        files: the new process's descriptors, to those here that they are to be.  session: a new one for it.
        """
        request = {"arguments": list(arguments), "cwd": cwd, "env": dict(env), "files": list(files), "session": session}
        request["blocked"] = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        message = json.dumps(request, default=os.fsdecode).encode()
        with self.lock:
            control(PR_SET_CHILD_SUBREAPER, 1)  # so that the kernel makes it a child of this process
            try:
                socket.send_fds(self.channel, [message], list(files.values()))
                answer = self.channel.recv(LONGEST_MESSAGE)
            finally:
                control(PR_SET_CHILD_SUBREAPER, 0)
        if not answer:
            raise RuntimeError("the warm interpreter has ended; LAB_TESTS_NEW=1 does without it")
        return int(answer)


def values_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


def control(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def spawn_multiprocessing_from(zygote: Zygote) -> None:
    """Let multiprocessing's fork server and spawned processes, where this process starts some, be forks too."""
    start_interpreter: Callable[..., int] = multiprocessing.util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
        words = [os.fsdecode(word) for word in args]
        code = words.index("-c") + 1 if "-c" in words else 0
        starts_python = code and words[code].startswith(
            ("from multiprocessing.forkserver", "from multiprocessing.spawn")
        )
        if not starts_python or not zygote.suits(os.environ):
            return start_interpreter(path, args, passfds)
        files = {number: number for number in [*filter(is_open, range(3)), *passfds]}
        return zygote.start(words[code - 1 :], os.getcwd(), os.environ, files, session=False)

    multiprocessing.util.spawnv_passfds = spawnv_passfds


def is_open(descriptor: int) -> bool:
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
        return True
    return False


# the side that forks

IMPORTED_VARIABLES: dict[str, str] = {}


def serve(descriptor: int, padding: str = "") -> None:
    """Import, then fork at each request. Each fork runs its code and ends as the interpreter would.

    padding: unread; it makes room for what /proc shows as the command line of a new process.
    """
    import_all()
    path = sys.path[1:]  # with what lab's modules put there for Hydra
    gc.collect()
    gc.freeze()  # a collection would copy pages that all forks share
    request, files = fork_at_requests(socket.socket(fileno=descriptor))
    enter(request, files, path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        spawn_multiprocessing_from(Zygote(ours, dict(os.environ)))
    else:  # the fork that starts the interpreters that the new process asks for
        ours.close()
        for number in range(3):  # who waits for the new process's output to end need not wait for this one
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        request, files = fork_at_requests(theirs)
        enter(request, files, path)
    run(request["arguments"])


def import_all() -> None:
    """Import all that commands import; what the imports set in the environment goes to IMPORTED_VARIABLES."""
    import lab

    before = dict(os.environ)
    modules = [module.name for module in pkgutil.walk_packages(lab.__path__, "lab.")]
    for name in (*HEAVY_MODULES, *modules):
        if "__main__" not in name and "plugins" not in name:
            with suppress(ImportError):  # optional
                importlib.import_module(name)
    IMPORTED_VARIABLES.update({name: value for name, value in os.environ.items() if before.get(name) != value})
    assert len(os.listdir("/proc/self/task")) == 1, "only a process of one thread can be forked"


def fork_at_requests(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork at each request. Returns, in the new process alone, what it was asked for and the descriptors given."""
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's goes to the whole group
    while True:
        message, files, *_ = socket.recv_fds(channel, LONGEST_MESSAGE, 250)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if not between:  # it ends at once, which makes its child one of the process that asked
            between = os.getpid()
            if child := os.fork():
                os.write(write, str(child).encode())
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.0005)
            return json.loads(message), files
        os.waitpid(between, 0)
        channel.send(os.read(read, 100))
        for number in (read, write, *files):
            os.close(number)


def enter(request: Mapping[str, Any], files: Sequence[int], path: Sequence[str]) -> None:
    """Make this process what a new one would be."""
    above = max(*request["files"], *files, 2) + 1
    high = [fcntl.fcntl(number, fcntl.F_DUPFD, above) for number in files]
    for number, copy in zip(request["files"], high, strict=True):
        os.dup2(copy, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in request["files"]:
            with suppress(OSError):
                os.close(int(name))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({**IMPORTED_VARIABLES, **request["env"]})
    kind, code, *rest = request["arguments"]
    sys.argv = [kind, *rest]
    sys.orig_argv = [sys.executable, kind, code, *rest]
    sys.path[:] = [os.getcwd() if kind == "-m" else "", *path]
    importlib.invalidate_caches()
    show_command(sys.orig_argv)


def show_command(words: Sequence[str]) -> None:
    """Overwrite the arguments that /proc shows of this process."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def run(arguments: Sequence[str]) -> None:
    """Run the code as the interpreter does, and end.

    The modules are not taken apart, which takes half a second and would tell nothing of lab.
    """
    kind, code, *_ = arguments
    main = vars(sys.modules["__main__"])
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    try:
        if kind == "-m":
            runpy._run_module_as_main(code)  # type: ignore[attr-defined]
        else:
            exec(compile(code, "<string>", "exec"), main)
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if not isinstance(stop.code, int | None):
            print(stop.code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code & 0xFF)
