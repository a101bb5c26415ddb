"""Overrides applied to a composed config, without composing it again."""

import copy
from collections.abc import Sequence
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lab.config.groups import GROUPS
from lab.config.hydra_setup import register_with_hydra
from lab.config.messages import explain
from lab.config.overrides import hydra_parser
from lab.errors import ConfigError
from lab.ledger.diff import flatten_config
from lab.text import suggest


def override_config(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the config with Hydra overrides of single keys and of whole groups applied.

    Raises ConfigError for a key that the config does not have.
    """
    changed = copy.deepcopy(config)
    register_with_hydra()
    try:
        with initialize_config_module("lab.conf", version_base="1.3"):
            for override in hydra_parser().parse_overrides(list(overrides)):
                key, value = override.key_or_group, override.value()
                if key in GROUPS and isinstance(value, str):
                    option = compose(f"{key}/{value}")
                    merged = OmegaConf.to_container(OmegaConf.merge(changed, {key: None}, option), resolve=True)
                    changed[key] = cast(dict[str, Any], merged)[key]
                elif key in (known := flatten_config(changed)):
                    assign_path(changed, key.split("."), value)
                else:
                    raise ConfigError(f"no key {key!r}; {suggest(key, known)}")
    except HydraException as error:
        raise ConfigError(explain(error, list(overrides))) from error
    return changed


def assign_path(config: dict[str, Any], path: list[str], value: Any) -> None:
    """Set the value at a path of keys, in place."""
    for part in path[:-1]:
        config = config[part]
    config[path[-1]] = value
