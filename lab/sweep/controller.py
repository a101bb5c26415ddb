"""A sweep under way: jobs go to workers as slots fall free, each ending is kept, and no run feels another."""

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from lab.config.settings import Policy
from lab.errors import Refused, RunInUse
from lab.execution.outcome import Outcome, describe_exit, finished_outcome
from lab.execution.stop import Stop, StopSignal
from lab.identity.source_code import CodeWatch
from lab.record.files import is_locked, lock_directory, read_json
from lab.record.status import describe_crash, is_done, read_status, write_status
from lab.sweep.plan import Job, Plan, job_results, job_status, link_run, needs_run
from lab.sweep.pool import Event, Pool

POLL_SECONDS = 0.2  # seconds between two looks at signals, time limits and other owners


class Source(Protocol):
    """Where the next job comes from."""

    def next(self) -> Job | None:
        """None where there is none now; after an ending there may be."""
        ...

    def scored(self, job: Job, step: int, scores: Mapping[str, float], /) -> Stop | None:
        """A reason to stop the job, or None."""
        ...

    def ended(self, job: Job, outcome: Outcome, /) -> None: ...


class View(Protocol):
    """Who watches."""

    def started(self, job: Job, /) -> None: ...
    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float], /) -> None: ...
    def ended(self, job: Job, outcome: Outcome, /) -> None: ...
    def note(self, text: str, /) -> None: ...


