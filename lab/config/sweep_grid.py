"""What a sweep was asked for, as the list of its jobs: Hydra's product of axes, and `sweep` of an experiment's file.

sweep:                                                    # a list is a union of its parts; one mapping is one part
  - grid: {optimizer: [sgd, adamw], seed: range(3)}       # a list, a scalar, or a string in Hydra's grammar of sweeps
    exclude: [{optimizer: sgd, seed: 2}]                  # without the jobs that have all of these values
  - zip: {model: [mlp, simple_cnn], optimizer.lr: [0.01, 0.001]}    # axes that move together
    grid: {seed: [0, 1]}
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from lab.config.overrides import (
    override_key,
    override_path,
    override_value,
    split_override,
    write_override,
)
from lab.errors import ConfigError
from lab.text import suggest

Axes = dict[str, list[str]]  # a key, with its + or ~, to one override for each of its values
SWEEP_PARTS = ("grid", "zip", "exclude")


def expand_sweep(arguments: Sequence[str], loader: ConfigLoader, spec: Any = None) -> list[list[str]]:
    """The overrides of each job.

    arguments: overrides, whose product is the same as with Hydra's own sweeper. An axis without a value is an error.
    spec: plain values of the config's `sweep`, if any. What the arguments give replaces the axis of that key in every
    part, or is one more axis; then jobs of the same overrides are one.
    """
    asked = parse_axes(arguments, loader)
    if spec is None:
        return [list(job) for job in product(*asked.values())]
    jobs: dict[frozenset[str], list[str]] = {}
    for part in sweep_parts(spec):
        for job in part_jobs(part, asked, loader):
            jobs.setdefault(frozenset(job), job)
    if not jobs:
        raise ConfigError(
            f"sweep excludes every job of {format_axes(asked)}; ask for other values, or take an exclude out"
        )
    return list(jobs.values())


def as_single_choices(arguments: Sequence[str]) -> list[str]:
    """The same sweep, with each plain override below a swept group as a choice of one: Hydra composes a sweep's first
    config without what is swept, and there the default option need not have such a key."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    swept = [f"{override_path(o)}." for o in overrides if o.is_sweep_override() and o.package is None]
    return [
        text if o.is_sweep_override() or not override_path(o).startswith(tuple(swept)) else single_choice(o)
        for text, o in zip(arguments, overrides, strict=True)
    ]


def single_choice(plain: Override) -> str:
    """`key=choice(value)`, or the override as it is where no choice gives its value back."""
    key, text, given = plain.get_key_element(), plain.get_value_element_as_str(), plain.input_line or ""
    # choice() takes no null, and takes the quotes off a string: '1' would come back as a number. Quoted once more, it
    # does not; but then Hydra escapes what is inside, which is wrong for '1 2'
    for inside in (given.partition("=")[2], QuotedString(text, Quote.double).with_quotes()):
        try:
            ((back,),) = parse_axes([f"{key}=choice({inside})"]).values()
            if repr(override_value(back)) == repr(override_value(f"{key}={text}")):
                return f"{key}=choice({inside})"
        except HydraException:
            continue
    return given


