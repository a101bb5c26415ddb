"""Run directories with chosen scores, as a run writes them, for tests of what reads them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write_run(
    folder: Path,
    values: Mapping[str, Any],
    seed: int,
    scores: Mapping[str, float] | None,
    state: str = "done",
    choices: Mapping[str, str] | None = None,
    curve: int = 3,
) -> Path:
    """A run with these overrides.  values: swept keys with their values; keys without a dot are options of groups.
    scores: final scores without their split, the same for val and test; None: none."""
    overrides = [f"{key}={value}" for key, value in values.items()] + [f"seed={seed}"]
    recipe = hashlib.sha256(json.dumps([{k: str(v) for k, v in values.items()}]).encode()).hexdigest()[:8]
    name = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:8]
    directory = folder / f"run-{name}"
    directory.mkdir(parents=True)
    config: dict[str, Any] = {"seed": seed}
    for key, value in values.items():
        node = config
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    groups = {"model": "mlp", "data": "digits"} | {k: str(v) for k, v in values.items() if "." not in k}
    manifest = {
        "id": name,
        "recipe": recipe,
        "overrides": overrides,
        "choices": groups | dict(choices or {}),
        "monitor": {"name": "val/accuracy", "mode": "max"},
        "seed": seed,
        "started": 1000.0 + seed,
        "segments": [{"started": 1000.0, "ended": 1002.0}],
        "device": "cpu",
        "host": "here",
        "experiment": "train",
        "packages": {"torch": "2.14"},
    }
    results = {f"{split}/{key}": value for split in ("val", "test") for key, value in (scores or {}).items()}
    status: dict[str, Any] = {"state": state} | ({"error": "loss is nan"} if state != "done" else {})
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "status.json").write_text(json.dumps(status))
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    if scores is not None:
        (directory / "results.json").write_text(json.dumps(results))
    lines = [
        {"step": 10 * step, "val/accuracy": (scores or {}).get("accuracy", 0.1) * step / curve}
        for step in range(1, curve + 1)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory
