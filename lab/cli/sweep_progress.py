"""The display of a running sweep on standard error: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.config.overrides import split_override
from lab.errors import NEWLINES
from lab.execution.outcome import Outcome
from lab.metrics.names import is_overall, split_of
from lab.redact import redact_text
from lab.sweep.plan import Job
from lab.text import printable

REPORT_EVERY = 10  # seconds between two plain lines of progress


@dataclass
class RunningJob:
    """A job at work.

    steps: total number of the run's steps; 0 until the run has begun.  values: newest loss or scores, by name.
    started: time on time.monotonic()'s clock.
    """

    job: Job
    step: int = 0
    steps: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def position(self) -> str:
        return f"step {self.step}/{self.steps}" if self.steps else "its start"


class LiveView:
    """The view of a sweep for a person.  total: number of jobs to do.  keys: keys whose values distinguish the jobs."""

    def __init__(self, total: int, keys: Sequence[str]):
        self.total, self.keys = total, keys
        self.console = Console(stderr=True, highlight=False)
        self.running: dict[int, RunningJob] = {}
        self.states: dict[str, int] = {}
        self.started_at = self.reported_at = time.monotonic()
        self.live = Live(
            get_renderable=self.table, console=self.console, refresh_per_second=4, transient=True, redirect_stdout=True
        )

    def __enter__(self) -> "LiveView":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def started(self, job: Job) -> None:
        self.running[job.number] = RunningJob(job)

    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float]) -> None:
        running = self.running[job.number]
        running.step, running.steps, running.values = step, steps, values
        if not self.console.is_terminal and time.monotonic() - self.reported_at > REPORT_EVERY:
            positions = ", ".join(f"#{number} at {running.position}" for number, running in self.running.items())
            self.note(f"{self.counts()}; {positions}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        running = self.running.pop(job.number, None)
        seconds = time.monotonic() - running.started if running else 0.0
        self.states[outcome.state] = self.states.get(outcome.state, 0) + 1
        state = "done before" if outcome.state == "done" and not outcome.new else outcome.state
        end = main_scores(outcome.results) if outcome.state == "done" else f"{outcome.error} ({outcome.directory})"
        number = f"[{sum(self.states.values())}/{self.total}] #{job.number}"
        self.note(f"{number} {state}  {job_label(job, self.keys)}  {seconds:.1f} s  {end}")

    def note(self, text: str) -> None:
        self.reported_at = time.monotonic()
        # rich raises SystemExit when the reader of the output has closed it; that must not stop the sweep
        with suppress(OSError, SystemExit):
            self.console.print(printable(text, keep=NEWLINES), markup=False, soft_wrap=True)

    def counts(self) -> str:
        ended = ", ".join(f"{number} {state}" for state, number in self.states.items()) or "0 done"
        remaining = self.total - sum(self.states.values())
        waiting = remaining - len(self.running)
        return f"{ended}, {len(self.running)} running, {waiting} to come{self.remaining_time(remaining)}"

    def remaining_time(self, remaining: int) -> str:
        ended = sum(self.states.values())
        if not ended or not remaining:
            return ""
        progress = sum(running.step / running.steps for running in self.running.values() if running.steps)
        seconds = (time.monotonic() - self.started_at) / (ended + progress) * (remaining - progress)
        return f", {format_duration(seconds)} left"

    def table(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for running in list(self.running.values()):
            bar = ProgressBar(total=max(running.steps, 1), completed=running.step, width=20)
            values = "  ".join(f"{name} {value:.4g}" for name, value in list(running.values.items())[:2])
            label = job_label(running.job, self.keys)
            grid.add_row(f"#{running.job.number}", label, bar, running.position, values)
        return Group(grid, Text(self.counts(), style="bold"))


def main_scores(results: Mapping[str, float], limit: int = 3) -> str:
    """The first `limit` scores of the run, as text: those on the test set before those on the validation set."""
    names = [name for name in results if is_overall(name) and split_of(name) in ("test", "val")]
    names.sort(key=lambda name: split_of(name) != "test")
    return "  ".join(f"{name} {results[name]:.4g}" for name in names[:limit])


def job_label(job: Job, keys: Sequence[str]) -> str:
    """The job's overrides of the swept keys, by which the jobs differ; all its overrides where it has none of these."""
    overrides = job.composed.overrides
    swept = [override for override in overrides if split_override(override)[0] in keys]
    return redact_text(" ".join(swept or overrides)) or "the defaults"


def format_duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