def parse_axes(arguments: Sequence[str], loader: ConfigLoader | None = None) -> Axes:
    """Each key's overrides. A later argument replaces an earlier one of its key, in the earlier one's place."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    return {override.get_key_element(): axis_overrides(override) for override in overrides}


def axis_overrides(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if override.is_interval_sweep():
        raise ConfigError(f"{override.input_line} is continuous; give search=tpe, or a list of values")
    found = [f"{key}={text}" for text in override.sweep_string_iterator()]
    if not found:
        raise ConfigError(f"{override.input_line} has no value; give a list, as {key}=0,1")
    return found


def sweep_parts(spec: Any) -> list[dict[str, Any]]:
    """The parts of `sweep`, each with all of PARTS."""
    found = spec if isinstance(spec, list) else [spec]
    if not found or not all(isinstance(part, dict) for part in found):
        raise ConfigError(f"sweep is {spec!r}; give a mapping, as sweep: {{grid: {{seed: [0, 1]}}}}, or a list of them")
    for part in found:
        for name, given in part.items():
            if name not in SWEEP_PARTS:
                raise ConfigError(f"nothing reads {name!r} in sweep; {suggest(str(name), SWEEP_PARTS)}")
            if name != "exclude" and not isinstance(given, dict):
                raise ConfigError(f"{name} of sweep is {given!r}; give keys and values, as {name}: {{seed: [0, 1]}}")
            if name == "exclude" and not (isinstance(given, list) and all(isinstance(one, dict) for one in given)):
                raise ConfigError(f"exclude of sweep is {given!r}; give a list of mappings, as exclude: [{{seed: 1}}]")
    return [{"grid": {}, "zip": {}, "exclude": []} | part for part in found]


def part_jobs(part: Mapping[str, Any], asked: Axes, loader: ConfigLoader) -> list[list[str]]:
    """The rows of zip times the product of grid, without what is excluded.  asked: the axes that replace the part's."""
    zipped, grid = (
        {str(key): spec_axis(str(key), given, loader) for key, given in part[name].items()} for name in ("zip", "grid")
    )
    if len({len(values) for values in zipped.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in zipped.items())
        raise ConfigError(f"zip of sweep takes axes of one length: {lengths}; give each as many values")
    own = [override_key(key) for key in (*zipped, *grid)]
    if twice := {key for key in own if own.count(key) > 1}:
        raise ConfigError(f"a part of sweep has {', '.join(sorted(twice))} twice; keep one of them")
    replaced = {
        override_key(key): key for key in reversed(asked)
    }  # of lr and ++lr the first: the second comes after it
    zipped = {key: values for key, values in zipped.items() if override_key(key) not in replaced}
    grid = {replaced.get(override_key(key), key): values for key, values in grid.items()} | asked
    rows = zip(*zipped.values(), strict=True) if zipped else [()]
    jobs = [[*row, *rest] for row, rest in product(rows, product(*grid.values()))]
    exclude = [{override_key(str(key)): wanted for key, wanted in exclusion.items()} for exclusion in part["exclude"]]
    return exclude_jobs(jobs, exclude, zipped | grid, replaced)


def exclude_jobs(
    jobs: list[list[str]], exclude: list[dict[str, Any]], axes: Axes, asked: Collection[str]
) -> list[list[str]]:
    """The jobs that no exclusion matches. One that matches nothing is a mistake, unless the arguments replaced an axis
    that it names.  asked: the keys of the arguments."""
    known = {override_key(key): key for key in axes}
    excluded: set[int] = set()
    for exclusion in exclude:
        for key in exclusion:
            if key not in known:
                raise ConfigError(f"exclude of sweep names {key!r}, which no axis has; {suggest(key, known)}")
        matched = {number for number, job in enumerate(jobs) if matches_exclusion(job, exclusion)}
        if not matched and not any(key in asked for key in exclusion):
            there = format_axes({known[key]: axes[known[key]] for key in exclusion})
            raise ConfigError(f"exclude of sweep matches no job: {exclusion}; the axes have {there}")
        excluded |= matched
    if len(excluded) == len(jobs) and not any(key in asked for exclusion in exclude for key in exclusion):
        raise ConfigError(
            f"exclude of sweep leaves no job of {format_axes(axes)}; take an exclusion out, or add a value"
        )
    return [job for number, job in enumerate(jobs) if number not in excluded]


def matches_exclusion(job: Sequence[str], exclusion: Mapping[str, Any]) -> bool:
    given = {override_key(override): override for override in job}
    return all(override_value(given[key]) == wanted for key, wanted in exclusion.items())


def format_axes(axes: Axes) -> str:
    """`optimizer=sgd,adamw seed=0,1`"""
    return " ".join(f"{key}={','.join(split_override(text)[1] for text in texts)}" for key, texts in axes.items())


def spec_axis(key: str, given: Any, loader: ConfigLoader) -> list[str]:
    """The overrides of an axis as YAML has it."""
    if given is None or given == []:
        raise ConfigError(f"{key} of sweep has no value; give a list, as {key}: [0, 1]")
    if isinstance(given, dict):
        raise ConfigError(f"{key} of sweep is a mapping, {given}; give a list of values, or the keys as {key}.<key>")
    if isinstance(given, str):
        return next(iter(parse_axes([f"{key}={given}"], loader).values()))
    return [write_override(key, one) for one in (given if isinstance(given, list) else [given])]


def zip_axes(arguments: Sequence[str], loader: Any) -> list[list[str]]:
    """The overrides of each candidate, where the keys with several values move together."""
    found = parse_axes(arguments, loader)
    lengths = {key: len(values) for key, values in found.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ConfigError(f"--zip takes keys with as many values: {said}; give each as many, or one")
    number = max(lengths.values(), default=1)
    return [list(row) for row in zip(*(v if len(v) > 1 else v * number for v in found.values()), strict=True)]
