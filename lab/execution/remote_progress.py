"""The progress of a run, sent through a pipe to the process that shows it.

A worker of a sweep and a rank of a run send the same messages: ("begin", steps), ("advance", step, epoch, values),
("line", step, epoch, values) and ("note", text).
"""

import time
from collections.abc import Callable
from typing import Any

ADVANCE_EVERY = 0.25  # minimum seconds between two "advance" messages


class PipeProgress:
    """A `lab.record.record.Progress` that sends messages.  send: takes one message, a tuple.  steps: number of steps of
    the run."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None], steps: int):
        self.send = send
        self.sent_at = 0.0  # on time.monotonic()'s clock
        send(("begin", steps))

    def __enter__(self) -> "PipeProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self.sent_at > ADVANCE_EVERY:
            self.sent_at = now
            self.send(("advance", step, epoch, values))

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.send(("line", step, epoch, values))

    def note(self, text: str) -> None:
        self.send(("note", text))
