"""Makes a fork of the warm process what a new process would be."""

import ctypes
import fcntl
import importlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lab.execution.child_process import process_stat
from lab.warm.address import control_group


def place_files(numbers: Sequence[int], files: Sequence[int], kept: int) -> None:
    """Make the open `files` those of these numbers, and close all others but `kept`, which is none of the numbers."""
    above = max([*numbers, *files, 2, kept]) + 1
    copies = [fcntl.fcntl(number, fcntl.F_DUPFD, above) for number in files]
    for number, copy in zip(numbers, copies, strict=True):
        os.dup2(copy, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (*numbers, kept):
            with suppress(OSError):
                os.close(int(name))


def enter(
    request: Mapping[str, Any], files: Sequence[int], kept: int, imported: Mapping[str, str], path: Sequence[str]
) -> None:
    """Give this process all that the client has: files, directory, environment, limits, paths of modules.

    kept: an open file that stays open.  imported: variables that importing has set.  path: the warm process's own paths
    of modules. Raises OSError where the client may do what this process may not.
    """
    for number, pair in request["limits"].items():
        resource.setrlimit(int(number), tuple(pair))
    os.sched_setaffinity(0, request["cores"])
    os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    join_control_group(request["group"])
    os.chdir(request["directory"])
    os.umask(request["umask"])
    place_files(request["files"], files, kept)
    os.environ.clear()
    os.environ.update({**imported, **request["environment"]})
    time.tzset()
    sys.path[:] = [*request["path"], *(entry for entry in path if entry not in request["path"])]
    importlib.invalidate_caches()
    sys.executable = request["executable"]  # the same interpreter, perhaps by another name
    sys.argv = list(request["arguments"])
    sys.orig_argv = [sys.executable, *sys.argv]
    open_streams()
    seed_anew()


def join_control_group(group: str) -> None:
    """Move this process to the client's control group, so that it is counted and limited as that one."""
    if group != control_group():
        names = [line.removeprefix("0::") for line in group.splitlines() if line.startswith("0::")]
        for name in names:
            with suppress(OSError):
                Path(f"/sys/fs/cgroup{name}/cgroup.procs").write_bytes(str(os.getpid()).encode())
        if group != control_group():
            raise PermissionError("it is in another control group")


def open_streams() -> None:
    """The standard streams, buffered as the interpreter does for these files."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        before = getattr(sys, name)
        stream = None
        with suppress(OSError):  # a closed one is None
            raw = os.fdopen(number, f"{mode}b", buffering=0 if before.write_through else -1, closefd=False)
            stream = TextIOWrapper(raw, encoding=before.encoding, errors=before.errors)  # type: ignore[arg-type]
            is_line = name == "stderr" or stream.isatty()
            stream.reconfigure(line_buffering=is_line, write_through=before.write_through)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def seed_anew() -> None:
    """What a new interpreter seeds by chance: all forks would have it in common."""
    import numpy

    random.seed()
    numpy.random.seed()


def set_handlers(ignored: Collection[int]) -> None:
    """Ignore these signals alone."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with suppress(OSError):  # those that threads use
            signal.signal(number, signal.SIG_IGN if number in ignored else default)


def show_command(words: Sequence[str]) -> None:
    """Overwrite the arguments that /proc shows of this process, as far as there is room."""
    fields = process_stat("self")
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)[: end - start]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def fork_orphan() -> int:
    """Fork a process that is no child of this one: of the nearest above that is a subreaper, else of init. Gives its
    number, and 0 in itself."""
    read, write = os.pipe()
    between = os.fork()
    if not between:  # it ends at once
        between = os.getpid()
        if child := os.fork():
            os.write(write, str(child).encode())
            os._exit(0)
        os.close(read)
        os.close(write)
        while os.getppid() == between:
            time.sleep(0.0005)
        return 0
    os.waitpid(between, 0)
    os.close(write)
    number = int(os.read(read, 100))
    os.close(read)
    return number
