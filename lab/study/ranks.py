"""One of a run's processes, a rank: the first does what a run alone would, the others take part in silence."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.config.asked import Asked
from lab.config.errors import ConfigError
from lab.config.identity import Identity
from lab.record.files import Owned
from lab.study.job import Outcome, Refused, Terms, cause, undertaken
from lab.study.pulse import Pulse

STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


@dataclass(frozen=True)
class Order:
    """What every rank is told.

    number: of ranks.  threads: of each, where the config does not say.  shown: whether progress is told, not shown.
    scratch: a folder for what a crash leaves.
    """

    asked: Asked
    identity: Identity
    directory: Path
    number: int
    threads: int
    around: Mapping[str, Any]
    shown: bool
    step_timeout: float | None
    scratch: Path


@dataclass(frozen=True)
class Word:
    """The last that a rank tells: how it ended, or the exception that is the caller's affair.  trace: its traceback."""

    outcome: Outcome | Exception
    trace: str = ""
    time: float = field(default_factory=time.time)

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, Outcome) and self.outcome.state in ("failed", "diverged")

    @property
    def for_want_of_others(self) -> bool:
        """Whether it failed as another rank had gone."""
        said = str(self.outcome.error if isinstance(self.outcome, Outcome) else self.outcome)
        return any(name in said for name in ("gloo", "NCCL", "DistBackendError", "DistNetworkError"))


def ranked(order: Order, channels: Sequence[Connection]) -> None:
    """A rank's whole life. Exits with 1 where it failed, which ends the others."""
    rank = int(os.environ["RANK"])
    for number, channel in enumerate(channels):
        if number != rank:
            channel.close()
    channel = channels[rank]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's goes to who launched, who tells
    pulse = Agreed(order.step_timeout)
    threading.Thread(target=listen, args=(channel, pulse), daemon=True).start()
    with pulse.signals():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        channel.send(("here", rank, os.getpid()))
        word = last_word(order, rank, channel, pulse)
        channel.send(("word", rank, word))
    sys.stdout.flush()
    sys.stderr.flush()
    if word.failed or isinstance(word.outcome, Exception):
        os._exit(1)  # not held up by collectives that never end
    from lab.parallel import leave

    leave()


def listen(channel: Connection, pulse: Pulse) -> None:
    """Take the wish to stop, while the main thread trains. A rank does not outlive who launched it."""
    with suppress(EOFError, OSError):
        while True:
            pulse.stop(channel.recv())
    os._exit(1)


def last_word(order: Order, rank: int, channel: Connection, pulse: Pulse) -> Word:
    import torch
    import torch.distributed as dist

    try:
        torch.set_num_threads(order.threads)
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(rank % torch.cuda.device_count())
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
        backend, store = "cpu:gloo,cuda:nccl" if cuda else "gloo", f"file://{order.scratch}/store"
        dist.init_process_group(backend, store, rank=rank, world_size=order.number)
        show = (lambda steps: Relay(channel, steps)) if order.shown else None
        if rank:
            return Word(accompanied(order, rank, pulse))
        terms = Terms(pulse, show, order.around, checked=True)
        return Word(undertaken(order.asked, order.identity, order.directory, terms))
    except (ConfigError, Refused, Owned) as error:
        return Word(error)
    except BaseException as error:
        said, outside = cause(error)
        state = "diverged" if type(error).__name__ == "Diverged" else "failed"
        outcome = Outcome(order.directory, state, {}, error=said, outside=outside)
        return Word(outcome, "".join(traceback.format_exception(error)))


def accompanied(order: Order, rank: int, pulse: Pulse) -> Outcome:
    """What a rank beside the first does: all that it does, but for the files."""
    from lab.config.build import build
    from lab.config.dry import dry_step
    from lab.record.record import Record
    from lab.study.job import keep_threads
    from lab.train.loop import Stopped, execute

    keep_threads(order.asked, order.directory)
    run = build(order.asked.config)
    dry_step(run)
    try:
        with pulse.watch(order.scratch / f"rank {rank}"):
            execute(run, Record(order.directory, silent=True), pulse=pulse)
    except Stopped as stop:
        return Outcome(order.directory, "interrupted", {}, error=str(stop))
    return Outcome(order.directory, "done", {})


class Agreed(Pulse):
    """A pulse that stops every rank after the same step: the first reason that any has is that of all."""

    def __call__(self, step: int) -> str | None:
        from lab.parallel import from_any

        reason = super().__call__(step)
        if step and (agreed := from_any(reason)):  # 0 is told while a rank scores, which is no moment to agree
            self.stop(agreed)  # where it was asked meanwhile, for its own reason
            return agreed
        return None


class Relay:
    """Progress, told to who launched."""

    def __init__(self, channel: Connection, steps: int):
        self.channel = channel
        self.tell("steps", steps)

    def tell(self, *what: Any) -> None:
        with suppress(OSError):  # nobody listens any more
            self.channel.send(what)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.tell("advance", step, epoch, values)

    def line(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        self.tell("line", step, epoch, values)

    def note(self, text: str) -> None:
        self.tell("note", text)
