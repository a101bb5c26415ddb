"""The settings of a search, and its search space: an interval or a list of values for each swept override."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lab.config.overrides import override_key, write_value
from lab.errors import ConfigError
from lab.text import suggest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
INTEGER = re.compile(r"[+-]?\d[\d_]*")


@dataclass(frozen=True)
class SearchSettings:
    """The config's node `search`.

    sampler: node of an Optuna sampler, which chooses the values of each trial; None to try every combination in order.
    pruner: node of an Optuna pruner, which ends bad trials early; None to prune no trial.
    min_resource, reduction_factor: ASHA's r and eta, for the nodes of pruners to interpolate. At the steps r, r * eta,
        r * eta^2, ... a trial continues only if it is among the best 1/eta of the trials that reached that step so far.
    trials: total number of trials; None where every combination is tried.
    objective: name of the score to optimise, or a list of names for a Pareto front; None for the score that the runs
        monitor.
    direction: `max` or `min`, or a list with one for each objective; None for the scores' own directions.
    seeds: seeds of each trial's runs; the trial's objective is the mean over them; None for one run.
    seed: seed of the sampler.
    name: name of the search in messages and in its directory's name.
    """

    sampler: dict[str, Any] | None
    pruner: dict[str, Any] | None
    min_resource: int
    reduction_factor: int
    trials: int | None
    objective: str | list[str] | None
    direction: str | list[str] | None
    seeds: list[int] | None
    seed: int
    name: str = "search"

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("min_resource", 1), ("reduction_factor", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"search.{name}={value} is not a number from {least} on")
        if self.sampler is None and self.trials is not None:
            raise ValueError(f"search={self.name} tries every combination; give search.trials=null, or search=random")
        if self.sampler is not None and self.trials is None:
            raise ValueError(f"search={self.name} needs a number of trials; give search.trials=20")
        for direction in self.directions:
            check_direction(direction)
        num_objectives = len(self.objectives)
        if self.objective is not None and len(set(self.objectives)) != max(1, num_objectives):
            raise ValueError(f"search.objective={self.objective} is not a score, or a list of different scores")
        if self.direction is not None and len(self.directions) != max(1, num_objectives):
            each = ",".join(["max"] * max(1, num_objectives))
            raise ValueError(f"search.direction={self.direction}: give max or min for each objective, as in [{each}]")
        if self.pruner is not None and num_objectives > 1:
            raise ValueError("a pruner compares a single objective; give search.pruner=null, or one search.objective")
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"search.seeds={self.seeds} is not a list of different seeds, as [0,1,2], or null")

    @property
    def objectives(self) -> list[str]:
        return [self.objective] if isinstance(self.objective, str) else list(self.objective or ())

    @property
    def directions(self) -> list[str]:
        return [self.direction] if isinstance(self.direction, str) else list(self.direction or ())

    def resolve(self, monitors: Sequence[tuple[str, str]]) -> SearchSettings:
        """The settings with every objective and its direction filled in. Raises ValueError where one is unknown, or
        where the given direction contradicts that of a score, which would look for the worst trials.

        monitors: name and mode of the score that each tried job monitors. The first is the default objective, and all
            of them tell the default directions.
        """
        if self.objective is None and not monitors:
            raise ValueError("without a validation set a search has no objective; give search.objective=test/...")
        objective = monitors[0][0] if self.objective is None else self.objective
        modes = dict(reversed(monitors))
        names = [objective] if isinstance(objective, str) else objective
        directions = [modes.get(name.replace("test/", "val/", 1)) for name in names]
        if self.direction is not None:
            for name, given, own in zip(names, self.directions, directions, strict=True):
                if own not in (None, given):
                    raise ValueError(
                        f"search.direction={given} would look for the worst {name}, of which the {own} is best; leave "
                        f"search.direction= out"
                    )
            return replace(self, objective=objective)
        if None in directions:
            raise ValueError(f"search.objective={objective}: give search.direction= max or min for each of them")
        return replace(self, objective=objective, direction=[mode for mode in directions if mode])


def check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        nearest = suggest(str(direction), DIRECTIONS, prefix="search.direction=")
        raise ValueError(f"no search.direction={direction}; {nearest}")


def name_search(choices: Mapping[str, Any]) -> str:
    """The name of a search: the chosen option of its pruner, else of its sampler, else of `search` itself.

    choices: chosen option of each group.
    """
    options = [choices.get(group) for group in ("search/pruner", "search/sampler", "search")]
    return next((option for option in options if option), "search")


@dataclass(frozen=True)
class Interval:
    """A closed interval.  log: whether it is sampled on a logarithmic scale.  whole: whether it holds only integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{self} is empty or infinite; give two finite numbers, the smaller number first")
        if self.log and self.low <= 0:
            raise ValueError(f"{self} has no logarithm at {self.low}; start above 0, or leave out the tag log")

    def __str__(self) -> str:
        return f"tag(log,interval({self.low},{self.high}))" if self.log else f"interval({self.low},{self.high})"


