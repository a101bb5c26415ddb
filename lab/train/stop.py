"""The signal that stops a run before its end, and the watchdog that ends steps which hang."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

from lab.interpreter import raise_lost_interrupt

# what cluster schedulers and service managers send before a job's time ends, and a terminal that is closed
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

TRACE_SECONDS = 0.5  # in which loader workers write their tracebacks, before a process that hangs is ended
TRACE_SIGNAL = signal.SIGRTMIN + 3 if sys.platform == "linux" else signal.SIGUSR1  # asks a worker for its traceback


@dataclass(frozen=True)
class Stop:
    """A stop of a run before its end.

    reason: human-readable cause.  pruned: whether a search ended the run's trial early.
    """

    reason: str
    pruned: bool = False


class Watchdog:
    """Ends the process when a step takes too long, and writes tracebacks when the process crashes.

    step_timeout: maximum seconds for a step; None: no limit.  heartbeat: function called at each restart of the timer,
    for a supervisor that finds processes which are frozen whole.
    """

    def __init__(self, step_timeout: float | None = None, heartbeat: Callable[[], None] = lambda: None):
        self.step_timeout, self.heartbeat = step_timeout, heartbeat
        self.restarted = 0.0  # on time.monotonic()'s clock
        self.file: TextIO | None = None

    @property
    def grain(self) -> float:
        """Minimum seconds between two restarts of the timer; each restart starts a thread, which takes 50 us."""
        return min(1.0, (self.step_timeout or 1.0) / 20)

    @contextmanager
    def watch(self, file: TextIO) -> Iterator[None]:
        """Write the traceback of every thread to `file` when the process crashes, or when a step exceeds the timeout,
        which also ends the process."""
        was_enabled = faulthandler.is_enabled()
        with self.loader_traces(file):
            faulthandler.enable(file)
            if self.step_timeout:
                self.file = file
                self.restart()
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                self.file = None
                if was_enabled and sys.__stderr__:  # by the program that calls `lab.fit`
                    faulthandler.enable(sys.__stderr__)

    @contextmanager
    def loader_traces(self, file: TextIO) -> Iterator[None]:
        """When a step exceeds the timeout, write the tracebacks of loader workers to `file` before this process ends:
        if an example hangs, only theirs show where."""
        if not self.step_timeout or sys.platform != "linux":
            yield
            return
        ended = threading.Event()
        faulthandler.register(TRACE_SIGNAL, file)  # inherited by the workers that are forked from this process
        threading.Thread(target=self.trace_loaders, args=(self.step_timeout, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            faulthandler.unregister(TRACE_SIGNAL)

    def trace_loaders(self, step_timeout: float, ended: threading.Event) -> None:
        while not ended.wait(max(self.grain, self.restarted + step_timeout + self.grain - time.monotonic())):
            is_late = self.file and time.monotonic() - self.restarted > step_timeout
            if is_late and multiprocessing.get_start_method(allow_none=True) in (None, "fork"):
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, TRACE_SIGNAL)
                return

    def restart(self) -> None:
        """Restart the timer for a new step."""
        if self.file and self.step_timeout and time.monotonic() - self.restarted > self.grain:
            timeout = self.step_timeout + self.grain + TRACE_SECONDS
            faulthandler.dump_traceback_later(timeout, exit=True, file=self.file)
            self.restarted = time.monotonic()
            self.heartbeat()


class StopSignal:
    """Reports after every step whether the run has to stop, and why.

    deadline: time on time.monotonic()'s clock after which every run stops.  watchdog: timer restarted at every step.
    reason: reason to stop, or None.  pruned: whether a search asked for the stop, as the run does not look promising.
    """

    def __init__(self, deadline: float | None = None, watchdog: Watchdog | None = None):
        self.deadline = deadline
        self.watchdog = watchdog or Watchdog()
        self.reason: str | None = None
        self.pruned = False

    @classmethod
    def with_limits(cls, time_limit: float | None, step_timeout: float | None = None) -> "StopSignal":
        """time_limit: seconds from now.  step_timeout: seconds for one step."""
        return cls(time.monotonic() + time_limit if time_limit else None, Watchdog(step_timeout))

    def __call__(self, step: int) -> str | None:
        """The reason to stop after this step; None to continue."""
        self.watchdog.restart()
        if self.deadline and time.monotonic() > self.deadline:
            self.stop("time_limit reached")
        return self.reason

    def stop(self, reason: str, pruned: bool = False) -> None:
        """Request a stop. Only the first reason is kept."""
        if self.reason is None:
            self.reason, self.pruned = reason, pruned

    @contextmanager
    def signals(self, keyboard: bool = False) -> Iterator[None]:
        """Turn STOP_SIGNALS into a request to stop after the current step. A signal that this process ignores, as
        SIGHUP under nohup, stays ignored.

        keyboard: whether Ctrl-C does the same; a second Ctrl-C raises KeyboardInterrupt.
        """

        if keyboard:
            raise_lost_interrupt()

        def stop(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self.reason:
                raise KeyboardInterrupt
            self.stop(signal.Signals(number).name)

        heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        numbers = [*heeded, *([signal.SIGINT] if keyboard else [])]
        handlers = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
