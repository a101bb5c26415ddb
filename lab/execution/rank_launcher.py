"""A run in several processes, its ranks: torch's elastic launcher starts them and sees to it that all end with one.

Who launched them takes in what they tell, hands on the wish to stop, and says how the run ended where rank 0 cannot.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config.composed import ComposedConfig
from lab.errors import ConfigError, RunInUse
from lab.execution.outcome import Outcome, RunOptions, finished_outcome
from lab.execution.rank import STOP_SIGNALS, RankResult, RankSpec, run_rank
from lab.identity.identity import Identity
from lab.record.environment import describe_environment
from lab.record.files import lock_directory, read_json
from lab.record.status import describe_crash, is_done, read_status, write_status

if TYPE_CHECKING:
    from lab.hardware import Hardware

POLL_SECONDS = 0.1  # seconds between two looks at signals and time limits


def num_processes(asked: ComposedConfig) -> int:
    """In how many processes a run is to train. Raises ConfigError where this machine cannot."""
    if asked.config["hardware"].get("parallel", "none") == "none":
        return 1
    from lab.build.build import instantiate

    hardware: Hardware = instantiate(asked.config, "hardware")
    return hardware.processes or 1


def run_in_ranks(asked: ComposedConfig, identity: Identity, directory: Path, terms: RunOptions) -> Outcome:
    """Do the run in processes of its own; raises as `lab.execution.run_job.run_job`."""
    import torch

    if asked.config["oom"] == "shrink":
        raise ConfigError("oom=shrink is for one process; give oom=fail, and hardware.micro_batch= (examples at once)")
    number = num_processes(asked)
    started = time.time()
    scratch = Path(tempfile.mkdtemp(prefix="lab-ranks-"))
    order = RankSpec(
        asked=asked,
        identity=identity,
        directory=directory,
        number=number,
        threads=max(1, torch.get_num_threads() // number),
        around=terms.around or describe_environment(),
        shown=terms.show is not None,
        step_timeout=terms.pulse.step_timeout,
        scratch=scratch,
    )
    launch = RankProcesses(order, terms)
    try:
        launch.follow()
        return judge_outcome(launch, order, started)
    except KeyboardInterrupt:
        launch.kill()
        with suppress(OSError, RunInUse), lock_directory(directory):
            if read_json(directory / "status.json", {}).get("state") == "running":
                write_status(directory, "interrupted", id=identity.id, ended=time.time(), reason="keyboard")
        raise
    finally:
        launch.kill()
        shutil.rmtree(scratch, ignore_errors=True)


class RankProcesses:
    """words: of the ranks, by number.  processes: theirs.  error: the launcher's."""

    def __init__(self, order: RankSpec, terms: RunOptions):
        self.order, self.terms = order, terms
        pipes = [multiprocessing.get_context("spawn").Pipe() for _ in range(order.number)]
        self.ours, self.theirs = [ours for ours, _ in pipes], [theirs for _, theirs in pipes]
        self.words: dict[int, RankResult] = {}
        self.processes: dict[int, BaseProcess] = {}
        self.error: BaseException | None = None
        self.others = set(multiprocessing.active_children())
        # not in the main thread, where the launcher would take over the signals
        self.thread = threading.Thread(target=self.launch, name="launcher", daemon=True)

    def launch(self) -> None:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        # the ranks begin with these blocked, until they know what to do about them
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for name in ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing"):
            logger = logging.getLogger(name)  # what there is to say, the run's outcome says
            logger.handlers, logger.propagate = [logging.NullHandler()], False
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.order.number,
            run_id=f"{self.order.identity.id}-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint=str(self.order.scratch / "rendezvous"),
            rdzv_configs={"store_type": "file"},
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=str(self.order.scratch / "logs")),
            max_restarts=0,
            monitor_interval=POLL_SECONDS,
            shutdown_timeout=10,
        )
        # they meet in files: a store of torch's own would listen to every network, and trust whom it hears
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        try:
            elastic_launch(config, run_rank)(self.order, self.theirs)
        except ChildFailedError:  # the ranks' own words and exit codes say more
            pass
        except BaseException as error:
            self.error = error

    def follow(self) -> None:
        """Until all ranks have ended: show what they tell, tell them to stop."""
        self.thread.start()
        told = False
        with ExitStack() as shows:
            while self.thread.is_alive() or any(channel.poll() for channel in self.ours):
                for channel in wait(self.ours, timeout=POLL_SECONDS if self.thread.is_alive() else 0):
                    self.hear(channel, shows)  # type: ignore[arg-type]
                if (reason := self.terms.pulse(0)) and not told:
                    told = True
                    for channel in self.ours:
                        with suppress(OSError):  # it has ended
                            channel.send(reason)
        self.thread.join()

    def hear(self, channel: Connection, shows: ExitStack) -> None:
        try:
            kind, *content = channel.recv()
        except (EOFError, OSError):
            self.ours.remove(channel)
            return
        match kind:
            case "here":
                rank, pid = content
                self.processes[rank] = next(one for one in multiprocessing.active_children() if one.pid == pid)
            case "word":
                rank, word = content
                self.words[rank] = word
            case "steps":
                assert self.terms.show
                self.progress = shows.enter_context(self.terms.show(*content))
            case name:
                getattr(self.progress, name)(*content)

    def dead(self) -> dict[int, int]:
        """The exit codes of the ranks that ended without a word."""
        codes = {rank: one.exitcode for rank, one in self.processes.items() if rank not in self.words}
        return {rank: code for rank, code in codes.items() if code}

    def kill(self) -> None:
        while self.thread.is_alive():
            for process in set(multiprocessing.active_children()) - self.others:
                process.kill()
            self.thread.join(POLL_SECONDS)
        for channel in [*self.ours, *self.theirs]:
            channel.close()


