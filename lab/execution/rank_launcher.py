"""A run in several processes, its ranks: starts, supervises and stops them, and makes one outcome of their results.

The launching process relays their progress and the requests to stop, and records the outcome if rank 0 died.
"""

import multiprocessing
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config.composed import ComposedConfig
from lab.errors import ConfigError, LabError, RunInUse
from lab.execution.child_process import Child, receive, start_child
from lab.execution.dead_process import Death, describe_death, describe_exit, record_death
from lab.execution.outcome import Outcome, RunOptions, finished_outcome
from lab.execution.rank import RankResult, RankSpec, run_rank
from lab.identity.identity import Identity
from lab.ledger.saved_run import SavedRun
from lab.record.environment import describe_environment
from lab.record.files import lock_directory
from lab.record.status import has_begun, write_status
from lab.train.stop import STOP_SIGNALS

if TYPE_CHECKING:
    from lab.hardware import Hardware

POLL_SECONDS = 0.1  # between two checks of signals and time limits
PEER_GRACE = 10  # seconds in which the other ranks may end by themselves after one has failed


def num_ranks(composed: ComposedConfig) -> int:
    """The number of processes in which a run is to train. Raises ConfigError where this machine lacks the devices."""
    if composed.resolved["hardware"].get("parallel", "none") == "none":
        return 1
    from lab.assembly.build import instantiate

    hardware: Hardware = instantiate(composed.resolved, "hardware")
    return hardware.processes or 1


def run_in_ranks(composed: ComposedConfig, identity: Identity, directory: Path, options: RunOptions) -> Outcome:
    """Bring the run to its end in new processes, one for each rank; raises as `lab.execution.run_job.run_job`."""
    import torch

    if composed.resolved["oom"] == "shrink":
        raise ConfigError("oom=shrink is for one process; give oom=fail, and hardware.micro_batch= (examples at once)")
    world_size = num_ranks(composed)
    started = time.time()
    scratch = Path(tempfile.mkdtemp(prefix="lab-ranks-"))
    spec = RankSpec(
        composed=composed,
        identity=identity,
        directory=directory,
        world_size=world_size,
        threads=max(1, torch.get_num_threads() // world_size),
        environment=options.environment or describe_environment(),
        relay_progress=options.progress is not None,
        step_timeout=options.stop.watchdog.step_timeout,
        scratch=scratch,
    )
    ranks = RankProcesses(spec, options)
    try:
        ranks.supervise()
        return merge_results(ranks, started)
    except KeyboardInterrupt:
        ranks.end()
        with suppress(OSError, RunInUse), lock_directory(directory):
            if has_begun(directory):
                write_status(directory, "interrupted", id=identity.id, ended=time.time(), reason="keyboard")
        raise
    finally:
        ranks.end()
        shutil.rmtree(scratch, ignore_errors=True)


class RankProcesses:
    """The processes of a run.

    results: last message of each rank, by rank.  exitcodes: exit codes of the ranks that have ended, by rank.
    """

    def __init__(self, spec: RankSpec, options: RunOptions):
        self.spec, self.options = spec, options
        self.results: dict[int, RankResult] = {}
        self.exitcodes: dict[int, int | None] = {}
        context = multiprocessing.get_context("spawn")
        # the ranks inherit these signals as blocked, and unblock them when their handlers are set
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *STOP_SIGNALS})
        try:
            self.children = [
                start_child(context, run_rank, f"lab rank {rank}", rank, spec.crash_file(rank), rank, spec)
                for rank in range(spec.world_size)
            ]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def supervise(self) -> None:
        """Relay progress and requests to stop until all ranks have ended. After one has failed, the others have
        PEER_GRACE seconds to end."""
        stopping, deadline = False, None
        with ExitStack() as stack:
            while running := [child for child in self.children if child.number not in self.exitcodes]:
                for child, message in receive(running, POLL_SECONDS):
                    if message is None:
                        self.exitcodes[child.number] = child.process.exitcode
                    else:
                        self.handle(child, message, stack)
                if (reason := self.options.stop(0)) and not stopping:
                    stopping = True
                    for child in running:
                        child.send((reason, self.options.stop.pruned))
                if deadline is None and self.any_failed():
                    deadline = time.monotonic() + PEER_GRACE
                if deadline is not None and time.monotonic() > deadline:
                    for child in running:
                        child.process.kill()

    def handle(self, child: Child, message: tuple, stack: ExitStack) -> None:
        """Keep a rank's result, or show its progress.  stack: keeps the display open until all ranks have ended."""
        match message:
            case ("result", result):
                self.results[child.number] = result
            case ("begin", steps):
                assert self.options.progress
                self.progress = stack.enter_context(self.options.progress(steps))
            case (name, *values):
                getattr(self.progress, name)(*values)

    def any_failed(self) -> bool:
        return any(self.exitcodes.values()) or any(result.failed for result in self.results.values())

    def end(self) -> None:
        for child in self.children:
            child.end(patience=0)
            child.channel.close()


def merge_results(ranks: RankProcesses, started: float) -> Outcome:
    """The outcome of the run, from the results of its ranks. Raises a rank's LabError."""
    spec, results = ranks.spec, ranks.results
    first = results.get(0)
    if first and isinstance(first.outcome, Outcome) and not first.failed:
        return first.outcome
    for rank, result in sorted(results.items(), key=lambda pair: pair[1].time):
        if result.lost_peer or not result.failed:
            continue
        if isinstance(result.outcome, LabError):
            raise result.outcome
        if rank == 0:  # rank 0 has recorded it
            return result.outcome
        message = f"rank {rank}: {result.outcome.error}"
        death = Death(message, result.trace, result.outcome.outside, result.outcome.state)
        return record_death(spec.identity, spec.directory, death, started)
    if outcome := finished_outcome(spec.identity, SavedRun(spec.directory)):
        return outcome
    return record_death(spec.identity, spec.directory, describe_ranks_death(ranks), started)


def describe_ranks_death(ranks: RankProcesses) -> Death:
    """How the ranks ended where none sent a failure of its own: by crash files, exit codes or lost peers."""
    spec = ranks.spec
    dumps = [spec.directory / "error.txt", *(child.crash_file for child in ranks.children)]
    trace = "\n".join(
        f"{path.stem}:\n{path.read_text(encoding='utf-8', errors='replace')}" for path in dumps if path.exists()
    )
    crash = describe_death(dumps, None, spec.step_timeout)
    if crash.trace:
        return Death(crash.message, trace)
    silent = {rank: code for rank, code in ranks.exitcodes.items() if rank not in ranks.results and code}
    if silent:
        rank, code = min(silent.items(), key=lambda pair: pair[1])  # signals are negative
        return Death(f"rank {rank}: {describe_exit(code)}")
    for result in ranks.results.values():
        outcome = result.outcome
        return Death(str(outcome.error if isinstance(outcome, Outcome) else outcome), result.trace or trace)
    return Death("the ranks could not be started: they ended without a message", trace)
