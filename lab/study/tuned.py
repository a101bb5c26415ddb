"""What fine-tuning the candidates of a ranking came to, in the runs that there are."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lab.config.identity import Identifier
from lab.record.files import read_json
from lab.record.status import is_done
from lab.study.diff import read_config
from lab.study.ledger import find_runs
from lab.study.ranking import Candidate, origin

SCRATCH = "lab.finetune.scratch.scratch"
TRUTH = "test/accuracy"


def look_up(found: Sequence[Candidate], outputs: Path, identify: Identifier) -> None:
    """Put on the candidates what fine-tuning them came to: TRUTH of the best recipe, the mean over its seeds.

    Looks at the runs below `outputs` that are done, of the same data but for seed and batch size, and of the same model
    and weights. A recipe is all of the config but the seed.
    """
    wanted = {start(candidate.asked.config, identify): candidate for candidate in found}
    recipes: dict[tuple[str, str], list[float]] = {}
    for run in find_runs(outputs):
        config = read_config(run)
        if not is_done(run) or not {"data", "model", "finetune_strategy"} <= config.keys():
            continue
        result = read_json(run / "results.json", {}).get(TRUTH)
        if result is None or config["finetune_strategy"].get("_target_") == SCRATCH:
            continue
        if (key := start(config, identify)) in wanted:
            recipes.setdefault((key, canonical(config, identify, {"seed"})), []).append(result)
    for (key, _), results in recipes.items():
        candidate = wanted[key]
        candidate.tuned = max(mean(results), candidate.tuned if candidate.tuned is not None else float("-inf"))
        candidate.runs += len(results)


def start(config: Mapping[str, Any], identify: Identifier) -> str:
    """Equal for configs that start from the same weights on the same data."""
    return canonical({"data": config["data"], "model": origin(config)}, identify, {"seed", "batch_size"})


def canonical(config: Mapping[str, Any], identify: Identifier, without: Collection[str]) -> str:
    """The config as identities see it: what lies at a path for the path, no bookkeeping, and no null."""
    return str(pruned(identify.stripped(config, (), {}), without))


def pruned(value: Any, without: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        kept = {key: part for key, part in sorted(value.items()) if key not in without and part is not None}
        return {key: pruned(part, without) for key, part in kept.items()}
    return value
