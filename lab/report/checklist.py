"""What the paper checklist of NeurIPS asks (neurips.cc/public/guides/PaperChecklist), as far as the records know."""

from collections import Counter

from lab.report.collect import ReportedRun
from lab.report.report import Report
from lab.report.tables import compute_line, methods_note, show_seconds


def checklist(report: Report) -> list[str]:
    """Questions and answers, a line each."""
    runs = report.runs
    done = [run for run in runs if run.state == "done"]
    states = Counter(run.state for run in runs)
    counts = [len(one.scores) for one in report.conditions]
    seeds = sorted(
        {value for run in runs if (value := run.value("seed")) is not None}, key=lambda text: (len(text), text)
    )
    lines = [
        "Experimental setting",
        f"  runs: {len(runs)} ({', '.join(f'{count} {state}' for state, count in states.items())})",
        f"  conditions: {len(report.conditions)}, with {min(counts)} to {max(counts)} runs each",
        f"  seeds: {', '.join(seeds)}",
        *(f"  tried: {line}" for line in search_space(report)),
        f"  chosen by: {selection(done)}; reported: {report.metric}",
        "Statistical significance",
        f"  {methods_note(report)}",
        f"  what varies between the runs of a condition: {', '.join(report.pair)}",
        *(f"  {note}" for note in report.notes),
        "Compute",
        f"  {compute_line(runs)}",
    ]
    if done:
        times = [run.seconds for run in done]
        lines.append(
            f"  a run took {show_seconds(sum(times) / len(times))} on average, {show_seconds(max(times))} at most"
        )
    lines += [f"  {line}" for line in infrastructure(done)]
    return [*lines, "Code and data", *(f"  {line}" for line in provenance(done)), *UNKNOWN]


UNKNOWN = (
    "The records do not know: limitations, licences, consent, broader impact, and runs that were removed or made "
    "elsewhere",
)


def search_space(report: Report) -> list[str]:
    """Each key that differs, with its values."""
    lines = []
    for key in report.keys:
        values = [str(value) for value in dict.fromkeys(run.value(key) for run in report.runs) if value is not None]
        shown = ", ".join(values[:12]) + (f" and {len(values) - 12} more" if len(values) > 12 else "")
        lines.append(f"{key}: {shown}")
    return lines


def selection(done: list[ReportedRun]) -> str:
    monitors = {f"{run.saved.monitor['name']} ({run.saved.monitor['mode']})" for run in done if run.saved.monitor}
    return ", ".join(sorted(monitors)) or "no score; the weights of the last step"


def infrastructure(done: list[ReportedRun]) -> list[str]:
    facts = {
        name: sorted({str(run.manifest.get(name)) for run in done if run.manifest.get(name)})
        for name in ("host", "device", "python")
    }
    return [f"{name}: {', '.join(values)}" for name, values in facts.items() if values]


def provenance(done: list[ReportedRun]) -> list[str]:
    commits = {str((run.manifest.get("git") or {}).get("commit")) for run in done} - {"None"}
    edited = sum(bool((run.manifest.get("git") or {}).get("diff")) for run in done)
    files = {path for run in done for path in run.manifest.get("files") or {}}
    lines = [
        f"commits: {', '.join(sorted(commits)) or 'unknown'}; {edited} runs with uncommitted changes, kept as a diff"
    ]
    lines.append(f"data files, by their hashes: {', '.join(sorted(files)) or 'none (synthetic, or of a package)'}")
    commands = {run.manifest.get("experiment") for run in done}
    return [*lines, f"experiments: {', '.join(sorted(map(str, commands)))}; each run's command is in its manifest.json"]
