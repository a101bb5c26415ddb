"""The candidates of a ranking: one for each distinct model of the configs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.config.check import check_config
from lab.config.composed import ComposedConfig
from lab.config.overrides import split_override, swept_keys
from lab.config.redact import redact_text
from lab.errors import ConfigError

SHARED_GROUPS = ("seed", "data", "hardware")  # what the sample is made of and read with


@dataclass
class Candidate:
    """A model to start from.  name: how it differs from the others.  pretrained: None until it is made.  seconds: that
    each score took, and `features`.  tuned: what fine-tuning it came to (lab.model_selection.finetuned_results).  error: why there is none.
    """

    name: str
    asked: ComposedConfig
    parameters: int | None = None
    pretrained: bool | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tuned: float | None = None
    runs: int = 0
    error: str | None = None


def make_candidates(asked: Sequence[ComposedConfig]) -> list[Candidate]:
    """A candidate for each model that is asked for; where only other things differ, they are one.

    Raises ConfigError with every problem of the configs, and where they are not all of one sample.
    """
    problems: dict[str, None] = {}
    for one in asked:
        try:
            check_config(one.config, one.source)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(*problems)
    first = asked[0].config
    for name in SHARED_GROUPS:
        if any(one.config[name] != first[name] for one in asked):
            keys = [key for key in swept_keys([one.overrides for one in asked]) if key.split(".")[0] == name] or [name]
            raise ConfigError(
                f"lab rank compares models on one sample, and {', '.join(keys)} is not the same for all of them; give "
                f"{keys[0]} one value, and a command for each"
            )
    distinct = {str(weights_origin(one.config)): one for one in reversed(asked)}
    kept = list(reversed(distinct.values()))
    return [Candidate(name, one) for name, one in zip(candidate_names(kept), kept, strict=True)]


def weights_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's node, with the `weights` that are loaded into a model which takes none itself."""
    return {"weights": config.get("weights"), **config["model"]}


def candidate_names(asked: Sequence[ComposedConfig]) -> list[str]:
    """`resnet20 a.th`: the model, and what else differs; of a path the last part, where that tells them apart."""
    keys = [key for key in swept_keys([one.overrides for one in asked]) if key != "model"]
    found = []
    for one in asked:
        given = dict(split_override(redact_text(override)) for override in one.overrides)
        shown = [describe_override(key, given[key].strip("'\"")) for key in keys if key in given]
        found.append([str(one.choices.get("model")), *shown])
    short = [" ".join(word if "/" not in word else Path(word).name for word in words) for words in found]
    return short if len(set(short)) == len(short) else [" ".join(words) for words in found]


def describe_override(key: str, value: str) -> str:
    last = key.rpartition(".")[2]
    if last == "weights" and value == "null":
        return "random"
    return value if last in ("weights", "name") else f"{key.removeprefix('model.')}={value}"


def sort_by_size(found: Sequence[Candidate]) -> list[Candidate]:
    """The cheapest first. What cannot be counted without its weights comes last."""
    return sorted(found, key=lambda candidate: count_parameters(candidate.asked.config["model"]))


def count_parameters(model: Mapping[str, Any]) -> float:
    """Of a model's node, counted without memory for them."""
    import torch

    from lab.build.build import instantiate

    node = {key: None if key == "weights" else value for key, value in model.items()}
    try:
        with torch.device("meta"):
            return float(sum(p.numel() for p in instantiate({"model": node}, "model").parameters()))
    except (ConfigError, AttributeError):  # if the model itself is wrong, making it will say so
        return float("inf")
