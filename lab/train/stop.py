"""The signal that stops a run before its end, and the watchdog that ends steps which hang."""

import faulthandler
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # cluster schedulers send them before a job's time ends


@dataclass(frozen=True)
class Stop:
    """A stop of a run before its end.

    reason: human-readable cause.  pruned: whether a search ended the run's trial early.
    """

    reason: str
    pruned: bool = False


class Watchdog:
    """Ends the process when a step takes too long, and writes tracebacks when the process crashes.

    step_timeout: maximum seconds for a step; None: no limit.
    """

    def __init__(self, step_timeout: float | None = None):
        self.step_timeout = step_timeout
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

    def restart(self) -> None:
        """Restart the timer for a new step."""
        if self.file and self.step_timeout and time.monotonic() - self.restarted > self.grain:
            faulthandler.dump_traceback_later(self.step_timeout + self.grain, exit=True, file=self.file)
            self.restarted = time.monotonic()


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
        """Turn SIGTERM and SIGUSR1 into a request to stop after the current step.

        keyboard: whether Ctrl-C does the same; a second Ctrl-C raises KeyboardInterrupt.
        """

        def stop(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self.reason:
                raise KeyboardInterrupt
            self.stop(signal.Signals(number).name)

        numbers = [*STOP_SIGNALS, *([signal.SIGINT] if keyboard else [])]
        handlers = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
