"""Progress sent through a pipe to the process that shows it."""

from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


class PipeProgress:
    """Progress, told to who launched."""

    def __init__(self, channel: Connection, steps: int):
        self.channel = channel
        self.tell("steps", steps)

    def tell(self, *what: Any) -> None:
        with suppress(OSError):  # nobody listens any more
            self.channel.send(what)

    def __enter__(self) -> "PipeProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.tell("advance", step, epoch, values)

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.tell("line", step, epoch, values)

    def note(self, text: str) -> None:
        self.tell("note", text)
