"""The table of a sweep's runs: swept values and final metrics, best first."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.overrides import split_override
from lab.errors import DamagedRun
from lab.ledger.saved_run import SavedRun
from lab.metrics.names import is_overall, split_of, with_split
from lab.record.files import write_atomically
from lab.redact import redact_text
from lab.sweep.plan import Job
from lab.text import csv_cell, format_cell, markdown_cell


@dataclass(frozen=True)
class TableRow:
    """One run.

    number: number of the job.  values: values of its overrides, by key.  monitor: name of the score that chose its
    weights, or None.  mode: whether `max` or `min` of that score is best, or None.
    """

    number: int
    values: Mapping[str, str]
    state: str
    scores: Mapping[str, float]
    seconds: float | None
    id: str
    directory: Path
    monitor: str | None
    mode: str | None

    @property
    def sort_key(self) -> tuple[int, float, int]:
        """Best first by the monitored score; a run without one comes last."""
        score = self.scores.get(self.monitor or "")
        if self.state != "done" or score is None:
            return 1, 0.0, self.number
        return 0, score if self.mode == "min" else -score, self.number


def job_row(job: Job) -> TableRow:
    run = SavedRun(job.directory)
    try:
        monitor = run.monitor
        state, scores, seconds = run.state, run.results, run.seconds
    except DamagedRun:
        monitor, state, scores, seconds = {}, "damaged", {}, None
    return TableRow(
        job.number,
        dict(split_override(redact_text(override)) for override in job.composed.overrides),
        state,
        scores,
        seconds,
        job.identity.id,
        job.directory,
        monitor.get("name"),
        monitor.get("mode"),
    )


@dataclass(frozen=True)
class Table:
    """A table of runs.

    header: names of the columns.  rows: values of the columns, None for a missing value.  best: directory of the best
    run; None where no run has its score, or where the runs monitor different ones.  main_columns: names of the columns
    that are printed; the CSV has all.  ties: number of further runs with the best score.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    best: Path | None
    main_columns: Sequence[str]
    ties: int = 0

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([list(map(csv_cell, row)) for row in (self.header, *self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        header, *rows = self.main_lines()
        lines = [header, ["---"] * len(header), *rows]
        return "".join("| " + " | ".join(map(markdown_cell, line)) + " |\n" for line in lines)

    def main_lines(self) -> list[list[str]]:
        """Header and rows of the main columns, as text."""
        columns = [self.header.index(name) for name in self.main_columns]
        lines = [list(self.header), *(list(map(format_cell, row)) for row in self.rows)]
        return [[line[column] for column in columns] for line in lines]

    def write(self, sweep: Path) -> None:
        write_atomically(sweep / "table.csv", self.csv().encode())
        write_atomically(sweep / "table.md", self.markdown().encode())


def make_table(rows: Sequence[TableRow], keys: Sequence[str]) -> Table:
    """The table of these rows, best first; rows that monitor different scores cannot be compared, so each score's rows
    stay together and none is the best.  keys: swept keys, each of which gets a column."""
    monitors = list(dict.fromkeys((row.monitor, row.mode) for row in rows if row.state == "done"))
    places = {monitor: place for place, monitor in enumerate(monitors)}
    rows = sorted(
        rows, key=lambda row: (places[row.monitor, row.mode] if row.state == "done" else len(places), row.sort_key)
    )
    metrics, main_metrics = metric_columns(rows)
    cells = [
        [row.number, *map(row.values.get, keys), row.state, *map(row.scores.get, metrics), row.seconds, row.id]
        for row in rows
    ]
    header = ["n", *keys, "state", *metrics, "seconds", "id"]
    main = ["n", *keys, "state", *main_metrics, "seconds", "id"]
    best = rows[0].directory if len(monitors) == 1 and rows[0].sort_key[0] == 0 else None
    ties = sum(row.sort_key[:2] == rows[0].sort_key[:2] for row in rows[1:]) if best else 0
    with_directory = [[*line, str(row.directory)] for line, row in zip(cells, rows, strict=True)]
    return Table([*header, "directory"], with_directory, best, main, ties)


def metric_columns(rows: Sequence[TableRow]) -> tuple[list[str], list[str]]:
    """All metrics in the order of their columns, and the main ones: the monitored score, by which the rows are sorted,
    the same on the test set, and its gap (train minus val)."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores if is_overall(name)))
    monitored = [name for name in dict.fromkeys(row.monitor for row in rows) if name is not None]
    first = [name for name in monitored if name in names] + [name for name in names if name.startswith("test/")]
    columns = list(dict.fromkeys([*first, *names]))
    wanted = [with_split(name, split) for name in monitored for split in (split_of(name), "test", "val", "gap")]
    main = [name for name in dict.fromkeys(wanted) if name in columns]
    return columns, main or columns[:2]


def write_hparams_columns(sweep: Path, hparams: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    """Write the columns of the sweep's HPARAMS table for TensorBoard."""
    from lab.record.tensorboard import TensorBoard

    for outdated in sweep.glob("events.out.tfevents.*"):
        outdated.unlink(missing_ok=True)
    writer = TensorBoard(sweep)
    writer.columns([dict(values) for values in hparams], list(metrics))
    writer.close()
