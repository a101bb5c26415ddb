"""A paper's claims: what a table of it says, the runs that it stands for, and the verdict of our own runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.studies import check_keys, parse_override_list, parse_seeds
from lab.errors import ConfigError
from lab.statistics.comparison import ALPHA, paired_differences
from lab.statistics.equivalence import Judgement, expected_extreme, judge_bound, judge_range, judge_value
from lab.statistics.intervals import standard_deviation

SHARED = ("name", "source", "metric", "mode", "seeds", "needs")
KINDS: dict[str, tuple[str, ...]] = {
    "value": ("run", "value", "reported", "n", "spread", "tolerance"),
    "bound": ("run", "at_most", "at_least", "p"),
    "direction": ("better", "than", "by", "p"),
}
REPORTED = ("mean", "best", "single")


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    name: the claim in words.  source: where the paper makes it, to table and row.  arms: overrides of the runs that it
    stands for; two for a direction, the better one first.  seeds: seeds of each arm.  metric: None for the monitored
    score, on the test set.  content: its fields in the file.  needs: `gpu` for runs that take too long without one.
    """

    name: str
    source: str
    kind: str
    arms: Sequence[Sequence[str]]
    seeds: Sequence[int]
    metric: str | None
    mode: str | None
    needs: str | None
    content: Mapping[str, Any]

    @property
    def statement(self) -> str:
        """What is claimed, in short."""
        content, metric = self.content, self.metric or "the score"
        if self.kind == "direction":
            return f"better by {content.get('by', 0)} or more"
        if self.kind == "bound":
            is_upper = "at_most" in content
            limit = content["at_most"] if is_upper else content["at_least"]
            return f"{metric} {'<=' if is_upper else '>='} {limit} at p < {content.get('p', ALPHA)}"
        spread = f" ± {content['spread']}" if "spread" in content else ""
        count = f" of {content['n']}" if "n" in content else ""
        return f"{metric} {content['value']}{spread} ({content.get('reported', 'mean')}{count})"

    def judge(self, scores: Sequence[Mapping[int, float]], mode: str) -> Judgement:
        """The verdict.  scores: of each arm, by seed.  mode: `max` or `min`, the better end of the score."""
        content = self.content
        if self.kind == "direction":
            sign = 1 if mode == "max" else -1
            seeds = [seed for seed in scores[0] if seed in scores[1]]
            gains = paired_differences(*[[sign * arm[seed] for seed in seeds] for arm in scores])
            return judge_range(gains, float(content.get("by", 0)), math.inf, float(content.get("p", ALPHA)))
        values = list(scores[0].values())
        if self.kind == "bound":
            is_upper = "at_most" in content
            limit = float(content["at_most"] if is_upper else content["at_least"])
            return judge_bound(values, limit, is_upper, float(content.get("p", ALPHA)))
        return judge_value(values, self.target(values, mode), self.tolerance)

    def target(self, values: Sequence[float], mode: str) -> float:
        """The mean that the paper's value stands for. The best of n runs lies above their mean by what the best of n
        normal values does, with the spread that the paper gives, or that of our runs."""
        value = float(self.content["value"])
        if self.content.get("reported", "mean") != "best":
            return value
        spread = float(self.content.get("spread") or standard_deviation(values) or 0)
        gain = spread * expected_extreme(int(self.content.get("n", 1)))
        return value - gain if mode == "max" else value + gain

    @property
    def tolerance(self) -> float:
        return float(self.content.get("tolerance", self.content.get("spread", 0)))


@dataclass(frozen=True)
class Paper:
    """The claims of experiments/<study>/paper.yaml:

    title: Deep residual learning
    source: arXiv:1512.03385
    seeds: 5
    claims:
      - name: ResNet-20 on CIFAR-10
        source: Table 6, row ResNet-20
        run: [experiment=cifar10/resnet20]
        metric: test/accuracy
        value: 0.9125
        tolerance: 0.005
        reported: mean                   # or best, with n, or single
      - name: gradual unfreezing beats full fine-tuning
        better: experiment=few_shot/digits finetune_strategy=gradual
        than: experiment=few_shot/digits finetune_strategy=full
        by: 0.005
      - name: the record
        run: [experiment=speed/run]
        at_most: 3.28                    # or at_least
        p: 0.01
    """

    path: Path
    title: str
    source: str
    claims: Sequence[Claim]


def parse_paper(path: Path, content: Mapping[str, Any], num_seeds: int | None = None) -> Paper:
    """The paper of a file. Raises ConfigError with what it takes.  num_seeds: seeds in place of the file's."""
    check_keys(content, ("title", "source", "seeds", "claims"), str(path))
    claims = content["claims"]
    if not isinstance(claims, list) or not claims:
        raise ConfigError(f"{path}: claims: takes a list, each with name, source, and run or better and than")
    seeds = num_seeds if num_seeds is not None else content.get("seeds", 5)
    parsed = [parse_claim(claim, f"{path}: claim {place}", seeds, num_seeds) for place, claim in enumerate(claims, 1)]
    return Paper(path, str(content.get("title", path.parent.name)), str(content.get("source", "")), parsed)


def parse_claim(content: Any, place: str, seeds: Any, num_seeds: int | None) -> Claim:
    if not isinstance(content, dict) or "name" not in content:
        raise ConfigError(f"{place} has no name")
    place = f"{place} ({content['name']})"
    kind = "direction" if "better" in content else "value" if "value" in content else "bound"
    fields = [field for fields in KINDS.values() for field in fields]
    check_keys(content, (*SHARED, *(KINDS[kind] if kind != "bound" else dict.fromkeys(fields))), place)
    check_claim(content, kind, place)
    arms = [content["better"], content["than"]] if kind == "direction" else [content["run"]]
    return Claim(
        str(content["name"]),
        str(content.get("source", "")),
        kind,
        [parse_override_list(arm, place) for arm in arms],
        parse_seeds(seeds if num_seeds is not None else content.get("seeds", seeds), f"{place}: seeds"),
        content.get("metric"),
        content.get("mode"),
        content.get("needs"),
        content,
    )


def check_claim(content: Mapping[str, Any], kind: str, place: str) -> None:
    needed = {"direction": ("better", "than"), "value": ("run", "value"), "bound": ("run",)}[kind]
    if lacking := [key for key in needed if key not in content]:
        raise ConfigError(f"{place} has no {lacking[0]}")
    if kind == "bound" and ("at_most" in content) == ("at_least" in content):
        raise ConfigError(f"{place} takes one of value, at_most, at_least, or better with than")
    if kind == "value" and not (content.get("tolerance") or content.get("spread")):
        raise ConfigError(f"{place} has no tolerance: how far off still counts as reproduced? tolerance: 0.005")
    if content.get("reported", "mean") not in REPORTED:
        raise ConfigError(f"{place}: reported: takes {', '.join(REPORTED)}")
    if content.get("reported") == "best" and "n" not in content:
        raise ConfigError(f"{place}: the best of how many runs? n: 5")
    if content.get("needs") not in (None, "gpu"):
        raise ConfigError(f"{place}: needs: takes gpu")
    for key in ("value", "tolerance", "spread", "at_most", "at_least", "by", "p"):
        value = content.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{place}: {key} is {value!r}, not a number")
