"""What a person sees of a sweep under way: a table on a terminal, plain lines elsewhere; on standard error."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.config.overrides import split_override
from lab.config.redact import redact_text
from lab.execution.outcome import Outcome
from lab.metrics.names import is_overall
from lab.sweep.plan import Job

REPORT_EVERY = 10  # seconds between two plain lines that tell of progress


class LiveView:
    """total: the jobs that are to be done.  keys: what tells one job from another."""

    def __init__(self, total: int, keys: Sequence[str]):
        self.total, self.keys = total, keys
        self.console = Console(stderr=True, highlight=False)
        self.running: dict[int, tuple[Job, int, int, Mapping[str, float]]] = {}
        self.begun: dict[int, float] = {}
        self.states: dict[str, int] = {}
        self.since = self.spoken = time.monotonic()
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
        self.running[job.number] = (job, 0, 0, {})
        self.begun[job.number] = time.monotonic()

    def progress(self, job: Job, step: int, steps: int, values: Mapping[str, float]) -> None:
        self.running[job.number] = (job, step, steps, values)
        if not self.console.is_terminal and time.monotonic() - self.spoken > REPORT_EVERY:
            self.say(
                f"{self.counts()}; "
                + ", ".join(f"#{n} at {format_step(s, t)}" for n, (_, s, t, _) in self.running.items())
            )

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.running.pop(job.number, None)
        took = time.monotonic() - self.begun.pop(job.number) if job.number in self.begun else 0.0
        self.states[outcome.state] = self.states.get(outcome.state, 0) + 1
        shown = {name: score for name, score in outcome.results.items() if is_overall(name)}
        scores = [f"{name} {shown[name]:.4g}" for name in sorted(shown, key=lambda name: "accuracy" not in name)[:3]]
        what = "done before" if outcome.state == "done" and not outcome.new else outcome.state
        told = "  ".join(scores) if outcome.state == "done" else f"{outcome.error} ({outcome.directory})"
        number = f"[{sum(self.states.values())}/{self.total}] #{job.number}"
        self.say(f"{number} {what}  {job_label(job, self.keys)}  {took:.1f} s  {told}")

    def note(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self.spoken = time.monotonic()
        with suppress(OSError, SystemExit):  # as rich says that who reads has gone; the runs' directories have it all
            self.console.print(text, markup=False, soft_wrap=True)

    def counts(self) -> str:
        ended = ", ".join(f"{number} {state}" for state, number in self.states.items()) or "0 done"
        left = self.total - sum(self.states.values())
        return f"{ended}, {len(self.running)} running, {left - len(self.running)} to come{self.eta(left)}"

    def eta(self, left: int) -> str:
        ended = sum(self.states.values())
        if not ended or not left:
            return ""
        part = sum(step / steps for _, step, steps, _ in self.running.values() if steps)
        seconds = (time.monotonic() - self.since) / (ended + part) * (left - part)
        return f", {format_duration(seconds)} left"

    def table(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for job, step, steps, values in list(self.running.values()):
            bar = ProgressBar(total=max(steps, 1), completed=step, width=20)
            said = "  ".join(f"{name} {value:.4g}" for name, value in list(values.items())[:2])
            grid.add_row(f"#{job.number}", job_label(job, self.keys), bar, format_step(step, steps), said)
        return Group(grid, Text(self.counts(), style="bold"))


def job_label(job: Job, keys: Sequence[str]) -> str:
    """The overrides by which the job differs from the others of its sweep."""
    own = [override for override in job.asked.overrides if split_override(override)[0] in keys]
    return redact_text(" ".join(own or job.asked.overrides)) or "the defaults"


def format_step(step: int, steps: int) -> str:
    return f"step {step}/{steps}" if steps else "its start"


def format_duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h"
