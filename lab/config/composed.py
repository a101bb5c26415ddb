"""The composed config of one run, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.config.hydra_setup import plain_config
from lab.record.files import slugify


@dataclass(frozen=True)
class ComposedConfig:
    """What a run was asked for with.

    config: resolved, as plain values.  source: its YAML before interpolations were resolved.  hydra: Hydra's own node
    as YAML.  overrides: of the command line.  choices: the option chosen of each group.
    """

    config: Mapping[str, Any]
    source: Mapping[str, Any]
    hydra: Mapping[str, Any]
    overrides: Sequence[str]
    choices: Mapping[str, Any]

    @property
    def experiment(self) -> str:
        """The chosen experiment, `<study>/<name>`, or `train` where there is none."""
        chosen = self.choices.get("experiment")
        return "/".join(slugify(part) for part in chosen.split("/")) if chosen else "train"


def compose_config(config: DictConfig, hydra: Any) -> ComposedConfig:
    """config: a job's, without Hydra's node.  hydra: that node. Raises ConfigError for what cannot be resolved."""
    return ComposedConfig(
        config=plain_config(config),
        source=unresolved_container(config),
        hydra=unresolved_container(hydra),
        overrides=unresolved_container(hydra.overrides.task),
        choices=dict(hydra.runtime.choices),
    )


def unresolved_container(config: Any) -> Any:
    """Plain values, interpolations left as they are, as YAML can hold them."""
    return OmegaConf.to_container(config, resolve=False, enum_to_str=True)


def without_hydra_node(root: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
