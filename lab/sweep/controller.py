"""A running sweep: groups of jobs go to workers as slots become free, and the outcome of every job is kept. A run that
fails or dies does not affect the others."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lab.config.settings import Policy
from lab.errors import LabError, RunInUse
from lab.execution.dead_process import Death, describe_death, record_death
from lab.execution.outcome import Outcome, finished_outcome, saved_outcome
from lab.identity.source_code import CodeWatch
from lab.ledger.saved_run import SavedRun
from lab.record.files import is_locked, make_directory
from lab.record.status import has_begun, is_done
from lab.sweep.plan import Job, Plan, job_status, link_run, needs_run
from lab.sweep.pool import Event, Pool
from lab.train.stop import Stop, StopSignal

POLL_SECONDS = 0.2  # between two checks of signals, time limits and other processes' runs

Group = Sequence[Job]  # jobs that one worker does as one piece of work; of length one for now


class Source(Protocol):
    """Where the next group of jobs comes from."""

    def next(self) -> Group | None:
        """The next group; None where there is none now. There may be one again after a job has ended."""
        ...

    def on_scores(self, job: Job, step: int, scores: Mapping[str, float], /) -> Stop | None:
        """Take the scores of a running job at a step. Gives a reason to stop the job, or None."""
        ...

    def on_ended(self, job: Job, outcome: Outcome, /) -> None: ...


class View(Protocol):
    """Shows a running sweep to a person."""

    def started(self, job: Job, /) -> None: ...
    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float], /) -> None: ...
    def ended(self, job: Job, outcome: Outcome, /) -> None: ...
    def note(self, text: str, /) -> None: ...


class FixedJobs:
    """The jobs of a list, in order, each a group of its own."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = deque(jobs)

    def next(self) -> Group | None:
        return (self.jobs.popleft(),) if self.jobs else None

    def on_scores(self, job: Job, step: int, scores: Mapping[str, float]) -> Stop | None:
        return None

    def on_ended(self, job: Job, outcome: Outcome) -> None:
        pass


