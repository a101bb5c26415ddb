"""The composed config of one run, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.config.hydra_setup import plain_config
from lab.record.files import slugify


@dataclass(frozen=True)
class ComposedConfig:
    """A run's config, with the overrides and choices that Hydra composed it from.

    resolved: the config as plain values.
    unresolved: the same before interpolations were resolved.
    hydra: Hydra's own node, unresolved.
    overrides: overrides of the command line or of the sweep's job.
    choices: the option chosen of each group.
    """

    resolved: Mapping[str, Any]
    unresolved: Mapping[str, Any]
    hydra: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, Any]

    @classmethod
    def from_hydra(cls, config: DictConfig, hydra: Any) -> "ComposedConfig":
        """Made of a config that Hydra composed. Raises ConfigError for an interpolation that cannot be resolved.

        config: a job's config without Hydra's own node.  hydra: Hydra's own node.
        """
        return cls(
            resolved=plain_config(config),
            unresolved=unresolved_container(config),
            hydra=unresolved_container(hydra),
            overrides=unresolved_container(hydra.overrides.task),
            choices=dict(hydra.runtime.choices),
        )

    @property
    def experiment(self) -> str:
        """The chosen experiment, `<study>/<name>`; where none was chosen the name of the primary config, `train` unless
        -cn gives another."""
        chosen = self.choices.get("experiment") or (self.hydra.get("job") or {}).get("config_name")
        return "/".join(slugify(part) for part in str(chosen).split("/")) if chosen else "train"


def once_per_object(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """The function, called once for each object, many of which the configs of a sweep's jobs share."""
    known: dict[int, tuple[Any, str]] = {}

    def find(value: Any) -> str:
        if id(value) not in known:
            known[id(value)] = (value, function(value))  # with the object, so that no other one gets its id
        return known[id(value)][1]

    return find


def unresolved_container(config: Any) -> Any:
    """The config as plain values that YAML can hold, with interpolations unresolved."""
    return OmegaConf.to_container(config, resolve=False, enum_to_str=True)
