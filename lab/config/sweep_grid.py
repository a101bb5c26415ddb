"""The jobs of a sweep, from the swept overrides of the command line and the node `sweep` of an experiment's file.

sweep:                                                    # a list is a union of its parts; one mapping is one part
  - grid: {optimizer: [sgd, adamw], seed: range(3)}       # a list, a scalar, or a string in Hydra's grammar of sweeps
    exclude: [{optimizer: sgd, seed: 2}]                  # leaves out the jobs that have all of these values
  - zip: {model: [mlp, simple_cnn], optimizer.lr: [0.01, 0.001]}    # axes that move together
    grid: {seed: [0, 1]}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lab.config.overrides import override_key, override_value, split_override, write_override
from lab.errors import ConfigError
from lab.text import suggest

SWEEP_PARTS = ("grid", "zip", "exclude")


@dataclass(frozen=True)
class Assignment:
    """A plain override of a job."""

    override: str

    @property
    def key(self) -> str:
        return override_key(self.override)

    @property
    def value(self) -> Any:
        return override_value(self.override)

    def __str__(self) -> str:
        """The text of the value."""
        return split_override(self.override)[1]


Assignments = Sequence[Assignment]


@dataclass(frozen=True)
class Axis:
    """A key and its values.  typed_key: key with its + or ~."""

    typed_key: str
    assignments: tuple[Assignment, ...]

    @property
    def key(self) -> str:
        return override_key(self.typed_key)

    def __str__(self) -> str:
        return f"{self.typed_key}={','.join(map(str, self.assignments))}"


def expand_sweep(arguments: Sequence[str], loader: ConfigLoader, spec: Any = None) -> list[list[str]]:
    """The overrides of each job.

    arguments: overrides, whose product is the same as that of Hydra's own sweeper. An axis without a value is an error.
    spec: plain values of the config's `sweep`; None without one. In every part of it, an axis of the arguments replaces
        the axis of the same key, or is added. Of jobs with the same overrides only one is kept.
    """
    axes = parse_axes(arguments, loader)
    if spec is None:
        return [override_texts(job) for job in product(*(axis.assignments for axis in axes))]
    jobs: dict[frozenset[str], list[str]] = {}
    for part in sweep_parts(spec):
        for job in part_jobs(part, axes, loader):
            overrides = override_texts(job)
            jobs.setdefault(frozenset(overrides), overrides)
    if not jobs:
        raise ConfigError(
            f"sweep excludes every job of {format_axes(axes)}; ask for other values, or remove an exclude"
        )
    return list(jobs.values())


def zip_axes(arguments: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of each job: its position in every list of values. Keys with one value have it in all jobs."""
    axes = parse_axes(arguments, loader)
    several = [axis for axis in axes if len(axis.assignments) > 1]
    if len({len(axis.assignments) for axis in several}) > 1:
        raise ConfigError(
            f"--zip takes keys with equally many values: {count_values(several)}; give each as many, or one"
        )
    num_jobs = len(several[0].assignments) if several else 1
    columns = [axis.assignments if axis in several else axis.assignments * num_jobs for axis in axes]
    return [override_texts(row) for row in zip(*columns, strict=True)]


