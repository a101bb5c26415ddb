"""Composition of a config outside of Hydra's command line, as in a script or a notebook."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lab.config.composed import ComposedConfig
from lab.config.hydra_setup import register_with_hydra, without_hydra_node
from lab.config.messages import explain
from lab.errors import ConfigError


def compose_overrides(overrides: Sequence[str]) -> ComposedConfig:
    """The config that `lab train OVERRIDES` composes. Raises ConfigError for invalid overrides."""
    register_with_hydra()
    try:
        with own_hydra():
            root = compose("train", overrides=list(overrides), return_hydra_config=True)
            return ComposedConfig.from_hydra(without_hydra_node(root), root.hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, list(overrides))) from error


def compose_beforehand() -> None:
    """Compose a config, for what that leaves in this process's forks: parsers that are ready, and lab's own files.

    Hydra knows no more than before, so that each fork finds the plugins and the experiments of its own project.
    """
    made, stored = dict(Singleton._instances), copy.deepcopy(ConfigStore.instance().repo)
    with suppress(Exception):  # each command reports it
        compose_overrides(())
    Singleton._instances, ConfigStore.instance().repo = made, stored


@contextmanager
def own_hydra() -> Iterator[None]:
    """A context with Hydra set up for lab's configs; the caller's own set-up, if any, is restored afterwards."""
    callers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("lab.conf", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = callers
