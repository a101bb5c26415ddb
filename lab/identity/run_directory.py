"""What a run was asked for with, as plain values, and what its directory is called."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lab.config.composed import ComposedConfig
from lab.config.overrides import split_override
from lab.config.redact import names_secret
from lab.errors import ConfigError
from lab.identity.identity import is_bookkeeping
from lab.record.files import slugify
from lab.record.status import is_done

RUN_NAME = re.compile(r"-[0-9a-f]{8}$")
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)
AGAIN_NAME = re.compile(r"-again\d+-[0-9a-f]{8}$")


def runs_folder(asked: ComposedConfig) -> Path:
    outputs = asked.config["paths"]["outputs"]
    if not isinstance(outputs, str) or not outputs:
        raise ConfigError(f"paths.outputs={outputs!r} is no folder; give paths.outputs=... or LAB_OUTPUTS=...")
    return Path(outputs) / "runs"


def run_directory(asked: ComposedConfig, identity: str, there: Mapping[str, Path]) -> Path:
    """`<outputs>/runs/<experiment>/<slug>-<id8>`, or where a run of this identity already lies; with again=true the
    next one that is not done.

    identity: 8 characters.  there: as `directories` gives it.
    """
    base = runs_folder(asked) / asked.experiment / run_slug(asked)
    directory = base.with_name(f"{base.name}-{identity}")
    if not asked.config.get("again"):
        return there.get(identity, directory)
    again = 1
    while is_done(directory):
        again += 1
        directory = base.with_name(f"{base.name}-again{again}-{identity}")
    return directory


def runs_by_id(runs: Path) -> dict[str, Path]:
    """The run directories below `runs` by their identity, whatever they were asked for with; those of again=true are
    left out."""
    found: dict[str, Path] = {}
    try:
        folders = sorted((entry for entry in os.scandir(runs) if entry.is_dir()), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in folders:
        if not RUN_NAME.search(entry.name):
            found |= runs_by_id(Path(entry.path))
        elif not AGAIN_NAME.search(entry.name):
            found.setdefault(entry.name[-8:], Path(entry.path))
    return found


def run_slug(asked: ComposedConfig) -> str:
    """What makes this run another than its neighbours: data and model, then what was overridden, by its last name."""
    choices = asked.choices
    named = ("experiment",) if choices.get("experiment") else ("data", "model")
    given = {split_override(override)[0]: override for override in asked.overrides}
    named += tuple(key for key in given if is_secret(given[key]) or is_bookkeeping(key))
    parts = [] if choices.get("experiment") else [str(choices.get("data")), str(choices.get("model"))]
    parts += [short_override(override) for key, override in given.items() if key not in named]
    return slugify("_".join(parts)) or "default"


def is_secret(override: str) -> bool:
    key, value = split_override(override)
    return names_secret(key.rpartition(".")[2], float(value) if NUMBER.fullmatch(value) else value)


def short_override(override: str) -> str:
    """`lr=0.1` for optimizer.lr=0.1, `no_lr` for ~optimizer.lr."""
    key, value = split_override(override)
    name = key.rpartition(".")[2]
    return f"no_{name}" if override.startswith("~") else f"{name}={value}"
