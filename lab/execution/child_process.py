"""Supervised child processes: a sweep's workers and a run's ranks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


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
            self.process.kill()
            self.process.join()


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
    message is None for a child that has ended; its exit code is known then."""
    if not children:
        time.sleep(timeout)
        return
    ready = wait([child.channel for child in children], timeout)
    for child in children:
        if child.channel in ready:
            try:
                yield child, child.channel.recv()
            except (EOFError, OSError):
                child.process.join()
                yield child, None
