"""Supervised child processes: a sweep's workers and a run's ranks."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CLOSED_GRACE = 10  # seconds in which a child that closed its channel may save and end


@dataclass(frozen=True)
class Child:
    """A child process.

    number: number of the worker or rank, from 0.  channel: this process's end of the pipe to it.  crash_file: file for
    the report of a crash.
    """

    number: int
    process: BaseProcess
    channel: Connection
    crash_file: Path

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message; nothing happens where the child has ended, as `receive` reports that."""
        with suppress(OSError):
            self.channel.send(message)

    def end(self, patience: float) -> None:
        """Wait for the process to end, `patience` seconds at most, then kill it."""
        self.process.join(patience)
        if self.process.is_alive():
            self.kill()
            self.process.join()

    def kill(self) -> None:
        """Kill the process, and those that it has started, such as loader workers."""
        started = descendants(self.process.pid or 0)
        self.process.kill()
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wake(self) -> None:
        """Let the process and those that it has started go on if they were stopped (SIGSTOP), so that they can end."""
        for pid in (self.process.pid or 0, *descendants(self.process.pid or 0)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def start_child(
    context: BaseContext, target: Callable[..., None], name: str, number: int, crash_file: Path, *arguments: Any
) -> Child:
    """Start `target(channel, *arguments)` in a process of its own."""
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(target=target, args=(theirs, *arguments), name=name)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return Child(number, process, ours, crash_file)


def receive(children: Sequence[Child], timeout: float) -> Iterator[tuple[Child, tuple[Any, ...] | None]]:
    """At most one message of each child, as (child, message), after waiting up to `timeout` seconds for the first. The
    message is None for a child that has ended; its exit code is known then.

    A child has ended when its process has, though a process that the run's code forked may hold the channel open; and
    when its channel is closed, as by code that closes all descriptors: it gets CLOSED_GRACE seconds to end by itself.
    """
    if not children:
        time.sleep(timeout)
        return
    ready = wait([*(child.channel for child in children), *(child.process.sentinel for child in children)], timeout)
    for child in children:
        if child.channel in ready:
            try:
                yield child, child.channel.recv()
            except (EOFError, OSError):
                child.end(patience=CLOSED_GRACE)
                yield child, None
        elif child.process.sentinel in ready:
            child.process.join()
            yield child, None


def process_stat(pid: int | str) -> list[str]:
    """The fields of proc(5)'s `stat` after the process's name: its state, its parent, and so on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have; none where there is no /proc."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parent = int(process_stat(path.parent.name)[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    started = list(parents.get(pid, ()))
    for child in started:  # the list grows while it is read
        started += parents.get(child, ())
    return started
