"""Conditions summed up over several tasks, as rliable does."""

from collections.abc import Mapping, Sequence

import numpy as np

from lab.errors import ConfigError
from lab.report.report import Condition, Report
from lab.report.tables import ReportTable, show_interval
from lab.statistics.across_tasks import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from lab.text import suggest

PROFILE_POINTS = 3  # thresholds that are shown: the quartiles of all scores


def across_tasks(report: Report, key: str) -> "ReportTable":
    """For each condition the interquartile mean over the tasks' runs and the probability of improvement over the
    baseline's group, each with its stratified bootstrap interval, and the share of runs above three thresholds.

    key: key whose values are the tasks. Raises ConfigError where it has one value only, or a condition lacks a task.
    """
    if key not in report.keys:
        raise ConfigError(f"the conditions do not differ in {key}; {suggest(key, report.keys)}")
    tasks = list(dict.fromkeys(str(one.values[key]) for one in report.conditions))
    if len(tasks) < 2:
        raise ConfigError(f"{key} has one value, so there is one task; leave --tasks out")
    groups: dict[str, dict[str, Condition]] = {}
    for one in report.conditions:
        rest = " ".join(f"{name}={value}" for name, value in one.values.items() if name != key and value is not None)
        groups.setdefault(rest or "all runs", {})[str(one.values[key])] = one
    matrices = {label: score_matrix(label, group, tasks) for label, group in groups.items()}
    everything = np.concatenate([np.ravel(matrix) for matrix in matrices.values()])
    thresholds = [float(value) for value in np.quantile(everything, [0.25, 0.5, 0.75])]
    first = next(matrices[label] for label, group in groups.items() if report.baseline in group.values())
    header = ["over tasks", "runs a task", "IQM", "IQM 95 % CI", "P(improvement)", "P 95 % CI"]
    header += [f"above {threshold:.4g}" for threshold in thresholds]
    rows = []
    for label, matrix in matrices.items():
        interval = stratified_interval(interquartile_mean, matrix)
        row = [label, len(matrix), interquartile_mean(matrix), show_interval(interval)]
        if matrix is first:
            row += ["baseline", None]
        else:
            improvement = probability_of_improvement(matrix, first, report.mode)
            spread = stratified_interval(lambda a, b: probability_of_improvement(a, b, report.mode), matrix, first)
            row += [improvement, show_interval(spread)]
        rows.append([*row, *performance_profile(matrix, thresholds)])
    return ReportTable(header, rows)


def score_matrix(label: str, group: Mapping[str, Condition], tasks: Sequence[str]) -> np.ndarray:
    """Scores, runs x tasks; of each task as many runs as the one with the fewest has."""
    lacking = [task for task in tasks if task not in group or not group[task].numbers]
    if lacking:
        raise ConfigError(f"{label} has no score of {', '.join(lacking)}; every condition needs every task")
    fewest = min(len(group[task].numbers) for task in tasks)
    return np.array([group[task].numbers[:fewest] for task in tasks]).T