def judge_outcome(launch: RankProcesses, order: RankSpec, started: float) -> Outcome:
    """What came of the run. Raises what is the caller's affair."""
    words = launch.words
    first = words.get(0)
    if first and isinstance(first.outcome, Outcome) and not first.failed:
        return first.outcome
    for rank, word in sorted(words.items(), key=lambda pair: pair[1].time):
        outcome = word.outcome
        if word.for_want_of_others or not (word.failed or isinstance(outcome, Exception)):
            continue
        if isinstance(outcome, Exception):
            raise outcome
        if rank == 0:  # which has left it in the directory
            return outcome
        said = f"rank {rank}: {outcome.error}"
        return record_rank_death(order, said, word.trace, started, outcome.outside, outcome.state)
    if is_done(order.directory):
        found = finished_outcome(order.identity, order.directory)
        assert found
        return found
    said, trace = describe_death(launch, order)
    return record_rank_death(order, said, trace, started, outside=True)


def describe_death(launch: RankProcesses, order: RankSpec) -> tuple[str, str]:
    """Of ranks that could not say it themselves: in a line, and what there is beside."""
    from lab.execution.outcome import describe_exit

    dumps = [order.directory / "error.txt", *sorted(order.scratch.glob("rank *"))]
    trace = "\n".join(f"{path.stem}:\n{path.read_text(errors='replace')}" for path in dumps if path.exists())
    for path in dumps:
        if said := describe_crash(path, order.step_timeout):
            return said, trace
    if dead := launch.dead():
        rank, code = min(dead.items(), key=lambda pair: pair[1])  # signals are negative
        return f"rank {rank}: {describe_exit(code)}", ""
    for word in launch.words.values():
        return str(word.outcome.error if isinstance(word.outcome, Outcome) else word.outcome), word.trace or trace
    return f"the ranks could not be started: {launch.error or 'they ended without a word'}", trace


def record_rank_death(
    order: RankSpec, said: str, trace: str, started: float, outside: bool, state: str = "failed"
) -> Outcome:
    """Leave in the run's directory how it ended, where rank 0 could not know. Raises Owned where another process has
    taken it up since."""
    directory, error_file = order.directory, order.directory / "error.txt"
    with lock_directory(directory), suppress(OSError):  # that nobody holds a run that says it is running tells as much
        error_file.write_text(trace or said + "\n")
        began = read_status(directory).get("started", started)
        ended = {"started": began, "ended": time.time(), "error": said, "traceback": error_file.name}
        write_status(directory, state, id=order.identity.id, outside=outside, **ended)
    return Outcome(directory, state, {}, error=said, outside=outside)
