"""A report as one HTML file that loads nothing."""

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from lab.ledger.diff import environment_facts, flatten_config
from lab.metrics.names import with_split
from lab.report.charts import (
    best_of_chart,
    coordinate_chart,
    curve_chart,
    heat_chart,
    importance_chart,
    interval_chart,
)
from lab.report.checklist import checklist
from lab.report.collect import ReportedRun
from lab.report.report import Report
from lab.report.tables import (
    ReportTable,
    all_runs_table,
    choice_lines,
    compute_line,
    methods_note,
    show_cell,
    summary_table,
)
from lab.statistics.across_tasks import expected_best
from lab.statistics.importance import hyper_parameter_importance
from lab.text import as_number, printable

MOST_VALUES = 6  # values of a fact that are shown


def write_page(report: Report, title: str, folder: Path) -> str:
    """The page's text.  folder: where it will lie, for links to the run directories."""
    style, script = (files("lab.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{hash_source(style)}'; script-src '{hash_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    notes = [*choice_lines(report), compute_line(report.runs), *report.notes]
    body = [
        f"<h1>{show(title)}: {show(report.metric)}</h1>",
        "<h2>Conditions</h2>",
        html_table(summary_table(report), "conditions", baseline=report.baseline.label if report.baseline else None),
        f'<p class="soft">{show(methods_note(report))}.</p>',
        "<ul>" + "".join(f"<li>{show(note)}</li>" for note in notes) + "</ul>",
        f'<div class="charts">{"".join(figures(report))}</div>',
        "<h2>Runs</h2>",
        html_table(all_runs_table(report), "runs", links=[link_to(run, folder) for run in report.runs]),
        "<h2>What differs between the runs</h2>",
        html_table(differences_table(report.runs), "differences"),
        "<h2>Checklist</h2>",
        "".join(f"<p>{show(entry)}</p>" for entry in checklist(report)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{show(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + f'\n<div id="tip"></div>\n<script>{script}</script>\n</body></html>\n'
    )


def show(text: str) -> str:
    """Text in HTML, in which nothing is markup."""
    return escape(printable(text))


def hash_source(content: str) -> str:
    """The source expression by which a content security policy admits this content alone."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def figures(report: Report) -> Iterable[str]:
    runs = [run for run in report.runs if run.score(report.metric) is not None]
    scores = [run.score(report.metric) or 0.0 for run in runs]
    points = [{key: typed(run.value(key)) for key in report.keys} for run in runs]
    importance = hyper_parameter_importance(points, scores, report.mode) if report.keys else None
    validation = with_split(report.metric, "val")
    curves = curve_chart(report, validation)
    drawings = {
        f"{report.metric}, mean with its 95 % interval": interval_chart(report),
        f"{validation if curves else 'train/loss'} over the steps": curves or curve_chart(report, "train/loss"),
        "Parallel coordinates": coordinate_chart(report),
        f"{report.metric} by two keys": heat_chart(report),
        "Importance (PED-ANOVA)": importance_chart(importance),
        f"Expected best of k runs, {report.metric}": best_of_chart(expected_best(scores, report.mode), report.metric)
        if scores
        else "",
    }
    for caption, drawing in drawings.items():
        if drawing:
            yield f"<figure><figcaption>{show(caption)}</figcaption>{drawing}</figure>"


def typed(text: str | None) -> str | float:
    number = as_number(text or "")
    return str(text) if number is None else number


def html_table(table: ReportTable, name: str, links: Sequence[str] = (), baseline: str | None = None) -> str:
    """A table that sorts, with a field that filters its rows.  links: address of each row's first cell."""
    head = "".join(f'<th scope="col"><button type="button">{show(str(cell))}</button></th>' for cell in table.header)
    rows = []
    for place, row in enumerate(table.rows):
        cells = [show(show_cell(cell)) for cell in row]
        if links:
            cells[0] = f'<a href="{escape(links[place])}">{cells[0]}</a>'
        kind = ' class="baseline"' if baseline is not None and row[0] == baseline else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return (
        f'<input type="search" data-filters="{name}" placeholder="filter" aria-label="filter {name}">'
        f'<div class="scroll tall"><table class="sortable" id="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def link_to(run: ReportedRun, folder: Path) -> str:
    return quote(os.path.relpath(run.directory.resolve(), folder.resolve())) + "/"


def differences_table(runs: Sequence[ReportedRun]) -> ReportTable:
    """Every key of the configs, fact of the machines and package in which the runs differ, with its values."""
    values: dict[str, dict[str, int]] = {}
    readable = [run for run in runs if run.state != "damaged"]
    for run in readable:
        facts = {**flatten_config(run.saved.config), **flatten_config(environment_facts(run.saved), "env: ")}
        for key, value in facts.items():
            counts = values.setdefault(key, {})
            counts[str(value)] = counts.get(str(value), 0) + 1
    rows = []
    for key, counts in values.items():
        absent = len(readable) - sum(counts.values())
        if len(counts) + bool(absent) < 2:
            continue
        shown = [f"{value[:80]} ({count})" for value, count in list(counts.items())[:MOST_VALUES]]
        more = [f"{len(counts) - MOST_VALUES} more"] if len(counts) > MOST_VALUES else []
        rows.append([key, len(counts) + bool(absent), ", ".join([*shown, *more, *(["absent"] if absent else [])])])
    return ReportTable(["key", "values", "which (runs)"], rows)
