"""A report: runs grouped into conditions, each with its mean and interval, and compared with a baseline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from lab.errors import ConfigError
from lab.metrics.names import with_split
from lab.report.collect import ReportedRun, differing_keys
from lab.report.sentences import bootstrap_notes
from lab.statistics.comparison import (
    Comparison,
    adjust,
    compare_groups,
    compare_paired,
    fewest_seeds,
    seeds_to_show,
)
from lab.statistics.intervals import LEVEL, ConfidenceInterval, mean_interval, resampling_factor, standard_deviation
from lab.text import suggest

Point = tuple[str | None, ...]  # values of the pair keys of a run


@dataclass(frozen=True)
class Condition:
    """Runs that differ in nothing but what pairs them, such as the seed.

    values: value of each key that tells the conditions apart.  runs: all runs, done or not.
    """

    values: Mapping[str, str | None]
    runs: Sequence[ReportedRun]
    scores: Mapping[Point, float]
    comparison: Comparison | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        shown = " ".join(f"{key}={value}" for key, value in self.values.items() if value is not None)
        return self.name or shown or "all runs"

    @cached_property
    def numbers(self) -> list[float]:
        return list(self.scores.values())

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.numbers)) if self.numbers else None

    @property
    def deviation(self) -> float | None:
        return standard_deviation(self.numbers)

    @cached_property
    def interval(self) -> ConfidenceInterval | None:
        return mean_interval(self.numbers)

    def by_point(self, pair: Sequence[str]) -> dict[Point, ReportedRun]:
        """The runs that are done, by the values of the pair keys."""
        return {tuple(run.value(key) for key in pair): run for run in self.runs if run.state == "done"}

    @property
    def not_done(self) -> dict[str, int]:
        """The number of runs in each state other than `done`."""
        return dict(Counter(run.state for run in self.runs if run.state != "done"))


@dataclass(frozen=True)
class Report:
    """What runs show.

    metric: name of the compared score.  mode: its better end.  pair: keys whose values pair the runs of two conditions.
    keys: keys that tell the conditions apart.  baseline: the condition that the others are compared with, or None.
    notes: sentences on what the numbers cannot show, and on what was left out.
    """

    metric: str
    mode: str
    pair: Sequence[str]
    keys: Sequence[str]
    conditions: Sequence[Condition]
    baseline: Condition | None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def runs(self) -> list[ReportedRun]:
        return [run for condition in self.conditions for run in condition.runs]

    @property
    def ranked(self) -> list[Condition]:
        """The conditions, best mean first; those without a score last."""
        sign = -1 if self.mode == "max" else 1
        return sorted(self.conditions, key=lambda one: (one.mean is None, sign * (one.mean or 0)))

    @property
    def chosen_by_validation(self) -> ReportedRun | None:
        """The run with the best score on its own validation set, whose test score is honest to report; None where no
        run has one, or runs share a validation score's name with nothing."""
        name = with_split(self.metric, "val")
        scored = [(run.scores[name], run) for run in self.runs if run.state == "done" and name in run.scores]
        if not scored or name == self.metric:
            return None
        return (max if self.mode == "max" else min)(scored, key=lambda pair: pair[0])[1]


