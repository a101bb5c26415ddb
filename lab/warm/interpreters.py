"""New interpreters, as multiprocessing starts them, by forking a process that has imported everything."""

import fcntl
import importlib
import multiprocessing.util
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lab.interpreter import PROCESS_END, control, end_with_parent
from lab.warm.address import READ_AT_START
from lab.warm.forked import fork_orphan, open_streams, place_files, seed_anew, set_handlers, show_command
from lab.warm.messages import ask, ignored_signals, receive_request

PR_SET_CHILD_SUBREAPER = 36


class Interpreters:
    """Starts interpreters, as forks of a process that does nothing else, with `fork_at_requests`.

    channel: to that process.  start_values: variables that are read at a start, as they were at its own.
    """

    def __init__(self, channel: socket.socket, environment: Mapping[str, str]):
        self.channel, self.owner = channel, os.getpid()
        self.lock = threading.Lock()
        self.start_values = values_at_start(environment)

    def suit(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork is as good as a new interpreter for a process with this environment, started from here."""
        return os.getpid() == self.owner and values_at_start(environment) == self.start_values

    def start(
        self,
        words: Sequence[str],
        files: Mapping[int, int],
        directory: str | None = None,
        environment: Mapping[str, str] | None = None,
        session: bool = False,
    ) -> int:
        """Start `python WORDS`, which are `-m MODULE ...` or `-c CODE ...`. Gives the number of the process, a child of
        this one.

        files: the new process's open files, to those here that they are to be.  session: whether it gets a new one.
        """
        request = {
            "words": list(words),
            "directory": directory or os.getcwd(),
            "environment": dict(os.environ if environment is None else environment),
            "files": list(files),
            "session": session,
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "ignored": ignored_signals(),
        }
        with self.lock:
            control(PR_SET_CHILD_SUBREAPER, 1)  # so that the kernel makes it a child of this process
            try:
                answer = ask(self.channel, request, [*files.values()])
            finally:
                control(PR_SET_CHILD_SUBREAPER, 0)
        if not answer:
            raise RuntimeError("the process that is forked for new interpreters has ended")
        return int(answer)

    def serve_multiprocessing(self) -> None:
        """Start what multiprocessing starts from this process: its fork server, and the processes that it spawns."""
        start_new: Callable[..., int] = multiprocessing.util.spawnv_passfds

        def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
            words = [os.fsdecode(word) for word in args]
            code = words.index("-c") if "-c" in words else 0
            kinds = ("from multiprocessing.forkserver", "from multiprocessing.spawn")
            if not (code and words[code + 1].startswith(kinds) and self.suit(os.environ)):
                return start_new(path, args, passfds)
            return self.start(words[code:], {number: number for number in [*filter(is_file_open, range(3)), *passfds]})

        multiprocessing.util.spawnv_passfds = spawnv_passfds


def values_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


def is_file_open(number: int) -> bool:
    with suppress(OSError):
        fcntl.fcntl(number, fcntl.F_GETFD)
        return True
    return False


def make_interpreters() -> dict[str, Any] | None:
    """Have what multiprocessing starts from this process be forks of a child of it, which is forked now. Gives None
    here, and in what that child forks the request for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        Interpreters(ours, os.environ).serve_multiprocessing()
        return None
    ours.close()
    null = os.open(os.devnull, os.O_RDWR)
    place_files(range(3), [null] * 3, theirs.fileno())  # who waits for the output to end need not wait for this process
    return fork_at_requests(theirs)


def fork_at_requests(channel: socket.socket) -> dict[str, Any]:
    """Fork at each request of `Interpreters`. Gives the request in what is forked, which has its open files and no
    others; ends with the process at the other end."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # those of the group are not for this process
    while True:
        try:
            request, files = receive_request(channel)
        except (EOFError, OSError):
            os._exit(0)
        if not (child := fork_orphan()):
            channel.close()
            place_files(request["files"], files, -1)
            return request
        channel.send(str(child).encode())
        for number in files:
            os.close(number)


def run_code(request: Mapping[str, Any], imported: Mapping[str, str], path: Sequence[str]) -> None:
    """Be the interpreter that was asked for.  imported, path: as those of `enter`."""
    if request["session"]:
        os.setsid()
    set_handlers(request["ignored"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update({**imported, **request["environment"]})
    option, code, *rest = request["words"]
    sys.argv, sys.orig_argv = [option, *rest], [sys.executable, option, code, *rest]
    sys.path[:] = [os.getcwd() if option == "-m" else "", *path]
    importlib.invalidate_caches()
    open_streams()
    seed_anew()
    show_command(sys.orig_argv)
    main = vars(sys.modules["__main__"])
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    try:
        if option == "-m":
            runpy._run_module_as_main(code)  # type: ignore[attr-defined]
        else:
            exec(compile(code, "<string>", "exec"), main)
        PROCESS_END.code = 0
    except SystemExit as stop:
        PROCESS_END.code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else None
        raise
