"""Whether a run is to go on: asked after every step. And a watch over steps that do not end."""

import faulthandler
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO


@dataclass(frozen=True)
class Stop:
    """Why a run is to stop before its end.

    reason: text for people.  pruned: whether a search ended the run's trial early.
    """

    reason: str
    pruned: bool = False


class StopSignal:
    """step_timeout: seconds in which a step must end, or the process ends, its threads' tracebacks in the file that
    `watch` was given.  deadline: on time.monotonic()'s clock, after which every run is to stop.
    """

    def __init__(self, step_timeout: float | None = None, deadline: float | None = None):
        self.step_timeout, self.deadline = step_timeout, deadline
        self.reason: str | None = None
        self.armed, self.file = 0.0, None

    def __call__(self, step: int) -> str | None:
        """Why the run is to stop after this step; None to go on."""
        if self.file and time.monotonic() - self.armed > self.grain:
            self.arm()
        if self.deadline and time.monotonic() > self.deadline:
            self.stop("time_limit reached")
        return self.reason

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason

    @property
    def grain(self) -> float:
        # arming starts a thread, 50 us: not after every step
        return min(1.0, (self.step_timeout or 1.0) / 20)

    @contextmanager
    def watch(self, path: Path) -> Iterator[None]:
        """Leave in `path` what every thread is doing when the process crashes, or a step does not end in time."""
        with open(path, "w") as file:
            faulthandler.enable(file)
            if self.step_timeout:
                self.file: TextIO | None = file
                self.arm()
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                self.file = None
        if not path.stat().st_size:
            path.unlink()

    def arm(self) -> None:
        assert self.file
        assert self.step_timeout
        faulthandler.dump_traceback_later(self.step_timeout + self.grain, exit=True, file=self.file)
        self.armed = time.monotonic()

    @classmethod
    def until(cls, time_limit: float | None, step_timeout: float | None = None) -> "StopSignal":
        """time_limit: seconds from now."""
        return cls(step_timeout, time.monotonic() + time_limit if time_limit else None)

    @contextmanager
    def signals(self, keyboard: bool = False) -> Iterator[None]:
        """Take SIGTERM and SIGUSR1, by which schedulers announce the end, for a wish to stop after the step.

        keyboard: Ctrl-C too; a second one raises KeyboardInterrupt.
        """

        def stop(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self.reason:
                raise KeyboardInterrupt
            self.stop(signal.Signals(number).name)

        numbers = [signal.SIGTERM, signal.SIGUSR1, *([signal.SIGINT] if keyboard else [])]
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