def make_report(
    runs: Sequence[ReportedRun],
    metric: str,
    mode: str,
    by: Sequence[str] = (),
    pair: Sequence[str] = ("seed",),
    baseline: str | None = None,
    names: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Group the runs and compare each condition with the baseline.

    by: keys that tell the conditions apart; empty: all that differ, but for `pair`. Keys that differ and are in neither
    pair the runs as well, so that each is compared with the run that equals it in them.
    baseline: words of the baseline's label, such as `model=mlp`; None: the first condition.
    names: label of each run's condition, by the run's id; None: made of the keys' values.
    """
    differing = differing_keys(runs, pair)
    keys = list(by) or ([] if names else differing)
    if unknown := [key for key in by if all(run.value(key) is None for run in runs)]:
        raise ConfigError(f"no run has a value of {unknown[0]}; {suggest(unknown[0], differing)}")
    pair_keys = [*pair, *(key for key in differing if by and key not in by)]
    groups: dict[tuple[object, ...], list[ReportedRun]] = {}
    for run in runs:
        name = (names or {}).get(run.id)
        groups.setdefault((name,) if names else tuple(run.value(key) for key in keys), []).append(run)
    conditions = [
        make_condition(members, keys, pair_keys, metric, str(group[0]) if names else None)
        for group, members in groups.items()
    ]
    chosen = find_baseline(conditions, baseline) if len(conditions) > 1 else None
    if chosen is not None:
        factor = fold_factor(runs, pair_keys)
        compared = adjust([None if one is chosen else compare(one, chosen, mode, factor) for one in conditions])
        conditions = [replace(one, comparison=two) for one, two in zip(conditions, compared, strict=True)]
        chosen = next(one for one in conditions if one.label == chosen.label)
    remarks = [*notes, *describe_limits(conditions, chosen, metric, pair), *mixed_recipes(conditions, pair_keys)]
    if chosen is not None:
        others = {one.label: one.by_point(pair_keys) for one in conditions if one is not chosen}
        remarks += bootstrap_notes(metric, chosen.by_point(pair_keys), others)
    return Report(metric, mode, pair_keys, keys, conditions, chosen, remarks)


def make_condition(
    runs: Sequence[ReportedRun], keys: Sequence[str], pair: Sequence[str], metric: str, name: str | None
) -> Condition:
    scores: dict[Point, float] = {}
    for run in runs:
        if (score := run.score(metric)) is not None:
            point = tuple(run.value(key) for key in pair)
            scores[point if point not in scores else (*point, run.id)] = score
    values = {key: runs[0].value(key) for key in keys}
    return Condition(values, runs, scores, name=name)


def find_baseline(conditions: Sequence[Condition], words: str | None) -> Condition:
    """The condition whose label has all of these words; without words the first. Raises ConfigError for none or
    several."""
    if words is None:
        return conditions[0]
    exact = [one for one in conditions if one.label == words]
    found = exact or [one for one in conditions if set(words.split()) <= set(one.label.split())]
    if len(found) != 1:
        problem = "no condition is" if not found else f"{len(found)} conditions are"
        labels = [one.label for one in (found or conditions)]
        raise ConfigError(f"{problem} --baseline {words!r}; {suggest(words, labels)}")
    return found[0]


def compare(condition: Condition, baseline: Condition, mode: str, factor: float) -> Comparison | None:
    """The comparison by pairs where two or more runs share their pair keys, else of the groups; None without scores."""
    shared = [point for point in condition.scores if point in baseline.scores]
    if len(shared) > 1 or (shared and len(condition.scores) == 1):
        ours, theirs = ([one.scores[point] for point in shared] for one in (condition, baseline))
        return compare_paired(ours, theirs, mode, factor=factor)
    if not condition.scores or not baseline.scores:
        return None
    return compare_groups(condition.numbers, baseline.numbers, mode)


def fold_factor(runs: Sequence[ReportedRun], pair: Sequence[str]) -> float:
    """The factor of `t_interval` for scores of folds, whose training sets overlap: where a pair key ends in `fold`."""
    key = next((key for key in pair if key.rpartition(".")[2] == "fold"), None)
    folds = len({run.value(key) for run in runs}) if key else 0
    points = len({tuple(run.value(part) for part in pair) for run in runs})
    return resampling_factor(points, 1 / folds) if folds > 1 else 1.0


def describe_limits(
    conditions: Sequence[Condition], baseline: Condition | None, metric: str, pair: Sequence[str]
) -> list[str]:
    """What the number of runs cannot show, and how many would."""
    notes = []
    unfinished = Counter(state for one in conditions for state, count in one.not_done.items() for _ in range(count))
    if unfinished:
        counts = ", ".join(f"{count} {state}" for state, count in unfinished.items())
        notes.append(f"{counts}: not in the means, counted in the column `not done`")
    lacking = sum(run.state == "done" and run.score(metric) is None for one in conditions for run in one.runs)
    if lacking:
        notes.append(f"{lacking} done without {metric}")
    compared = [one.comparison for one in conditions if one.comparison]
    tests = sum(one.p is not None for one in compared)
    smallest = fewest_seeds(max(1, tests))
    paired = [one for one in compared if one.paired]
    if paired and (most := max(one.count for one in paired)) < smallest and baseline:
        family = f" after Holm's adjustment for {tests} comparisons" if tests > 1 else ""
        seeds = f"{most} paired {'seed' if most == 1 else 'seeds'}"
        notes.append(f"with {seeds} no difference can reach p < 0.05{family}; {smallest} can")
    if unpaired := sum(not one.paired for one in compared):
        notes.append(f"{unpaired} comparisons share no {', '.join(pair)} with the baseline: Welch's test, not paired")
    open_effects = [
        (abs(one.comparison.effect_size), one.label)
        for one in conditions
        if one.comparison and one.comparison.effect_size and not one.comparison.is_significant
    ]
    if open_effects:
        effect, label = max(open_effects)
        if seeds := seeds_to_show(effect):
            notes.append(f"{max(seeds, smallest)} seeds would show a difference like that of {label} 4 times in 5")
    return notes


def mixed_recipes(conditions: Sequence[Condition], pair: Sequence[str]) -> list[str]:
    """A note on runs that are counted as one condition, and differ in more than the keys say."""
    if list(pair) != ["seed"]:
        return []
    mixed = [one for one in conditions if len({run.recipe for run in one.runs if run.state == "done"}) > 1]
    if not mixed:
        return []
    a, b = list({run.recipe: run.id for run in mixed[0].runs}.values())[:2]
    return [f"runs of {mixed[0].label} differ in more than their seed, such as code or data: lab diff {a} {b}"]


def confidence(level: float = LEVEL) -> str:
    return f"{round(100 * level)} % CI"
