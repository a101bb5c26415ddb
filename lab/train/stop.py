"""When a run is to stop, and the watchdog over steps that do not end."""

import faulthandler
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # by which schedulers announce the end


@dataclass(frozen=True)
class Stop:
    """Why a run is to stop before its end.

    reason: text for people.  pruned: whether a search ended the run's trial early.
    """

    reason: str
    pruned: bool = False


class Watchdog:
    """Ends the process when a step takes too long, and reports a crash.

    step_timeout: seconds in which a step must end; None: no limit.
    """

    def __init__(self, step_timeout: float | None = None):
        self.step_timeout = step_timeout
        self.restarted = 0.0  # on time.monotonic()'s clock
        self.file: TextIO | None = None

    @property
    def grain(self) -> float:
        """Seconds between two restarts of the timer: each starts a thread, which takes 50 us."""
        return min(1.0, (self.step_timeout or 1.0) / 20)

    @contextmanager
    def watch(self, path: Path) -> Iterator[None]:
        """Write to `path` what every thread is doing when the process crashes, or when a step does not end in time,
        which ends the process. The file is removed where nothing happened."""
        was_enabled = faulthandler.is_enabled()
        with open(path, "w") as file:
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
                if (
                    was_enabled and sys.__stderr__
                ):  # by `python -X faulthandler`, or by the program that calls `lab.fit`
                    faulthandler.enable(sys.__stderr__)
        if not path.stat().st_size:
            path.unlink()

    def restart(self) -> None:
        """Start the time of a new step."""
        if self.file and self.step_timeout and time.monotonic() - self.restarted > self.grain:
            faulthandler.dump_traceback_later(self.step_timeout + self.grain, exit=True, file=self.file)
            self.restarted = time.monotonic()


class StopSignal:
    """Tells after every step whether the run is to stop, and why.

    deadline: time on time.monotonic()'s clock after which every run is to stop.  watchdog: restarted at every step.
    reason: why the run is to stop, or None.  pruned: whether a search asked for it, as the run does not look promising.
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
        """Ask for a stop. The first reason counts."""
        if self.reason is None:
            self.reason, self.pruned = reason, pruned

    @contextmanager
    def signals(self, keyboard: bool = False) -> Iterator[None]:
        """Turn SIGTERM and SIGUSR1 into the wish to stop after the current step.

        keyboard: Ctrl-C too; a second one raises KeyboardInterrupt.
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
