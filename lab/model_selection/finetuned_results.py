"""What fine-tuning the candidates of a ranking came to, in the runs that there are."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lab.identity.identity import Identifier
from lab.model_selection.candidates import Candidate, weights_origin
from lab.record.files import read_json
from lab.record.status import is_done
from lab.runs.diff import read_config
from lab.runs.ledger import find_runs

SCRATCH_TARGET = "lab.finetune.scratch.scratch"
FINETUNED_METRIC = "test/accuracy"


def attach_finetuned(found: Sequence[Candidate], outputs: Path, identify: Identifier) -> None:
    """Put on the candidates what fine-tuning them came to: TRUTH of the best recipe, the mean over its seeds.

    Looks at the runs below `outputs` that are done, of the same data but for seed and batch size, and of the same model
    and weights. A recipe is all of the config but the seed.
    """
    wanted = {start_key(candidate.asked.config, identify): candidate for candidate in found}
    recipes: dict[tuple[str, str], list[float]] = {}
    for run in find_runs(outputs):
        config = read_config(run)
        if not is_done(run) or not {"data", "model", "finetune_strategy"} <= config.keys():
            continue
        result = read_json(run / "results.json", {}).get(FINETUNED_METRIC)
        if result is None or config["finetune_strategy"].get("_target_") == SCRATCH_TARGET:
            continue
        if (key := start_key(config, identify)) in wanted:
            recipes.setdefault((key, config_key(config, identify, {"seed"})), []).append(result)
    for (key, _), results in recipes.items():
        candidate = wanted[key]
        candidate.tuned = max(mean(results), candidate.tuned if candidate.tuned is not None else float("-inf"))
        candidate.runs += len(results)


def start_key(config: Mapping[str, Any], identify: Identifier) -> str:
    """Equal for configs that start from the same weights on the same data."""
    return config_key({"data": config["data"], "model": weights_origin(config)}, identify, {"seed", "batch_size"})


def config_key(config: Mapping[str, Any], identify: Identifier, without: Collection[str]) -> str:
    """The config as identities see it: what lies at a path for the path, no bookkeeping, and no null."""
    return str(prune_keys(identify.stripped(config, (), {}), without))


def prune_keys(value: Any, without: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        kept = {key: part for key, part in sorted(value.items()) if key not in without and part is not None}
        return {key: prune_keys(part, without) for key, part in kept.items()}
    return value