def parse_axes(arguments: Sequence[str], loader: ConfigLoader) -> list[Axis]:
    """The axes of a command line. A later argument replaces an earlier one of the same key, and takes its position."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    return list({override.get_key_element(): parse_axis(override) for override in overrides}.values())


def parse_axis(override: Override) -> Axis:
    key = override.get_key_element()
    if not override.is_sweep_override():
        values = [override.get_value_element_as_str()]
    elif override.is_interval_sweep():
        raise ConfigError(f"{override.input_line} is continuous; give search=tpe, or a list of values")
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line} has no value; give a list, as {key}=0,1")
    return Axis(key, tuple(Assignment(f"{key}={value}") for value in values))


def sweep_parts(spec: Any) -> list[dict[str, Any]]:
    """The parts of `sweep`, each with all keys of SWEEP_PARTS."""
    parts = spec if isinstance(spec, list) else [spec]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"sweep is {spec!r}; give a mapping, as sweep: {{grid: {{seed: [0, 1]}}}}, or a list of them")
    for part in parts:
        for name, content in part.items():
            if name not in SWEEP_PARTS:
                raise ConfigError(f"nothing reads {name!r} in sweep; {suggest(str(name), SWEEP_PARTS)}")
            if name != "exclude" and not isinstance(content, dict):
                raise ConfigError(f"{name} of sweep is {content!r}; give keys and values, as {name}: {{seed: [0, 1]}}")
            if name == "exclude" and not is_list_of_mappings(content):
                raise ConfigError(
                    f"exclude of sweep is {content!r}; give a list of mappings, as exclude: [{{seed: 1}}]"
                )
    return [{"grid": {}, "zip": {}, "exclude": []} | part for part in parts]


def is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def part_jobs(part: Mapping[str, Any], replacing: Sequence[Axis], loader: ConfigLoader) -> list[Assignments]:
    """The jobs of one part of `sweep`: the rows of zip times the product of grid, without the excluded jobs.

    replacing: axes of the arguments, which replace axes of the part.
    """
    zipped, grid = ([spec_axis(str(key), spec, loader) for key, spec in part[name].items()] for name in ("zip", "grid"))
    if len({len(axis.assignments) for axis in zipped}) > 1:
        raise ConfigError(f"zip of sweep takes axes of equal length: {count_values(zipped)}; give each as many values")
    keys = [axis.key for axis in (*zipped, *grid)]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ConfigError(f"a part of sweep has {', '.join(sorted(twice))} twice; keep one of them")
    replacements = {
        axis.key: axis for axis in reversed(replacing)
    }  # of lr and ++lr, the first replaces the axis; the other is added after it
    check_zip_kept_whole(zipped, replacements)
    zipped = [axis for axis in zipped if axis.key not in replacements]
    grid = list(dict.fromkeys([*(replacements.get(axis.key, axis) for axis in grid), *replacing]))
    rows = zip(*(axis.assignments for axis in zipped), strict=True) if zipped else [()]
    jobs = [(*row, *rest) for row, rest in product(rows, product(*(axis.assignments for axis in grid)))]
    exclusions = [{override_key(str(key)): value for key, value in spec.items()} for spec in part["exclude"]]
    return exclude_jobs(jobs, exclusions, [*zipped, *grid], set(replacements))


def check_zip_kept_whole(zipped: Sequence[Axis], replacements: Mapping[str, Axis]) -> None:
    """Raises ConfigError where the arguments give several values for some axes of a zip, but none for others: each
    value would be tried with every row of the rest. One value is fine, as it leaves the number of rows."""
    rest = [axis for axis in zipped if axis.key not in replacements]
    several = [
        replacements[axis.key]
        for axis in zipped
        if axis.key in replacements and len(replacements[axis.key].assignments) > 1
    ]
    if several and rest:
        keys, partners = (", ".join(axis.key for axis in axes) for axes in (several, rest))
        given = format_axes(several)
        raise ConfigError(
            f"{given}: sweep zips {keys} with {partners}, value by value. To try each of these with every value of "
            f"{partners}: {given} {format_axes(rest)}. To leave out the sweep of the file: {given} sweep=null"
        )


def exclude_jobs(
    jobs: Sequence[Assignments], exclusions: Sequence[Mapping[str, Any]], axes: Sequence[Axis], replaced: set[str]
) -> list[Assignments]:
    """The jobs that match none of the exclusions.

    exclusions: values by key.  replaced: keys of the arguments.
    Raises ConfigError for an exclusion that matches no job, unless the arguments replaced an axis that it names.
    """
    by_key = {axis.key: axis for axis in axes}
    excluded: set[int] = set()
    for exclusion in exclusions:
        for key in exclusion:
            if key not in by_key:
                raise ConfigError(f"exclude of sweep names {key!r}, which no axis has; {suggest(key, by_key)}")
        matching = {number for number, job in enumerate(jobs) if is_excluded(job, exclusion)}
        if not matching and not replaced & set(exclusion):
            named = format_axes(by_key[key] for key in exclusion)
            raise ConfigError(f"exclude of sweep matches no job: {dict(exclusion)}; the axes have {named}")
        excluded |= matching
    if len(excluded) == len(jobs) and not any(replaced & set(exclusion) for exclusion in exclusions):
        raise ConfigError(f"exclude of sweep leaves no job of {format_axes(axes)}; remove an exclusion, or add a value")
    return [job for number, job in enumerate(jobs) if number not in excluded]


def is_excluded(job: Assignments, exclusion: Mapping[str, Any]) -> bool:
    assignments = {assignment.key: assignment for assignment in job}
    return all(assignments[key].value == value for key, value in exclusion.items())


def spec_axis(key: str, spec: Any, loader: ConfigLoader) -> Axis:
    """An axis of the node `sweep`.  key: key with its + or ~.  spec: the key's values, as YAML gives them."""
    if spec is None or spec == []:
        raise ConfigError(f"{key} of sweep has no value; give a list, as {key}: [0, 1]")
    if isinstance(spec, dict):
        raise ConfigError(f"{key} of sweep is a mapping, {spec}; give a list of values, or the keys as {key}.<key>")
    if isinstance(spec, str):
        return parse_axes([f"{key}={spec}"], loader)[0]
    values = spec if isinstance(spec, list) else [spec]
    return Axis(key, tuple(Assignment(write_override(key, value)) for value in values))


def override_texts(job: Assignments) -> list[str]:
    return [assignment.override for assignment in job]


def format_axes(axes: Iterable[Axis]) -> str:
    """`optimizer=sgd,adamw seed=0,1`"""
    return " ".join(map(str, axes))


def count_values(axes: Iterable[Axis]) -> str:
    return ", ".join(f"{axis.typed_key} has {len(axis.assignments)}" for axis in axes)