class FixedJobs:
    """The jobs of a list, in order."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = deque(jobs)

    def next(self) -> Job | None:
        return self.jobs.popleft() if self.jobs else None

    def scored(self, job: Job, step: int, scores: Mapping[str, float]) -> Stop | None:
        return None

    def ended(self, job: Job, outcome: Outcome) -> None:
        pass


class SweepController:
    """outcomes: of the jobs that ended, by number.  reason: why no more are started, where that is so.  changed: the
    modules that changed below it.
    """

    def __init__(
        self, sweep: Path, source: Source, pool: Pool, policy: Policy, view: View, code: CodeWatch, pulse: StopSignal
    ):
        self.sweep, self.source, self.pool, self.policy, self.view = sweep, source, pool, policy, view
        self.code, self.pulse = code, pulse
        self.outcomes: dict[int, Outcome] = {}
        self.again: deque[Job] = deque()  # to be tried once more
        self.elsewhere: list[Job] = []  # another process is at them
        self.tries: Counter[int] = Counter()
        self.reason: str | None = None
        self.changed: list[str] = []

    def run(self) -> None:
        while True:
            if reason := self.pulse(0):
                self.stop(reason)
            self.fill()
            if not self.pool.busy and (self.reason or not (self.again or self.elsewhere)):
                return
            for event in self.pool.events(POLL_SECONDS):
                self.take(event)
            self.look_elsewhere()

    def stop(self, reason: str, running: bool = True) -> None:
        """Start no more jobs.  running: ask those that run to save and stop."""
        self.reason = self.reason or reason
        if running:
            self.pool.stop(reason)

    def fill(self) -> None:
        while not self.reason and self.pool.free:
            if self.policy.on_change == "stop" and (changed := self.code.changed()):
                self.changed = changed
                self.stop("the code changed", running=False)
                return
            job = self.again.popleft() if self.again else self.source.next()
            if job is None:
                return
            self.begin(job)

    def begin(self, job: Job) -> None:
        try:
            if found := finished_outcome(job.identity, job.directory):  # by another sweep, since this one was planned
                self.end(job, found)
                return
        except Refused as error:
            self.end(job, Outcome(job.directory, "failed", {}, error=str(error)))
            return
        if is_locked(job.directory):
            self.elsewhere.append(job)
            self.view.note(f"{job.directory} is being done by another process")
            return
        self.tries[job.number] += 1
        try:
            job.directory.mkdir(parents=True, exist_ok=True)
            link_run(self.sweep, job)
        except OSError as error:
            in_the_way = job.directory.is_symlink() or job.directory.is_file()
            there = f"{job.directory} is no directory; move it away" if in_the_way else str(error)
            self.end(job, Outcome(job.directory, "failed", {}, error=there, outside=True))
            return
        self.view.started(job)
        self.pool.start(job)

    def take(self, event: Event) -> None:
        job, content = event.job, event.content
        match event.kind:
            case "progress":
                self.view.progress(job, *content)
            case "scores":
                step, steps, scores = content
                self.view.progress(job, step, steps, scores)
                if stop := self.source.scored(job, step, scores):
                    self.pool.stop(stop.reason, job)
            case "note":
                self.view.note(f"#{job.number}: {content}")
            case "died":
                try:
                    outcome = self.buried(job, *content)
                except RunInUse:  # another process has taken it up already
                    self.elsewhere.append(job)
                else:
                    self.end(job, outcome)
            case "ended" if isinstance(content, RunInUse):
                self.elsewhere.append(job)
            case "ended" if isinstance(content, Exception):
                self.end(job, self.left(job, str(content), outside=isinstance(content, OSError)))
            case "ended":
                self.end(job, content)

    def end(self, job: Job, outcome: Outcome) -> None:
        tried = self.tries[job.number]  # 0 where it could not even be begun
        if outcome.state == "failed" and not self.reason and 0 < tried <= self.policy.max_retries:
            self.view.note(f"#{job.number} {outcome.error}; trying again")
            self.again.append(job)
            return
        self.outcomes[job.number] = outcome
        self.source.ended(job, outcome)
        self.view.ended(job, outcome)
        bad = sum(outcome.state in ("failed", "diverged") for outcome in self.outcomes.values() if outcome.new)
        if bad and self.policy.on_error == "stop":
            self.stop("a run failed and on_error=stop", running=False)
        if self.policy.max_failures and bad >= self.policy.max_failures:
            self.stop(f"{bad} runs failed, max_failures={self.policy.max_failures}", running=False)

    def buried(self, job: Job, exitcode: int | None, scratch: Path) -> Outcome:
        """Leave in the run's directory how its process ended. Raises Owned where another process has the run."""
        if is_done(job.directory):  # it died on its way out
            return self.left(job, "", outside=True)
        if exitcode is None:
            return Outcome(job.directory, "interrupted", {}, error=f"{self.reason}, and killed as it did not stop")
        error_file = job.directory / "error.txt"
        its_own = read_json(job.directory / "status.json", {}).get("state") == "running"
        said = describe_crash(error_file, self.policy.step_timeout) if its_own else None  # else it is of an earlier try
        if not said and (said := describe_crash(scratch, self.policy.step_timeout)):  # before the run was its own
            with suppress(OSError):
                error_file.write_bytes(scratch.read_bytes())
        elif not said:
            said = describe_exit(exitcode)
            with suppress(OSError):
                error_file.write_text(said + "\n")
        return self.left(job, said, outside=True)

    def left(self, job: Job, said: str, outside: bool) -> Outcome:
        """Leave in the run's directory that it failed. Raises Owned where another process has the run."""
        error_file = job.directory / "error.txt"
        with suppress(OSError), lock_directory(job.directory):  # on a full disk the view alone tells
            if found := finished_outcome(job.identity, job.directory):
                return replace(found, new=True)
            if not error_file.exists() or not error_file.stat().st_size:
                error_file.write_text(said + "\n")
            started = read_status(job.directory).get("started")
            ended = {"started": started, "ended": time.time(), "error": said, "traceback": error_file.name}
            write_status(job.directory, "failed", id=job.identity.id, outside=outside, **ended)
        return Outcome(job.directory, "failed", {}, error=said, outside=outside)

    def look_elsewhere(self) -> None:
        """Take up what another process has left: its results, or the run where it was killed."""
        for job in list(self.elsewhere):
            if not is_locked(job.directory):
                self.elsewhere.remove(job)
                if needs_run(status := job_status(job), retry=False) or status["state"] == "done":
                    self.again.append(job)
                else:
                    self.end(job, saved_outcome(job, status))


def split_pending(plan: Plan, retry: bool) -> tuple[list[Job], dict[int, Outcome]]:
    """The jobs that are to be done, and the outcomes of those that are not. Raises Refused for a run that changed."""
    wanted, found = [], {}
    for job in plan.own:
        status = job_status(job)
        if is_done(job.directory) and (outcome := finished_outcome(job.identity, job.directory)):
            found[job.number] = outcome
        elif needs_run(status, retry):
            wanted.append(job)
        else:
            found[job.number] = saved_outcome(job, status)
    return wanted, found


def saved_outcome(job: Job, status: Mapping[str, Any]) -> Outcome:
    """How a run stands, by its directory alone."""
    error = status.get("error") or status.get("reason")
    outside = bool(status.get("outside"))
    pruned = str(error).startswith("stopped early by")  # until status.json says so
    return Outcome(
        job.directory, status["state"], job_results(job), new=False, error=error, outside=outside, pruned=pruned
    )