SearchAxis = Interval | Sequence[str]


def parse_search_space(overrides: Sequence[Override]) -> tuple[dict[str, Interval | tuple[str, ...]], list[str]]:
    """The axis of each swept key, and the other overrides as they were typed. Raises ConfigError with every problem.

    The values of a list are texts, as in an override. An interval is of integers if both of its ends are typed without
    a decimal point, as in interval(1,8); float(interval(0,1)) and interval(0.0,1.0) are of floats.
    """
    axes: dict[str, Interval | tuple[str, ...]] = {}
    fixed: list[str] = []
    problems: list[str] = []
    counts = Counter(override_key(str(override.input_line)) for override in overrides)
    for override in overrides:
        typed = str(override.input_line)
        if not override.is_sweep_override():
            fixed.append(typed)
        elif counts[key := override_key(typed)] > 1:
            problems.append(f"{key} is swept and given {counts[key]} times; give it once")
        else:
            try:
                axes[override.get_key_element()] = parse_search_axis(override)
            except ValueError as error:
                problems.append(f"{typed}: {error}")
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return axes, fixed


def parse_search_axis(override: Override) -> Interval | tuple[str, ...]:
    """The interval or the values of one swept override. Raises ValueError where a search does not support it."""
    sweep = override.value()
    tags = set(getattr(sweep, "tags", ()))
    if unknown := tags - {"log"}:
        raise ValueError(f"a search supports the tag log, not {', '.join(sorted(unknown))}")
    if override.is_interval_sweep():
        # Hydra reads interval(1,8) as floats, and only int(interval(...)) as integers, so the typed text decides
        low, high = getattr(sweep, "start", math.nan), getattr(sweep, "end", math.nan)
        whole = isinstance(low, int) and isinstance(high, int)
        if whole or are_typed_integers(override.get_value_string()):
            return Interval(int(low), int(high), "log" in tags, whole=True)
        return Interval(low, high, "log" in tags)
    if tags:
        raise ValueError("the tag log is only for an interval(low,high); leave it out")
    if getattr(sweep, "shuffle", False):
        raise ValueError("shuffle(...) gives another order each time, so a search could not be resumed; leave it out")
    values = tuple(dict.fromkeys(str(value) for value in override.sweep_iterator(write_value)))
    if not values:
        raise ValueError("there is no value to choose from; give at least one")
    return values


def are_typed_integers(value: str) -> bool:
    """Whether the ends of `interval(a,b)` are typed as integers without a cast to float."""
    inside = re.search(r"interval\s*\(([^)]*)\)", value)
    ends = [end.rpartition("=")[2].strip() for end in inside[1].split(",")] if inside else []
    return bool(ends) and all(INTEGER.fullmatch(end) for end in ends) and not re.search(r"float\s*\(", value)
