"""One rank of a distributed run. Rank 0 writes the run directory; the others train without writing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lab.config.composed import ComposedConfig
from lab.errors import ConfigError, Diverged, LabError, Refused, RunInUse, Stopped
from lab.execution.in_process import restore_threads, run_in_process
from lab.execution.outcome import Outcome, RunOptions
from lab.execution.remote_progress import PipeProgress
from lab.identity.identity import Identity
from lab.record.files import file_if_written
from lab.text import format_traceback
from lab.train.stop import STOP_SIGNALS, StopSignal, Watchdog

# texts in torch.distributed's errors after another rank has ended
LOST_PEER_TEXTS = ("gloo", "NCCL", "DistBackendError", "DistNetworkError")


@dataclass(frozen=True)
class RankSpec:
    """The arguments of every rank of a run.

    world_size: number of ranks.  threads: CPU threads of each rank, where the config does not set them.
    environment: description of the environment for the manifest.  relay_progress: whether rank 0 sends progress to the
    parent instead of drawing it.  step_timeout: seconds in which a step must end; None: no limit.  scratch: folder for
    crash files and for the ranks' rendezvous.
    """

    composed: ComposedConfig
    identity: Identity
    directory: Path
    world_size: int
    threads: int
    environment: Mapping[str, Any]
    relay_progress: bool
    step_timeout: float | None
    scratch: Path

    def crash_file(self, rank: int) -> Path:
        return self.scratch / f"rank {rank}"


@dataclass(frozen=True)
class RankResult:
    """The last message of a rank: the run's outcome on this rank, or an error that the launching process raises.

    trace: traceback of a failure.  lost_peer: whether the rank failed because another rank had ended.  time: time of
    this message, in seconds since the epoch.
    """

    outcome: Outcome | LabError
    trace: str = ""
    lost_peer: bool = False
    time: float = field(default_factory=time.time)

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, LabError) or self.outcome.state in ("failed", "diverged")


def run_rank(channel: Connection, rank: int, spec: RankSpec) -> None:
    """The whole life of a rank's process. It begins with STOP_SIGNALS and Ctrl-C blocked; exits with 1 if it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which asks the ranks to stop
    stop = AgreedStop(watchdog=Watchdog(spec.step_timeout))
    threading.Thread(target=listen_for_stop, args=(channel, stop), daemon=True).start()
    with stop.signals():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *STOP_SIGNALS})
        result = compute_result(spec, rank, channel.send, stop)
        channel.send(("result", result))
    sys.stdout.flush()
    sys.stderr.flush()
    if result.failed:
        os._exit(1)  # an orderly exit might wait for a collective that never ends
    from lab.distributed.collectives import leave_process_group

    leave_process_group()


def listen_for_stop(channel: Connection, stop: StopSignal) -> None:
    """Receive the parent's request to stop while the main thread trains. Ends the process when the parent has ended."""
    with suppress(EOFError, OSError):
        while True:
            reason, pruned = channel.recv()
            stop.stop(reason, pruned)
    os._exit(1)


def compute_result(spec: RankSpec, rank: int, send: Callable[[Any], None], stop: StopSignal) -> RankResult:
    """Train as this rank, and describe how that ended. Raises nothing.  send: sends a message to the parent."""
    from lab.record.recording import describe_error

    def relay(message: tuple[Any, ...]) -> None:
        with suppress(OSError):  # the parent has ended, which `listen_for_stop` handles
            send(message)

    try:
        join_process_group(spec, rank)
        if rank:
            return RankResult(run_silent_rank(spec, rank, stop))
        progress = (lambda steps: PipeProgress(relay, steps)) if spec.relay_progress else None
        options = RunOptions(stop, progress, spec.environment, is_checked=True)
        return rank_result(run_in_process(spec.composed, spec.identity, spec.directory, options))
    except (ConfigError, Refused, RunInUse) as error:
        return RankResult(error, lost_peer=is_lost_peer(str(error)))
    except BaseException as error:
        message, outside = describe_error(error)
        state = "diverged" if isinstance(error, Diverged) else "failed"
        trace = format_traceback(error)
        return rank_result(Outcome(spec.directory, state, error=message, outside=outside), trace)


def rank_result(outcome: Outcome, trace: str = "") -> RankResult:
    """The result of an outcome, with `lost_peer` from the text of its error."""
    return RankResult(outcome, trace, is_lost_peer(str(outcome.error)))


def is_lost_peer(message: str) -> bool:
    return any(text in message for text in LOST_PEER_TEXTS)


def join_process_group(spec: RankSpec, rank: int) -> None:
    """Set this process up as a rank. The ranks meet in a file: a TCP store would listen to every network."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(spec.threads)
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": spec.world_size, "LOCAL_WORLD_SIZE": spec.world_size}
    os.environ.update({name: str(value) for name, value in world.items()})  # as torchrun sets them
    backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
    store = f"file://{spec.scratch}/store"
    dist.init_process_group(backend, store, rank=rank, world_size=spec.world_size)


def run_silent_rank(spec: RankSpec, rank: int, stop: StopSignal) -> Outcome:
    """Do the same as rank 0, without writing files."""
    from lab.assembly.build import build
    from lab.assembly.dry_run import dry_run
    from lab.record.record import Record
    from lab.train.loop import execute, train

    restore_threads(spec.composed, spec.directory)
    run = build(spec.composed.resolved)
    dry_run(run)
    try:
        with file_if_written(spec.crash_file(rank)) as crash_file, stop.watchdog.watch(crash_file):
            execute(run, Record(spec.directory, silent=True), train, stop)
    except Stopped as stopped:
        return Outcome(spec.directory, "interrupted", error=str(stopped))
    return Outcome(spec.directory, "done")


class AgreedStop(StopSignal):
    """Stops all ranks after the same step: the reason of the lowest rank that has one becomes the reason of all."""

    def __call__(self, step: int) -> str | None:
        from lab.distributed.collectives import first_reason

        reason = super().__call__(step)
        if step and (agreed := first_reason(reason)):  # step 0: a call during scoring, where ranks cannot agree
            self.stop(agreed)  # no effect on a rank that has a reason of its own
            return agreed
        return None
