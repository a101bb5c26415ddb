"""The tables of a report, and their text in each format."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.metrics.names import is_overall, split_of
from lab.report.collect import ReportedRun
from lab.report.report import Condition, Report, confidence
from lab.statistics.intervals import ConfidenceInterval
from lab.text import csv_cell, markdown_cell, printable

Cell = str | float | int | None


@dataclass(frozen=True)
class ReportTable:
    """Rows of cells under a header.  rows: numbers are kept, so that a CSV has all their digits."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def lines(self) -> list[list[str]]:
        return [list(self.header), *([show_cell(cell) for cell in row] for row in self.rows)]

    def csv(self) -> str:
        text = io.StringIO()
        rows = [
            [printable(cell) if isinstance(cell, str) else cell for cell in row] for row in (self.header, *self.rows)
        ]
        csv.writer(text, lineterminator="\n").writerows([list(map(csv_cell, row)) for row in rows])
        return text.getvalue()

    def markdown(self) -> str:
        header, *rows = self.lines()
        rule = ["---" if column == 0 else "---:" for column in range(len(header))]
        return "".join("| " + " | ".join(map(markdown_cell, line)) + " |\n" for line in (header, rule, *rows))

    def latex(self, caption: str) -> str:
        """A table for the package booktabs."""
        header, *rows = ([latex_cell(cell) for cell in line] for line in self.lines())
        body = "".join("    " + " & ".join(row) + r" \\" + "\n" for row in rows)
        columns = "l" + "r" * (len(header) - 1)
        return (
            "% needs \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n"
            f"  \\caption{{{latex_cell(caption)}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n"
            f"    {' & '.join(header)} \\\\\n    \\midrule\n{body}    \\bottomrule\n"
            "  \\end{tabular}\n\\end{table}\n"
        )


def summary_table(report: Report, ranked: bool = True) -> ReportTable:
    """A row for each condition with its comparison with the baseline.  ranked: whether the best comes first."""
    header = ["condition", "n", "not done", f"{report.metric} mean", "sd", confidence()]
    compared = ["difference", f"difference {confidence()}", "effect size", "P(better)", "p", "p t-test", "p Holm"]
    header += compared if report.baseline else []
    return ReportTable(header, [summary_row(one, report) for one in (report.ranked if ranked else report.conditions)])


def summary_row(condition: Condition, report: Report) -> list[Cell]:
    counts = ", ".join(f"{count} {state}" for state, count in condition.not_done.items())
    row: list[Cell] = [condition.label, len(condition.scores), counts or None, condition.mean, condition.deviation]
    row.append(show_interval(condition.interval))
    if report.baseline is None:
        return row
    if condition is report.baseline:
        return [*row, "baseline", *[None] * 6]
    two = condition.comparison
    if two is None:
        return [*row, *[None] * 7]
    difference, interval = two.difference, show_interval(two.interval, signed=True)
    return [*row, show_signed(difference), interval, two.effect_size, two.superiority, two.p, two.p_t, two.p_holm]


def all_runs_table(report: Report) -> ReportTable:
    """A row for each run, with the keys in which they differ and all overall scores of its metric's kind."""
    keys = list(dict.fromkeys([*report.keys, *report.pair]))
    names = dict.fromkeys(name for run in report.runs for name in run.scores if is_overall(name))
    scores = [report.metric, *(name for name in names if name != report.metric and split_of(name) != "hardware")]
    rows = [
        [run.id, run.state, *map(run.value, keys), *map(run.scores.get, scores), round(run.seconds, 2), run.error]
        for run in report.runs
    ]
    return ReportTable(["id", "state", *keys, *scores, "seconds", "error"], rows)


def choice_lines(report: Report) -> list[str]:
    """What was chosen by validation, with its test score."""
    run = report.chosen_by_validation
    if run is None or run.score(report.metric) is None:
        return []
    condition = next(one for one in report.conditions if run in one.runs)
    words = " ".join(f"{key}={value}" for key in report.pair if (value := run.value(key)) is not None)
    label = f"{condition.label} {words}".strip()
    return [f"best on validation: {label} ({run.id}), {report.metric} {show_number(run.score(report.metric))}"]


def compute_line(runs: Sequence[ReportedRun]) -> str:
    """The time that all runs took, the failed ones included."""
    total = sum(run.seconds for run in runs)
    lost = sum(run.seconds for run in runs if run.state != "done")
    devices = sorted({str(run.manifest["device"]) for run in runs if run.manifest.get("device")})
    spent = f"; {show_seconds(lost)} of them in runs that are not done" if lost else ""
    return f"compute: {len(runs)} runs took {show_seconds(total)} on {', '.join(devices) or 'an unknown device'}{spent}"


def show_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_cell(cell: Cell) -> str:
    return "" if cell is None else show_number(cell) if isinstance(cell, float) else printable(str(cell))


def show_number(value: float | None) -> str:
    """Four decimals for numbers near one, four digits for others."""
    if value is None:
        return ""
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 100 else f"{value:.4g}"


def show_signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{show_number(value)}"


def show_interval(interval: ConfidenceInterval | None, signed: bool = False) -> str | None:
    if interval is None:
        return None
    show = show_signed if signed else show_number
    return f"{show(interval.low)} to {show(interval.high)}"


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
LATEX_SIGNS = re.compile("|".join(map(re.escape, LATEX)))


def latex_cell(text: str) -> str:
    return LATEX_SIGNS.sub(lambda match: LATEX[match[0]], printable(text))


def methods_note(report: Report) -> str:
    """How the intervals and p-values were made, for a caption."""
    methods: Mapping[str, None] = dict.fromkeys(one.interval.method for one in report.conditions if one.interval)
    text = f"mean of n runs, sd, {confidence()} ({' / '.join(methods) or 'none'})"
    if report.baseline is None:
        return text
    paired = any(one.comparison and one.comparison.paired for one in report.conditions)
    test = f"paired by {', '.join(report.pair)}, exact sign-flip test" if paired else "Welch's test"
    return f"{text}; differences from {report.baseline.label}, {test}, p adjusted by Holm"
