"""From override lists to what runs are asked for, composing once for each choice of groups."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config.app import explain, plain_config
from lab.config.asked import Asked, directories, run_directory, runs_folder
from lab.config.errors import ConfigError
from lab.config.identity import Identifier


def asked_of(config: DictConfig, hydra: Any) -> Asked:
    """config: a job's, without Hydra's node.  hydra: that node. Raises ConfigError for what cannot be resolved."""
    return Asked(
        config=plain_config(config),
        source=container(config),
        hydra=container(hydra),
        overrides=list(hydra.overrides.task),
        choices=dict(hydra.runtime.choices),
    )


def container(config: Any) -> dict[str, Any]:
    """Plain values, interpolations left as they are, as YAML can hold them."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=False, enum_to_str=True))


def places(identify: Identifier) -> dict[str, Callable[..., str]]:
    """The resolvers that give hydra.run.dir and hydra.sweep.subdir."""

    def run_dir(root: DictConfig) -> Path:
        asked = asked_of(without_hydra(root), root.hydra)
        return run_directory(asked, identify(asked.config).id, directories(runs_folder(asked)))

    def job_dir(root: DictConfig) -> Path:
        """Where a single run would be, unless hydra.sweep.dir was moved; then `<n>-<id8>` inside it."""
        if in_outputs(root):
            return run_dir(root).resolve()  # joining an absolute path to the sweep's gives that path
        return Path(f"{root.hydra.job.num}-{identify(plain_config(root)).id}")

    return {
        "lab.run_dir": lambda *, _root_: str(run_dir(_root_)),
        "lab.job_dir": lambda *, _root_: str(job_dir(_root_)),
    }


def in_outputs(root: DictConfig) -> bool:
    """Whether a sweep's directory is where lab puts it."""
    return Path(root.hydra.sweep.dir).is_relative_to(Path(root.paths.outputs) / "sweeps")


def without_hydra(root: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])


class Composer:
    """Hydra's composition of a sweep's jobs at a hundredth of its time: what groups are chosen is composed once, and
    what keys are set to is put on top of a copy, by Hydra's own function.

    master: the config that Hydra composed for the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        assert isinstance(loader, ConfigLoaderImpl)
        self.loader, self.master = loader, master
        self.parse = OverridesParser.create(config_loader=loader).parse_overrides
        self.bases: dict[tuple[str, ...], Base] = {}

    def __call__(self, number: int, overrides: Sequence[str]) -> Asked:
        """Raises ConfigError where the overrides do not compose."""
        try:
            parsed = self.parse(list(overrides))
            groups = tuple(str(o.input_line) for o in parsed if self.chooses(o))
            if groups not in self.bases:
                self.bases[groups] = Base(self.loader.load_sweep_config(self.master, list(groups)))
            keys = [o for o in parsed if not self.chooses(o)]
            return self.bases[groups].with_keys(number, keys, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(explain(error, list(overrides))) from error

    def chooses(self, override: Override) -> bool:
        """Whether an override chooses an option of a group; Hydra tells so too."""
        if not self.loader.repository.group_exists(override.key_or_group):
            return False
        return not isinstance(override.value(), dict)


class Base:
    """A composed config, and the same with keys set."""

    def __init__(self, composed: DictConfig):
        self.composed = composed
        self.hydra = container(composed.hydra)
        self.choices = dict(composed.hydra.runtime.choices)
        self.config = without_hydra(composed)
        OmegaConf.set_struct(self.config, True)
        self.source = container(self.config)
        self.asks_hydra = "${hydra:" in str(self.source)
        # interpolations of Hydra's node in the config are resolved against this
        HydraConfig.instance().set_config(composed)

    def with_keys(self, number: int, keys: Sequence[Override], overrides: Sequence[str]) -> Asked:
        config = copy.deepcopy(self.config)
        ConfigLoaderImpl._apply_overrides_to_config(list(keys), config)
        if self.asks_hydra:
            self.tell_hydra(number, overrides)
        source = container(config)
        # as much as is the same is shared: a plan of thousands of jobs is held in memory
        shared = {key: self.source[key] if self.source.get(key) == value else value for key, value in source.items()}
        return Asked(plain_config(config), shared, self.hydra, overrides, self.choices)

    def tell_hydra(self, number: int, overrides: Sequence[str]) -> None:
        with_num: Any = HydraConfig.instance().cfg
        OmegaConf.update(with_num, "hydra.job.num", number, force_add=True)
        OmegaConf.update(with_num, "hydra.job.id", str(number), force_add=True)
        OmegaConf.update(with_num, "hydra.overrides.task", list(overrides))