class SweepController:
    """Gives a sweep's jobs to the pool, and handles its events, retries, failures and stops.

    outcomes: outcomes of the jobs that have ended, by number.  reason: why no more jobs are started, or None.
    changed: names of the modules whose source changed since the sweep was planned.
    """

    def __init__(
        self,
        sweep: Path,
        source: Source,
        pool: Pool,
        policy: Policy,
        view: View,
        code: CodeWatch,
        stop_signal: StopSignal,
    ):
        self.sweep, self.source, self.pool, self.policy, self.view = sweep, source, pool, policy, view
        self.code, self.stop_signal = code, stop_signal
        self.outcomes: dict[int, Outcome] = {}
        self.retries: deque[Group] = deque()  # groups to start before the source's next one
        self.in_use: list[Job] = []  # jobs whose run another process holds
        self.attempts: Counter[int] = Counter()
        self.steps: dict[int, int] = {}  # total number of steps of each job, by the job's number
        self.reason: str | None = None
        self.changed: list[str] = []

    def run(self) -> None:
        """Do the source's jobs until it has no more, or the sweep is stopped and the running jobs have ended."""
        while True:
            if reason := self.stop_signal(0):
                self.stop(reason)
            self.fill_slots()
            if not self.pool.busy_slots and (self.reason or not (self.retries or self.in_use)):
                return
            for event in self.pool.events(POLL_SECONDS):
                self.handle(event)
            self.start_released_jobs()

    def stop(self, reason: str, stop_running: bool = True) -> None:
        """Start no more jobs.  stop_running: whether to ask the running ones to save and stop."""
        self.reason = self.reason or reason
        if stop_running:
            self.pool.stop(reason)

    def fill_slots(self) -> None:
        """Start jobs while there are free slots; stop the sweep instead where the code has changed."""
        while not self.reason and self.pool.has_free_slot:
            if self.policy.on_change == "stop" and (changed := self.code.changed()):
                self.changed = changed
                self.stop("the code changed", stop_running=False)
                return
            group = self.retries.popleft() if self.retries else self.source.next()
            if group is None:
                return
            if ready := [job for job in group if self.prepare(job)]:
                for job in ready:
                    self.view.started(job)
                self.pool.start(ready)

    def prepare(self, job: Job) -> bool:
        """Prepare the job's directory. Gives whether the job is to be started now.

        A job that is done, or cannot be started, ends here; one that another process does is taken up later.
        """
        try:
            if outcome := finished_outcome(
                job.identity, SavedRun(job.directory)
            ):  # another sweep has done it meanwhile
                self.end(job, outcome)
                return False
        except LabError as error:
            self.end(job, Outcome(job.directory, "failed", error=str(error)))
            return False
        if is_locked(job.directory):
            self.in_use.append(job)
            self.view.note(f"{job.directory} is being done by another process")
            return False
        self.attempts[job.number] += 1
        try:
            make_directory(job.directory)
            link_run(self.sweep, job)
        except (OSError, LabError) as error:
            message = f"{job.directory} is no directory; move it away" if job.directory.is_file() else str(error)
            self.end(job, Outcome(job.directory, "failed", error=message, outside=True))
            return False
        return True

    def handle(self, event: Event) -> None:
        job = event.job
        match event.kind, event.content:
            case "begin", (steps,):
                self.steps[job.number] = steps
            case "advance", (step, _, values):
                self.view.progress(job, step, self.steps[job.number], values)
            case "line", (step, _, scores):
                self.view.progress(job, step, self.steps[job.number], scores)
                if stop := self.source.on_scores(job, step, scores):
                    self.pool.stop(stop.reason, job, stop.pruned)
            case "note", (text,):
                self.view.note(f"#{job.number}: {text}")
            case "died", (exitcode, crash_file):
                self.handle_death(job, exitcode, crash_file)
            case "ended", (RunInUse(),):
                self.in_use.append(job)
            case "ended", (Exception() as error,):
                self.record(job, Death(str(error), outside=isinstance(error, OSError)))
            case "ended", (outcome,):
                self.end(job, outcome)

    def handle_death(self, job: Job, exitcode: int | None, crash_file: Path) -> None:
        """Record how the job's process died.  exitcode: None where the pool killed it."""
        if exitcode is None and not is_done(job.directory):
            message = f"{self.reason}, and killed as it did not stop"
            self.end(job, Outcome(job.directory, "interrupted", error=message))
            return
        # a run that had not begun may have an error.txt from an earlier attempt
        crash_files = [job.directory / "error.txt", crash_file] if has_begun(job.directory) else [crash_file]
        self.record(job, describe_death(crash_files, exitcode, self.policy.step_timeout))

    def record(self, job: Job, death: Death) -> None:
        """Record a death in the run's directory, and end the job."""
        try:
            self.end(job, record_death(job.identity, job.directory, death))
        except RunInUse:  # another process has taken it up already
            self.in_use.append(job)

    def end(self, job: Job, outcome: Outcome) -> None:
        """Keep the job's outcome, or queue the job for a retry; stop the sweep after too many failures."""
        attempts = self.attempts[job.number]  # 0 where it was never started
        if outcome.state == "failed" and not self.reason and 0 < attempts <= self.policy.max_retries:
            self.view.note(f"#{job.number} {outcome.error}; trying again")
            self.retries.append((job,))
            return
        self.outcomes[job.number] = outcome
        self.source.on_ended(job, outcome)
        self.view.ended(job, outcome)
        failures = sum(outcome.state in ("failed", "diverged") for outcome in self.outcomes.values() if outcome.new)
        if reason := self.policy.stop_reason(failures):
            self.stop(reason, stop_running=False)

    def start_released_jobs(self) -> None:
        """Take up the jobs whose runs another process has released. A run that is not done is started again; of one
        that is done, or failed for good, the outcome is read."""
        for job in list(self.in_use):
            if is_locked(job.directory):
                continue
            self.in_use.remove(job)
            status = job_status(job)
            if needs_run(status, retry=False) or status["state"] == "done":
                self.retries.append((job,))
            else:
                self.end(job, saved_outcome(SavedRun(job.directory)))


def split_pending(plan: Plan, retry: bool = False) -> tuple[list[Job], dict[int, Outcome]]:
    """The jobs to do, and the outcomes of the others by number.

    retry: whether to do failed jobs again. Raises Refused for a finished run whose files changed since.
    """
    pending, outcomes = [], {}
    for job in plan.unique_jobs:
        run = SavedRun(job.directory)
        status = job_status(job, run)
        outcome = finished_outcome(job.identity, run) if status["state"] != "failed" and run.is_done else None
        if outcome is None and needs_run(status, retry):
            pending.append(job)
        else:
            outcomes[job.number] = outcome or saved_outcome(run)
    return pending, outcomes
