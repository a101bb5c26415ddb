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

from lab.config.composed import ComposedConfig
from lab.errors import ConfigError, Refused, RunInUse
from lab.execution.in_process import run_in_process
from lab.execution.outcome import Outcome, RunOptions, describe_error
from lab.execution.remote_progress import PipeProgress
from lab.execution.stop import StopSignal
from lab.identity.identity import Identity

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


@dataclass(frozen=True)
class RankSpec:
    """What every rank is told.

    number: of ranks.  threads: of each, where the config does not say.  shown: whether progress is told, not shown.
    scratch: a folder for what a crash leaves.
    """

    asked: ComposedConfig
    identity: Identity
    directory: Path
    number: int
    threads: int
    around: Mapping[str, Any]
    shown: bool
    step_timeout: float | None
    scratch: Path


@dataclass(frozen=True)
class RankResult:
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


def run_rank(order: RankSpec, channels: Sequence[Connection]) -> None:
    """A rank's whole life. Exits with 1 where it failed, which ends the others."""
    rank = int(os.environ["RANK"])
    for number, channel in enumerate(channels):
        if number != rank:
            channel.close()
    channel = channels[rank]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's goes to who launched, who tells
    pulse = AgreedStop(order.step_timeout)
    threading.Thread(target=listen_for_stop, args=(channel, pulse), daemon=True).start()
    with pulse.signals():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        channel.send(("here", rank, os.getpid()))
        word = compute_result(order, rank, channel, pulse)
        channel.send(("word", rank, word))
    sys.stdout.flush()
    sys.stderr.flush()
    if word.failed or isinstance(word.outcome, Exception):
        os._exit(1)  # not held up by collectives that never end
    from lab.distributed.collectives import leave_process_group

    leave_process_group()


def listen_for_stop(channel: Connection, pulse: StopSignal) -> None:
    """Take the wish to stop, while the main thread trains. A rank does not outlive who launched it."""
    with suppress(EOFError, OSError):
        while True:
            pulse.stop(channel.recv())
    os._exit(1)


def compute_result(order: RankSpec, rank: int, channel: Connection, pulse: StopSignal) -> RankResult:
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
        show = (lambda steps: PipeProgress(channel, steps)) if order.shown else None
        if rank:
            return RankResult(run_silent_rank(order, rank, pulse))
        terms = RunOptions(pulse, show, order.around, checked=True)
        return RankResult(run_in_process(order.asked, order.identity, order.directory, terms))
    except (ConfigError, Refused, RunInUse) as error:
        return RankResult(error)
    except BaseException as error:
        said, outside = describe_error(error)
        state = "diverged" if type(error).__name__ == "Diverged" else "failed"
        outcome = Outcome(order.directory, state, {}, error=said, outside=outside)
        return RankResult(outcome, "".join(traceback.format_exception(error)))


def run_silent_rank(order: RankSpec, rank: int, pulse: StopSignal) -> Outcome:
    """What a rank beside the first does: all that it does, but for the files."""
    from lab.build.build import build
    from lab.build.dry_run import dry_run
    from lab.errors import Stopped
    from lab.execution.in_process import restore_threads
    from lab.record.record import Record
    from lab.train.loop import execute

    restore_threads(order.asked, order.directory)
    run = build(order.asked.config)
    dry_run(run)
    try:
        with pulse.watch(order.scratch / f"rank {rank}"):
            execute(run, Record(order.directory, silent=True), pulse=pulse)
    except Stopped as stop:
        return Outcome(order.directory, "interrupted", {}, error=str(stop))
    return Outcome(order.directory, "done", {})


class AgreedStop(StopSignal):
    """A pulse that stops every rank after the same step: the first reason that any has is that of all."""

    def __call__(self, step: int) -> str | None:
        from lab.distributed.collectives import first_reason

        reason = super().__call__(step)
        if step and (agreed := first_reason(reason)):  # 0 is told while a rank scores, which is no moment to agree
            self.stop(agreed)  # where it was asked meanwhile, for its own reason
            return agreed
        return None
