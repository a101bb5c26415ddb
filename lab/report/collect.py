"""The runs of a report: each read once, with the values of the keys in which they differ."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.config.overrides import override_key
from lab.errors import ConfigError, DamagedRun
from lab.identity.identity import is_bookkeeping
from lab.ledger.diff import value_at
from lab.ledger.listing import directory_id, find_runs
from lab.ledger.saved_run import SavedRun
from lab.metrics.directions import find_direction
from lab.metrics.names import is_overall, on_test
from lab.text import suggest

NOT_AXES = ("experiment", "local", "paths", "logger", "debug", "search", "sweep")


@dataclass(frozen=True)
class ReportedRun:
    """A run, with what a report needs of it.

    error: what is wrong with a run that is not done, or None.
    """

    saved: SavedRun
    id: str
    state: str
    scores: Mapping[str, float]
    error: str | None = None

    @property
    def directory(self) -> Path:
        return self.saved.directory

    @property
    def manifest(self) -> Mapping[str, Any]:
        return {} if self.state == "damaged" else self.saved.manifest

    @property
    def recipe(self) -> str:
        """The id of the config without its seed; the run's own id where the manifest has none."""
        return str(self.manifest.get("recipe") or self.id)

    @cached_property
    def seconds(self) -> float:
        """The seconds that all segments took, also of a run that is not done."""
        return 0.0 if self.state == "damaged" else self.saved.seconds_so_far or 0.0

    def value(self, key: str) -> str | None:
        """The option chosen of a group, or the value of a key of the config, as text; None where there is none."""
        if self.state == "damaged":
            return None
        choices = self.manifest.get("choices") or {}
        if key in choices:
            return None if choices[key] is None else str(choices[key])
        value = value_at(self.saved.config, key)
        return None if value is None else format_value(value)

    def score(self, metric: str) -> float | None:
        value = self.scores.get(metric)
        return value if self.state == "done" and value is not None and math.isfinite(value) else None


def format_value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))  # `1.0` on one command line is `1` on another
    return str(value)


def read_runs(directories: Iterable[Path]) -> tuple[list[ReportedRun], list[str]]:
    """The runs at or below these directories, the one started first at the beginning, and notes on what is left out.

    Of the runs with one id, such as one that was trained again, only one counts: they would be the same seed twice.
    """
    found: dict[Path, ReportedRun] = {}
    for directory in directories:
        for path in find_runs(directory):
            found.setdefault(path.resolve(), read_reported_run(path))
    runs = sorted(found.values(), key=lambda run: (run.manifest.get("started") or 0, str(run.directory)))
    kept: dict[str, ReportedRun] = {}
    for run in runs:
        if run.id not in kept or (run.state == "done" and kept[run.id].state != "done"):
            kept[run.id] = run
    again = len(runs) - len(kept)
    notes = [f"{again} {'run was' if again == 1 else 'runs were'} trained again; each id counts once"] if again else []
    return list(kept.values()), notes


def read_reported_run(directory: Path) -> ReportedRun:
    saved = SavedRun(directory)
    try:
        status = saved.status
        _ = saved.manifest, saved.config, saved.results  # whatever is damaged shows here
        error = status.get("error") or status.get("reason") if status["state"] != "done" else None
        return ReportedRun(saved, saved.id, status["state"], saved.results, error)
    except (DamagedRun, OSError) as problem:
        return ReportedRun(saved, directory_id(directory), "damaged", {}, str(problem))


def differing_keys(runs: Sequence[ReportedRun], pair: Sequence[str]) -> list[str]:
    """The groups and keys in which the runs differ, in the order in which they were given, without those of `pair`."""
    candidates: dict[str, None] = {}
    for run in runs:
        candidates |= dict.fromkeys(override_key(text) for text in run.manifest.get("overrides", []))
    for run in runs:
        candidates |= dict.fromkeys(run.manifest.get("choices") or {})
    keys = [key for key in candidates if key and key not in (*pair, *NOT_AXES) and not is_bookkeeping(key)]
    readable = [run for run in runs if run.state != "damaged"]
    return [key for key in keys if len({run.value(key) for run in readable}) > 1]


def choose_metric(runs: Sequence[ReportedRun], metric: str | None, mode: str | None) -> tuple[str, str]:
    """The metric of a report and its better end, `max` or `min`.

    metric: as it was asked for; None: the score that chose the weights, on the test set where there is one.
    Raises ConfigError where no run has it, or its direction is unknown.
    """
    done = [run for run in runs if run.state == "done"]
    counts = Counter(name for run in done for name in run.scores if is_overall(name))
    monitors: Counter[tuple[str, str]] = Counter(
        (str(run.saved.monitor["name"]), str(run.saved.monitor["mode"])) for run in done if run.saved.monitor
    )
    if metric is None:
        if not monitors:
            names = ", ".join(counts) or "none: no run is done"
            raise ConfigError(f"the runs monitor no score; give --metric, one of: {names}")
        metric = on_test(monitors.most_common(1)[0][0][0], counts)
    if not any(metric in run.scores for run in done):
        raise ConfigError(f"no run that is done has {metric}; {suggest(metric, counts)}")
    direction = find_direction(metric, mode, dict(monitors.keys()))
    if direction is None:
        raise ConfigError(f"whether more or less {metric} is better is not known; give --mode max or --mode min")
    return metric, direction
