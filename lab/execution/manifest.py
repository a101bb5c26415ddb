"""Where a run comes from: what it was asked for, with what, on what, left in its directory before it trains."""

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
from lab.config.redact import redact, redact_text
from lab.identity.identity import Identity
from lab.record.environment import describe_environment
from lab.record.files import read_json, write_json

if TYPE_CHECKING:
    from lab.run import Run

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, ten times as fast, where libyaml is


def hparams_row(asked: ComposedConfig) -> dict[str, Any]:
    """The run's row in a table of runs: the options chosen, and what was overridden."""
    shown = [name for name, group in GROUPS.items() if group.in_hparams]
    chosen = {name: asked.choices[name] for name in shown if asked.choices.get(name) is not None}
    return chosen | {"seed": asked.config["seed"]} | redact(overridden_values(asked))


def overridden_values(asked: ComposedConfig) -> dict[str, Any]:
    """The values that single keys were overridden with, resolved."""
    found = {}
    for override in asked.overrides:
        key, _ = split_override(override)
        value: Any = asked.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            found[key] = value
    return found


def write_config(asked: ComposedConfig, directory: Path) -> None:
    """config.yaml, resolved and without secrets, and .hydra/ as Hydra writes it."""
    dump = partial(yaml.dump, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    (directory / "config.yaml").write_text(dump(redact(asked.config)))
    folder = directory / ".hydra"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(dump(redact(asked.source)))
    (folder / "hydra.yaml").write_text(redact_text(dump(redact({"hydra": asked.hydra}))))
    (folder / "overrides.yaml").write_text(dump([redact_text(override) for override in asked.overrides]))


def build_manifest(
    run: "Run",
    asked: ComposedConfig,
    identity: Identity,
    directory: Path,
    started: float,
    around: Mapping[str, Any] | None,
) -> dict[str, Any]:
    from lab.finetune.groups import group_rows
    from lab.seeding import STREAMS, stream_seed

    found = dict(around or describe_environment())
    found["command"] = list(map(redact_text, found["command"]))
    if found["git"]:
        found["git"] = {**found["git"], "diff": redact_text(found["git"]["diff"])}
    before = read_json(directory / "manifest.json", {})
    total = sum(p.numel() for p in run.model.parameters())
    segment, reason = next_segment(run, started, found, before.get("segments", []))
    data = str(asked.config["data"].get("folder", ""))
    return {
        "id": identity.id,
        "config": identity.config,
        "code": identity.code,
        "data": identity.files.get(data),
        "files": identity.files,
        "experiment": asked.experiment,
        "overrides": [redact_text(override) for override in asked.overrides],
        "choices": {group: option for group, option in asked.choices.items() if not group.startswith("hydra/")},
        "seed": run.seed,
        "seeds": {name: stream_seed(run.seed, name) for name in STREAMS},
        "parameters": total,
        "trainable": sum(p.numel() for p in run.trainable),
        "groups": group_rows(run.optimizer.param_groups, total),
        "weights": asdict(loaded) if (loaded := vars(run.model).get("loaded")) else None,
        "device": segment["device"],
        "processes": segment["processes"],
        "threads": segment["threads"],
        "started": before.get("started", started),
        "segments": [*before.get("segments", []), segment],
        **exactness(before, reason),
        **redact(found),
    }


def next_segment(
    run: "Run", started: float, around: Mapping[str, Any], before: list[dict[str, Any]]
) -> tuple[dict[str, Any], str | None]:
    """The facts of this process that decide about the last bits, and what of them keeps a run that an earlier one
    began from ending in the same bits."""
    import torch

    from lab.distributed.collectives import get_world_size

    facts = {
        "host": around["host"],
        "device": device_name(run.hardware.device),
        "processes": get_world_size(),
        "threads": torch.get_num_threads(),
        "torch": around["packages"].get("torch"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    said = [
        f"{name} {before[-1].get(name)} then {facts[name]}"
        for name in ("device", "processes", "threads", "torch", "cpu")
        if before and before[-1].get(name) != facts[name]
    ]
    if before and run.hardware.device != "cpu" and not run.hardware.deterministic:
        said.append(f"resumed on {run.hardware.device} without hardware.deterministic=true")
    if before and get_world_size() > 2:  # of two, whichever comes first, the sum is the same
        said.append(
            f"resumed with {get_world_size()} processes, whose gradients add up in another order in a first step"
        )
    return {"started": started, **facts}, "; ".join(said) or None


def device_name(device: str) -> str:
    """The device with its model, where torch tells."""
    import torch

    return f"{device} {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


def exactness(before: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    """`exact`, whether the run ends in the bits of an unbroken one, and `inexact` with the reasons why not."""
    reasons = [*before.get("inexact", []), *([reason] if reason else [])]
    return {"exact": not reasons, "inexact": reasons}


def mark_inexact(directory: Path, reason: str) -> None:
    found = read_json(directory / "manifest.json")
    write_json(directory / "manifest.json", {**found, **exactness(found, reason)})


def end_segment(directory: Path) -> None:
    found = read_json(directory / "manifest.json")
    found["segments"][-1]["ended"] = time.time()
    write_json(directory / "manifest.json", found)
