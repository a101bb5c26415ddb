"""lab report: what runs show, with its uncertainty, read without torch or Hydra."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lab.cli.arguments import command_parser, parse_arguments
from lab.cli.output import align_columns
from lab.errors import ConfigError
from lab.ledger.listing import find_run_or_sweep
from lab.record.files import write_atomically
from lab.report.across_tasks import across_tasks
from lab.report.checklist import checklist
from lab.report.collect import choose_metric, read_runs
from lab.report.page import write_page
from lab.report.report import Report, make_report
from lab.report.tables import all_runs_table, choice_lines, compute_line, methods_note, summary_table

FORMATS = ("md", "csv", "tex", "html")
MOST_ROWS = 40  # conditions that are printed; files have all

EXAMPLES = """examples:
  lab report outputs/sweeps/lr-1a2b3c4d                          conditions by what was swept, paired by seed
  lab report outputs --by optimizer.lr --baseline optimizer.lr=0.01
  lab report outputs --by model --tasks data                     across data sets: interquartile mean, profiles
  lab report outputs/sweeps/lr-1a2b3c4d --to html,tex --out paper/
"""


def main(arguments: list[str]) -> int:
    options = parse_arguments(report_parser(), arguments)
    formats = parse_formats(options.to)
    directories = [find_directory(path, options.outputs) for path in options.dir or [options.outputs]]
    runs, notes = read_runs(directories)
    if not runs:
        raise ConfigError(f"no runs in {', '.join(map(str, directories))}; lab train makes some")
    metric, mode = choose_metric(runs, options.metric, options.mode)
    report = make_report(
        runs, metric, mode, split_names(options.by), split_names(options.pair), options.baseline, notes=notes
    )
    lines = checklist(report) if options.checklist else report_lines(report, options.tasks)
    print("\n".join(lines))
    title = ", ".join(path.name for path in directories)
    for path in write_files(report, formats, title, options.out / "report"):
        print(f"{path} has the report")
    return 0


def report_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "report", "What runs show: means with confidence intervals, and differences from a baseline.", EXAMPLES
    )
    parser.add_argument("dir", nargs="*", type=Path, help="sweeps, runs or folders of runs; paths.outputs if left out")
    parser.add_argument("--by", default="", metavar="KEYS", help="keys to compare by; all that differ if left out")
    parser.add_argument("--pair", default="seed", metavar="KEYS", help="keys that pair the runs (default: seed)")
    parser.add_argument("--metric", help="score to compare (default: the monitored one, on the test set)")
    parser.add_argument("--mode", choices=("max", "min"), help="its better end, where its name does not tell")
    parser.add_argument("--baseline", metavar="LABEL", help="condition to compare with, such as model=mlp")
    parser.add_argument("--tasks", metavar="KEY", help="key whose values are tasks, such as data, to sum up over")
    parser.add_argument("--checklist", action="store_true", help="answers to the checklist of NeurIPS that runs know")
    parser.add_argument("--to", default="", metavar="FORMATS", help="also as files: md,csv,tex,html")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="FOLDER", help="folder of these files")
    return parser


def parse_formats(text: str) -> list[str]:
    formats = split_names(text)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"no format {unknown[0]}; there is: {', '.join(FORMATS)}")
    return formats


def split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def find_directory(path: Path, outputs: Path) -> Path:
    """The folder of this path, or the run or the sweep with this name or id."""
    directory = path if path.is_dir() else find_run_or_sweep(path, outputs)
    if directory is None:
        raise ConfigError(f"no folder {path}, and no run or sweep of this name or id; lab ls lists those of {outputs}")
    return directory


def report_lines(report: Report, tasks: str | None = None, ranked: bool = True) -> list[str]:
    """The report as the lines of a terminal.  ranked: whether the best condition comes first."""
    lines = summary_table(report, ranked).lines()
    text = align_columns(lines[: MOST_ROWS + 1]).splitlines()
    if len(lines) > MOST_ROWS + 1:
        text.append(f"… and {len(lines) - MOST_ROWS - 1} more; --to csv has all")
    sections = [*text, "", methods_note(report)]
    if tasks:
        sections += ["", *align_columns(across_tasks(report, tasks).lines()).splitlines()]
    sections += choice_lines(report)
    sections.append(compute_line(report.runs))
    return [*sections, *(f"note: {note}" for note in report.notes)]


def write_files(report: Report, formats: Sequence[str], title: str, base: Path, ranked: bool = True) -> list[Path]:
    """Write the report in each format. Gives the files: `base` with the format's name as its suffix. Raises ConfigError
    where the folder cannot be made."""
    try:
        if formats:
            base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {base.parent}: {error.strerror}") from error
    paths = [base.with_name(f"{base.name}.{name}") for name in formats]
    for name, path in zip(formats, paths, strict=True):
        write_atomically(path, format_report(report, name, title, base.parent, ranked).encode())
    return paths


def format_report(report: Report, name: str, title: str, out: Path, ranked: bool = True) -> str:
    """The text of the report in a format.  out: folder that it will lie in."""
    table, note = summary_table(report, ranked), methods_note(report)
    if name == "csv":
        return all_runs_table(report).csv()
    if name == "tex":
        return table.latex(f"{title}: {note}.")
    if name == "html":
        return write_page(report, title, out)
    rest = [*choice_lines(report), compute_line(report.runs), *report.notes]
    return f"# {title}\n\n{table.markdown()}\n{note}.\n\n" + "".join(f"- {line}\n" for line in rest)
