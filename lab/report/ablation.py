"""An ablation: a recipe, its factors, and the variants of a design, each the recipe with factors off or swapped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lab.config.studies import check_keys, merge_overrides, parse_override_list, parse_seeds
from lab.errors import ConfigError
from lab.report.collect import ReportedRun
from lab.report.tables import ReportTable, show_interval, show_signed
from lab.statistics.comparison import compare_paired, holm

DESIGNS = ("leave_one_out", "add_one", "factorial", "path")
KEYS = ("base", "factors", "design", "seeds", "metric", "mode")
MOST_VARIANTS = 256


@dataclass(frozen=True)
class Level:
    """A way in which a factor is off or swapped.  name: for people, such as `without cosine`."""

    factor: str
    name: str
    overrides: Sequence[str]


@dataclass(frozen=True)
class Variant:
    """A variant of the recipe.  levels: the factors that are not as in the recipe."""

    name: str
    levels: Sequence[Level]

    @property
    def overrides(self) -> list[str]:
        return merge_overrides(*(level.overrides for level in self.levels))


@dataclass(frozen=True)
class Ablation:
    """base: overrides of the recipe.  factors: the levels of each factor other than the recipe's own.

    In its file:

    base: [experiment=few_shot/digits, finetune_strategy=gradual]
    factors:
      cosine: schedule=constant                  # what turns it off: an override, or a list
      head: {cosine head: model.head=cosine}     # or swaps by their names
    design: leave_one_out                        # or add_one, factorial, path
    seeds: 5
    metric: test/accuracy                        # if left out: the monitored score, on the test set
    """

    base: Sequence[str]
    factors: Mapping[str, Sequence[Level]]
    design: str
    seeds: Sequence[int]
    metric: str | None = None
    mode: str | None = None

    @property
    def variants(self) -> list[Variant]:
        """The baseline first.

        leave_one_out: the recipe, and it with one factor at another level.  add_one: all factors off, and with one of
        them as in the recipe.  factorial: all combinations.  path: the recipe, and factor after factor off.
        """
        factors = list(self.factors.values())
        off = [levels[0] for levels in factors]
        if self.design == "leave_one_out":
            return [
                Variant("full recipe", ()),
                *(Variant(level.name, (level,)) for levels in factors for level in levels),
            ]
        if self.design == "add_one":
            added = [Variant(f"only {one.factor}", [level for level in off if level is not one]) for one in off]
            return [Variant("all off", off), *added]
        if self.design == "path":
            steps = [
                Variant(f"… {off[place].name}" if place else off[0].name, off[: place + 1]) for place in range(len(off))
            ]
            return [Variant("full recipe", ()), *steps]
        variants = []
        for choice in product(*([None, *levels] for levels in factors)):
            levels = [level for level in choice if level is not None]
            variants.append(Variant(", ".join(level.name for level in levels) or "full recipe", levels))
        return variants

    def jobs(self) -> list[tuple[Variant, list[str]]]:
        """The variant and the overrides of each run, seed by seed, so that a stopped ablation has whole pairs."""
        return [
            (variant, merge_overrides(self.base, variant.overrides, [f"seed={seed}"]))
            for seed in self.seeds
            for variant in self.variants
        ]


def parse_ablation(path: Path, content: Mapping[str, Any]) -> Ablation:
    """The ablation of a file. Raises ConfigError with what it takes."""
    check_keys(content, KEYS, str(path))
    factors = content["factors"]
    if not isinstance(factors, dict) or not factors:
        raise ConfigError(f"{path}: factors: takes names with what turns each off, such as cosine: schedule=constant")
    design = content.get("design", DESIGNS[0])
    if design not in DESIGNS:
        raise ConfigError(f"{path}: no design {design!r}; there is: {', '.join(DESIGNS)}")
    ablation = Ablation(
        parse_override_list(content.get("base", []), f"{path}: base"),
        {str(name): parse_levels(str(name), value, f"{path}: {name}") for name, value in factors.items()},
        design,
        parse_seeds(content.get("seeds", 5), f"{path}: seeds"),
        content.get("metric"),
        content.get("mode"),
    )
    if len(ablation.variants) > MOST_VARIANTS:
        raise ConfigError(
            f"{path} has {len(ablation.variants)} variants, more than {MOST_VARIANTS}; design: leave_one_out has fewer"
        )
    return ablation


def parse_levels(factor: str, value: Any, place: str) -> list[Level]:
    if isinstance(value, dict):
        if not value:
            raise ConfigError(f"{place} has no swap")
        return [Level(factor, f"{factor}: {name}", parse_override_list(part, place)) for name, part in value.items()]
    return [Level(factor, f"without {factor}", parse_override_list(value, place))]


def main_effects(ablation: Ablation, scores: Mapping[tuple[str, int], float], mode: str) -> ReportTable:
    """The effect of each factor in a factorial design: its level minus the recipe's own, averaged over all settings of
    the other factors, by seed.  scores: score by variant name and seed."""
    rows, ps = [], []
    names = {frozenset(level.name for level in variant.levels): variant.name for variant in ablation.variants}
    for levels in ablation.factors.values():
        for level in levels:
            others = [key for key in names if not any(other.name in key for other in levels)]
            arms = [[names[key | {level.name}] for key in others], [names[key] for key in others]]
            seeds = [seed for seed in ablation.seeds if all((name, seed) in scores for arm in arms for name in arm)]
            if seeds:
                on, off = [[float(np.mean([scores[name, seed] for name in arm])) for seed in seeds] for arm in arms]
                two = compare_paired(on, off, mode)
                rows.append(
                    [level.name, two.count, show_signed(two.difference), show_interval(two.interval, True), two.p]
                )
                ps.append(1.0 if two.p is None else two.p)
    adjusted = [[*row, p] for row, p in zip(rows, holm(ps), strict=True)]
    return ReportTable(["main effect", "seeds", "difference", "95 % CI", "p", "p Holm"], adjusted)


def scores_by_seed(runs: Sequence[ReportedRun], names: Mapping[str, str], metric: str) -> dict[tuple[str, int], float]:
    """The score of each run by its variant's name and its seed.  names: the variant's name of each run, by its id."""
    return {
        (names[run.id], int(run.manifest["seed"])): score
        for run in runs
        if run.id in names and (score := run.score(metric)) is not None
    }
