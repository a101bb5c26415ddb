"""Where a run comes from: what it was asked for, with what, on what, left in its directory before it trains."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lab.config.asked import Asked
from lab.config.identity import Identity
from lab.config.redact import redacted, redacted_text
from lab.names import key_and_value
from lab.record.files import read_json, write_json
from lab.record.manifest import surroundings

if TYPE_CHECKING:
    from lab.run import Run

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text, ten times as fast, where libyaml is


def hparams(asked: Asked) -> dict[str, Any]:
    """The run's row in a table of runs: the options chosen, and what was overridden."""
    shown = ("model", "data", "augment", "optimizer", "schedule", "finetune_strategy", "regularize")
    chosen = {group: asked.choices[group] for group in shown if asked.choices.get(group) is not None}
    return chosen | {"seed": asked.config["seed"]} | redacted(overridden(asked))


def overridden(asked: Asked) -> dict[str, Any]:
    """The values that single keys were overridden with, resolved."""
    found = {}
    for override in asked.overrides:
        key, _ = key_and_value(override)
        value: Any = asked.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, Mapping):
            found[key] = value
    return found


def write_asked(asked: Asked, directory: Path) -> None:
    """config.yaml, resolved and without secrets, and .hydra/ as Hydra writes it."""
    dump = partial(yaml.dump, Dumper=DUMPER, sort_keys=False, allow_unicode=True)
    (directory / "config.yaml").write_text(dump(redacted(asked.config)))
    folder = directory / ".hydra"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(dump(redacted(asked.source)))
    (folder / "hydra.yaml").write_text(redacted_text(dump(redacted({"hydra": asked.hydra}))))
    (folder / "overrides.yaml").write_text(dump([redacted_text(override) for override in asked.overrides]))


def manifest(
    run: "Run",
    asked: Asked,
    identity: Identity,
    directory: Path,
    started: float,
    around: Mapping[str, Any] | None,
) -> dict[str, Any]:
    from lab.finetune.groups import described
    from lab.streams import NAMES, stream

    found = dict(around or surroundings())
    found["command"] = list(map(redacted_text, found["command"]))
    if found["git"]:
        found["git"] = {**found["git"], "diff": redacted_text(found["git"]["diff"])}
    before = read_json(directory / "manifest.json", {})
    total = sum(p.numel() for p in run.model.parameters())
    segment, exactness = next_segment(run, started, found, before.get("segments", []))
    data = str(asked.config["data"].get("folder", ""))
    return {
        "id": identity.id,
        "config": identity.config,
        "code": identity.code,
        "data": identity.files.get(data),
        "files": identity.files,
        "experiment": asked.experiment,
        "overrides": [redacted_text(override) for override in asked.overrides],
        "choices": {group: option for group, option in asked.choices.items() if not group.startswith("hydra/")},
        "seed": run.seed,
        "seeds": {name: stream(run.seed, name) for name in NAMES},
        "parameters": total,
        "trainable": sum(p.numel() for p in run.trainable),
        "groups": described(run.optimizer.param_groups, total),
        "weights": asdict(loaded) if (loaded := vars(run.model).get("loaded")) else None,
        "device": segment["device"],
        "processes": segment["processes"],
        "threads": segment["threads"],
        "started": before.get("started", started),
        "segments": [*before.get("segments", []), segment],
        **inexact(before, exactness),
        **redacted(found),
    }


def next_segment(
    run: "Run", started: float, around: Mapping[str, Any], before: list[dict[str, Any]]
) -> tuple[dict[str, Any], str | None]:
    """The facts of this process that decide about the last bits, and what of them keeps a run that an earlier one
    began from ending in the same bits."""
    import torch

    from lab.parallel import world

    facts = {
        "host": around["host"],
        "device": named(run.hardware.device),
        "processes": world(),
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
    if before and world() > 2:  # of two, whichever comes first, the sum is the same
        said.append(f"resumed with {world()} processes, whose gradients add up in another order in a first step")
    return {"started": started, **facts}, "; ".join(said) or None


def named(device: str) -> str:
    """The device with its model, where torch tells."""
    import torch

    return f"{device} {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else device


def inexact(before: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    """`exact`, whether the run ends in the bits of an unbroken one, and `inexact` with the reasons why not."""
    reasons = [*before.get("inexact", []), *([reason] if reason else [])]
    return {"exact": not reasons, "inexact": reasons}


def not_exact(directory: Path, reason: str) -> None:
    found = read_json(directory / "manifest.json")
    write_json(directory / "manifest.json", {**found, **inexact(found, reason)})


def end_segment(directory: Path) -> None:
    found = read_json(directory / "manifest.json")
    found["segments"][-1]["ended"] = time.time()
    write_json(directory / "manifest.json", found)
