"""The origin of a run: its config, code, data and environment, written before it trains."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lab.config.composed import ComposedConfig
from lab.config.groups import GROUPS
from lab.config.overrides import split_override
from lab.identity.identity import Identity
from lab.ledger.diff import value_at
from lab.ledger.saved_run import SavedRun
from lab.record.environment import describe_environment
from lab.record.files import make_folder, write_new
from lab.redact import redact, redact_text

if TYPE_CHECKING:
    from lab.metrics.scores import ResolvedMonitor
    from lab.run import Run

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # with libyaml: the same text, ten times as fast


def hparams_row(composed: ComposedConfig) -> dict[str, Any]:
    """The run's row in TensorBoard's HPARAMS table: chosen options, seed and overridden values."""
    shown = [name for name, group in GROUPS.items() if group.in_hparams]
    choices = {group: composed.choices[group] for group in shown if composed.choices.get(group) is not None}
    return choices | {"seed": composed.resolved["seed"]} | redact(overridden_values(composed))


def overridden_values(composed: ComposedConfig) -> dict[str, Any]:
    """The resolved values of the single keys that were overridden, by key."""
    values = {}
    for override in composed.overrides:
        key, _ = split_override(override)
        value = value_at(composed.resolved, key)
        if value is not None and not isinstance(value, Mapping):
            values[key] = value
    return values


def write_config(composed: ComposedConfig, directory: Path) -> None:
    """Write config.yaml, the resolved config, and .hydra/ as Hydra does, all without secrets."""
    dump = partial(yaml.dump, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    make_folder(directory / ".hydra")
    for name, text in {
        "config.yaml": dump(redact(composed.resolved)),
        ".hydra/config.yaml": dump(redact(composed.unresolved)),
        ".hydra/hydra.yaml": redact_text(dump(redact({"hydra": composed.hydra}))),
        ".hydra/overrides.yaml": dump([redact_text(override) for override in composed.overrides]),
    }.items():
        write_new(directory / name, text)


def build_manifest(
    run: "Run",
    monitor: "ResolvedMonitor | None",
    composed: ComposedConfig,
    identity: Identity,
    directory: Path,
    environment: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of manifest.json, for a run that starts or continues in `directory`.

    monitor: the score that chooses the best weights; None without a validation set.  environment: as
    `describe_environment` gives it; None: this process's.
    """
    from lab.record.run_facts import SCHEMAS, describe_run, describe_segments

    facts = redact_environment(environment or describe_environment())
    earlier = SavedRun(directory).manifest
    data = str(composed.resolved["data"].get("folder", ""))
    return {
        "schema": SCHEMAS["manifest.json"],
        "schemas": SCHEMAS,
        "id": identity.id,
        "recipe": identity.recipe_id,
        "config": identity.config,
        "recipe_config": identity.recipe,
        "code": identity.code,
        "data": identity.files.get(data),
        "files": identity.files,
        "experiment": composed.experiment,
        "overrides": [redact_text(override) for override in composed.overrides],
        "choices": {group: option for group, option in composed.choices.items() if not group.startswith("hydra/")},
        "monitor": asdict(monitor) if monitor else None,
        **describe_run(run),
        **describe_segments(run, earlier, facts, time.time()),
        **facts,
    }


def redact_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The environment without secrets in the command, the diff or elsewhere."""
    facts = {**environment, "command": list(map(redact_text, environment["command"]))}
    if facts["git"]:
        facts["git"] = {**facts["git"], "diff": redact_text(facts["git"]["diff"])}
    return redact(facts)
