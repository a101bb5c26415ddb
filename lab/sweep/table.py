"""A sweep's results as one table: the swept values and the final metrics, best first."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.overrides import split_override
from lab.config.redact import redact_text
from lab.metrics.names import is_overall
from lab.record.files import read_json, write_atomically
from lab.sweep.plan import Job, job_monitor, job_results, job_status


@dataclass(frozen=True)
class Table:
    """header: the columns.  rows: their values, None where there is none.  best: the directory of the best run.
    few: the columns that matter most, for a person; the others are in the CSV.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    best: Path | None
    few: Sequence[str]

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.header, *(["" if cell is None else cell for cell in row] for row in self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        header, *rows = self.short()
        lines = [header, ["---"] * len(header), *rows]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def text(self) -> list[list[str]]:
        """The rows as a person reads them."""
        return [
            ["-" if c is None else f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in self.rows
        ]

    def short(self) -> list[list[str]]:
        """Header and rows, of the few columns."""
        columns = [self.header.index(name) for name in self.few]
        return [[line[column] for column in columns] for line in [list(self.header), *self.text()]]

    def write(self, sweep: Path) -> None:
        write_atomically(sweep / "table.csv", self.csv().encode())
        write_atomically(sweep / "table.md", self.markdown().encode())


def make_table(jobs: Sequence[Job], keys: Sequence[str]) -> Table:
    """keys: those that vary, a column each. Best by the runs' monitored score; what has none comes last."""
    found = [(job, job_status(job), job_results(job)) for job in jobs]
    names = list(dict.fromkeys(name for _, _, scores in found for name in scores if is_overall(name)))
    monitors = {job.number: job_monitor(job) for job, _, _ in found}
    monitored = [name for name in dict.fromkeys(name for name, _ in monitors.values()) if name]
    # the score that chose the weights first, then what was never looked at
    shown = [n for n in monitored if n in names] + [n for n in names if n.startswith("test/") and n not in monitored]
    shown += [name for name in names if name not in shown]

    def rank(row: tuple[Job, Mapping[str, Any], Mapping[str, float]]) -> tuple[int, float, int]:
        job, status, scores = row
        monitor, mode = monitors[job.number]
        score = scores.get(str(monitor))
        if status["state"] != "done" or score is None:
            return 1, 0.0, job.number
        return 0, -score if mode == "max" else score, job.number

    ordered = sorted(found, key=rank)
    header = ["n", *keys, "state", *shown, "seconds", "id", "directory"]
    rows = [
        [
            *(job.number, *swept_values(job, keys), status["state"], *map(scores.get, shown)),
            *(run_seconds(job, status), job.identity.id, str(job.directory)),
        ]
        for job, status, scores in ordered
    ]
    best = ordered[0][0].directory if ordered and ordered[0][1]["state"] == "done" else None
    # what was never looked at, what was, and how far that is below what was learnt
    few = [n.replace("val/", f"{split}/", 1) for n in monitored for split in ("test", "val", "gap")]
    scores = [n for n in dict.fromkeys(few) if n in shown]
    return Table(header, rows, best, ["n", *keys, "state", *(scores or shown[:2]), "seconds", "id"])


def swept_values(job: Job, keys: Sequence[str]) -> list[str | None]:
    given = dict(split_override(redact_text(override)) for override in job.asked.overrides)
    return [given.get(key) for key in keys]


def run_seconds(job: Job, status: Mapping[str, Any]) -> float | None:
    """How long the run took, all its segments together."""
    segments = read_json(job.directory / "manifest.json", {}).get("segments", [])
    took = [segment["ended"] - segment["started"] for segment in segments if "ended" in segment]
    return round(sum(took), 2) if took and status["state"] == "done" else None


def write_hparams_columns(sweep: Path, hparams: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    """Tell TensorBoard what the sweep's HPARAMS table has for columns, once."""
    from lab.record.tensorboard import TensorBoard

    for old in sweep.glob("events.out.tfevents.*"):
        old.unlink(missing_ok=True)
    writer = TensorBoard(sweep)
    writer.columns([dict(values) for values in hparams], list(metrics))
    writer.close()
