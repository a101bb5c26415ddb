"""Translations of the same sentences by two runs, compared by paired bootstrap over the sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from lab.errors import DamagedRun
from lab.metrics.names import without_split
from lab.record.files import read_json_lines
from lab.report.collect import ReportedRun

METRICS = {"bleu": "BLEU", "chrf": "CHRF"}
TRANSLATIONS = "test_translations.jsonl"
MOST_PAIRS = 12  # pairs of runs that are compared


def bootstrap_notes(
    metric: str, baseline: Mapping[Any, ReportedRun], others: Mapping[str, Mapping[Any, ReportedRun]]
) -> list[str]:
    """A sentence on each pair of runs that keep their translations; none for another metric than `test/bleu` and
    `test/chrf`.

    baseline, others: the runs by what pairs them, those of the others by the label of their condition.
    The bootstrap (Koehn 2004, https://aclanthology.org/W04-3250) is sacreBLEU's, with 1,000 samples. It says whether
    two systems differ on other sentences, not whether other seeds would.
    """
    name = without_split(metric)
    if name not in METRICS or not metric.startswith("test/"):
        return []
    notes = []
    for label, runs in others.items():
        for point in [point for point in runs if point in baseline][: MOST_PAIRS - len(notes)]:
            compared = compare_translations(name, baseline[point], runs[point])
            if compared is not None:
                difference, p, count = compared
                at = " ".join(str(part) for part in point if part is not None)
                notes.append(
                    f"{label}, seed {at}: {difference:+.2f} {metric} over the baseline, paired bootstrap over "
                    f"{count:,} sentences p = {p:.3f}"
                )
    return notes


def compare_translations(name: str, first: ReportedRun, second: ReportedRun) -> tuple[float, float, int] | None:
    """The second run's score minus the first's, the p-value, and the number of sentences; None where the runs keep no
    translations of the same sentences, or sacreBLEU is not installed."""
    try:
        from sacrebleu import metrics
        from sacrebleu.significance import PairedTest
    except ModuleNotFoundError:
        return None
    ours, theirs = read_translations(first), read_translations(second)
    references = [row["reference"] for row in ours]
    if not ours or references != [row["reference"] for row in theirs]:
        return None
    systems: list[tuple[str, Sequence[str]]] = [
        ("first", [row["translation"] for row in ours]),
        ("second", [row["translation"] for row in theirs]),
    ]
    test: Any = PairedTest(systems, {name: getattr(metrics, METRICS[name])()}, [references], "bs")
    _, columns = test()
    baseline, other = next(results for column, results in columns.items() if column != "System")
    return other.score - baseline.score, other.p_value, len(references)


def read_translations(run: ReportedRun) -> Sequence[Mapping[str, str]]:
    try:
        return list(read_json_lines(run.directory / TRANSLATIONS))
    except (DamagedRun, OSError):
        return []
