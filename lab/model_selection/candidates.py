"""The candidates of a ranking: one for each distinct model of the configs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.config.check import check_config
from lab.config.composed import ComposedConfig
from lab.config.overrides import split_override, swept_keys
from lab.errors import ConfigError
from lab.redact import redact_text

SHARED_KEYS = ("seed", "data", "hardware")  # keys of a config that determine the sample and how it is read


@dataclass
class Candidate:
    """A model to start from.

    name: overrides in which it differs from the other candidates.
    parameters, pretrained: number of parameters, and whether it has pretrained weights; None until the model is built.
    scores: values by name of the score; None for a score that the model cannot have.
    seconds: time for each score, and for `features`.
    tuned, runs: result of fine-tuning, and number of runs behind it (lab.model_selection.finetuned_results).
    error: reason why there is no score.
    """

    name: str
    composed: ComposedConfig
    parameters: int | None = None
    pretrained: bool | None = None
    scores: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tuned: float | None = None
    runs: int = 0
    error: str | None = None


def make_candidates(configs: Sequence[ComposedConfig]) -> list[Candidate]:
    """A candidate for each distinct model. Configs with the same model and weights give one candidate.

    Raises ConfigError with every problem of the configs, or if they do not share a sample.
    """
    problems: dict[str, None] = {}
    for composed in configs:
        try:
            check_config(composed.resolved, composed.unresolved)
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(*problems)
    check_shared_sample(configs)
    distinct = {str(model_and_weights(composed.resolved)): composed for composed in reversed(configs)}
    kept = list(reversed(distinct.values()))
    return [Candidate(name, composed) for name, composed in zip(candidate_names(kept), kept, strict=True)]


def check_shared_sample(configs: Sequence[ComposedConfig]) -> None:
    """Raises ConfigError if the configs do not read the same sample in the same way."""
    overridden = swept_keys([composed.overrides for composed in configs])
    for name in SHARED_KEYS:
        if any(composed.resolved[name] != configs[0].resolved[name] for composed in configs):
            keys = [key for key in overridden if key.split(".")[0] == name] or [name]
            raise ConfigError(
                f"lab rank compares models on one sample, and {', '.join(keys)} is not the same for all of them; give "
                f"{keys[0]} one value, and a command for each"
            )


def model_and_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's node, with the top-level `weights` added if it has no key `weights`."""
    return {"weights": config.get("weights"), **config["model"]}


def candidate_names(configs: Sequence[ComposedConfig]) -> list[str]:
    """Names such as `resnet20 a.th`: the model, and the other overrides that differ. Paths are shortened to their last
    part if the names stay distinct."""
    keys = [key for key in swept_keys([composed.overrides for composed in configs]) if key != "model"]
    names = []
    for composed in configs:
        values = dict(split_override(redact_text(override)) for override in composed.overrides)
        words = [describe_override(key, values[key].strip("'\"")) for key in keys if key in values]
        names.append([str(composed.choices.get("model")), *words])
    short = [" ".join(word if "/" not in word else Path(word).name for word in words) for words in names]
    return short if len(set(short)) == len(short) else [" ".join(words) for words in names]


def describe_override(key: str, value: str) -> str:
    last = key.rpartition(".")[2]
    if last == "weights" and value == "null":
        return "random"
    return value if last in ("weights", "name") else f"{key.removeprefix('model.')}={value}"


def sort_by_size(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates by number of parameters, the smallest first. Models whose parameters cannot be counted, because
    they cannot be built without their weights, come last."""
    return sorted(candidates, key=lambda candidate: count_parameters(candidate.composed.resolved["model"]))


def count_parameters(model: Mapping[str, Any]) -> float:
    """The number of parameters of a model's node, counted without allocating them; infinity if that fails."""
    import torch

    from lab.assembly.build import instantiate

    node = {key: None if key == "weights" else value for key, value in model.items()}
    try:
        with torch.device("meta"):
            return float(sum(p.numel() for p in instantiate({"model": node}, "model").parameters()))
    except (ConfigError, AttributeError):  # an error of the model itself is raised when the model is built
        return float("inf")
