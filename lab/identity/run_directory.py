"""The directory of a run: `<outputs>/runs/<experiment>/<slug>-<id8>`."""

import re
from collections.abc import Mapping
from pathlib import Path

from lab.config.composed import ComposedConfig
from lab.config.overrides import split_override
from lab.errors import ConfigError
from lab.identity.identity import is_bookkeeping
from lab.record.files import slugify
from lab.record.status import is_done
from lab.redact import names_secret, redact_values

NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)


def outputs_of(composed: ComposedConfig) -> Path:
    """The outputs folder of a config. Raises ConfigError where `paths.outputs` names none."""
    outputs = composed.resolved["paths"]["outputs"]
    if not isinstance(outputs, str) or not outputs:
        raise ConfigError(f"paths.outputs={outputs!r} is no folder; give paths.outputs=... or LAB_OUTPUTS=...")
    return Path(outputs)


def runs_folder(composed: ComposedConfig) -> Path:
    return outputs_of(composed) / "runs"


def run_directory(composed: ComposedConfig, identity: str, existing: Mapping[str, Path]) -> Path:
    """The directory of the existing run with this id, else `<outputs>/runs/<experiment>/<slug>-<id8>`. With again=true,
    the first of the latter and `<slug>-again2-<id8>`, `<slug>-again3-<id8>`, ... that does not hold a finished run.

    identity: the 8 characters of the id.  existing: existing runs, as `lab.ledger.listing.runs_by_id` gives them.
    """
    base = runs_folder(composed) / composed.experiment / run_slug(composed)
    directory = base.with_name(f"{base.name}-{identity}")
    if not composed.resolved.get("again"):
        return existing.get(identity, directory)
    number = 1
    while is_done(directory):
        number += 1
        directory = base.with_name(f"{base.name}-again{number}-{identity}")
    return directory


def run_slug(composed: ComposedConfig) -> str:
    """Data, model and overrides as a file name, such as `digits_mlp_lr=0.1`. A run of an experiment starts with the
    overrides; secrets and bookkeeping keys are left out."""
    choices = composed.choices
    overrides = {split_override(override)[0]: override for override in composed.overrides}
    left_out = {"experiment"} if choices.get("experiment") else {"data", "model"}
    left_out |= {key for key, override in overrides.items() if is_secret(override) or is_bookkeeping(key)}
    parts = [] if choices.get("experiment") else [str(choices.get("data")), str(choices.get("model"))]
    parts += [short_override(override) for key, override in overrides.items() if key not in left_out]
    return slugify("_".join(parts)) or "default"


def is_secret(override: str) -> bool:
    """Whether an override sets a secret, such as a token."""
    key, value = split_override(override)
    return redact_values(override) != override or names_secret(
        key.rpartition(".")[2], float(value) if NUMBER.fullmatch(value) else value
    )


def short_override(override: str) -> str:
    """`lr=0.1` for optimizer.lr=0.1, `no_lr` for ~optimizer.lr."""
    key, value = split_override(override)
    name = key.rpartition(".")[2]
    return f"no_{name}" if override.startswith("~") else f"{name}={value}"
