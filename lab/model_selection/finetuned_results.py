"""The results of fine-tuning the candidates of a ranking, from the runs on disk."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

from lab.errors import DamagedRun
from lab.identity.identity import Identifier
from lab.ledger.listing import find_runs
from lab.ledger.saved_run import SavedRun
from lab.model_selection.candidates import Candidate, model_and_weights

SCRATCH_TARGET = "lab.finetune.scratch.scratch"
FINETUNED_METRIC = "test/accuracy"


def attach_finetuned(candidates: Sequence[Candidate], outputs: Path, identify: Identifier) -> None:
    """Set the candidates' results of fine-tuning: FINETUNED_METRIC of the best recipe, as the mean over its seeds.

    outputs: folder of the runs.
    A run counts if it is done and has the same model, weights and data, apart from seed and batch size. A recipe is the
    config without the seed.
    """
    by_start = {start_key(candidate.composed.resolved, identify): candidate for candidate in candidates}
    recipes: dict[tuple[str, str], list[float]] = {}
    for directory in find_runs(outputs):
        with suppress(DamagedRun):  # a damaged run loses only its own result
            run = SavedRun(directory)
            config, result = run.config, run.results.get(FINETUNED_METRIC)
            if not run.is_done or result is None or not {"data", "model", "finetune_strategy"} <= config.keys():
                continue
            if config["finetune_strategy"].get("_target_") == SCRATCH_TARGET:
                continue
            if (start := start_key(config, identify)) in by_start:
                recipes.setdefault((start, str(run.manifest.get("recipe"))), []).append(result)
    for (start, _), results in recipes.items():
        candidate = by_start[start]
        candidate.tuned = max(mean(results), candidate.tuned if candidate.tuned is not None else float("-inf"))
        candidate.runs += len(results)


def start_key(config: Mapping[str, Any], identify: Identifier) -> str:
    """A key that is equal for configs that start from the same weights on the same data."""
    start = {"data": config["data"], "model": model_and_weights(config), "paths": config["paths"]}
    return str(prune_keys(identify.strip(start, {}), {"seed", "batch_size"}))


def prune_keys(value: Any, without: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        kept = {key: part for key, part in sorted(value.items()) if key not in without and part is not None}
        return {key: prune_keys(part, without) for key, part in kept.items()}
    return value
