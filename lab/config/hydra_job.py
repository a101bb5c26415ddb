"""What Hydra does around a job, done by the workers of a sweep: environment, directory, logging and callbacks."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from omegaconf import DictConfig, OmegaConf

from lab.config.composed import ComposedConfig


@contextmanager
def hydra_job(composed: ComposedConfig, directory: Path) -> Iterator[Callable[[str | None], None]]:
    """The surroundings that Hydra gives to a job, as for a single run: `hydra.job.env_set`, `hydra.job.chdir`, the
    logging of `hydra.job_logging` and `hydra.verbose`, HydraConfig, and job callbacks.

    Gives a function that takes the run's error, None for a run that is done; the callbacks are told of it at the end.
    """
    config = hydra_node(composed, directory)
    config_of_job = OmegaConf.merge(OmegaConf.create(dict(composed.unresolved)), config)
    assert isinstance(config_of_job, DictConfig)
    callbacks = Callbacks(config)
    result = JobReturn(overrides=composed.overrides, cfg=config_of_job, hydra_cfg=config, working_dir=os.getcwd())
    result.task_name, result.status = config.hydra.job.name, JobStatus.COMPLETED

    def set_error(error: str | None) -> None:
        if error is not None:
            result.status, result._return_value = JobStatus.FAILED, RuntimeError(error)

    if config.hydra.job.get("chdir"):
        os.chdir(directory)
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    with job_environment(config):
        callbacks.on_job_start(config=config_of_job, task_function=unknown_task)
        yield set_error
    callbacks.on_job_end(config=config_of_job, job_return=result)


@contextmanager
def job_environment(config: DictConfig) -> Iterator[None]:
    """HydraConfig and the environment variables of a job.  config: Hydra's own node, as `hydra_node` gives it."""
    HydraConfig.instance().cfg = config  # pyright: ignore[reportAttributeAccessIssue]  # plain values do
    variables = config.hydra.job.get("env_set") or {}
    with env_override({str(name): str(value) for name, value in variables.items()}):
        yield


def hydra_node(composed: ComposedConfig, directory: Path | None = None) -> DictConfig:
    """A config with nothing but Hydra's own node.  directory: the job's."""
    config = OmegaConf.create({"hydra": dict(composed.hydra)})
    if directory is not None:
        config.hydra.runtime.output_dir = str(directory)
    return config


class HydraNodes:
    """`hydra_node` of many jobs, one after another: jobs that differ in their overrides alone share a node, in which
    each puts its own."""

    def __init__(self) -> None:
        self.nodes: dict[str, DictConfig] = {}

    def __call__(self, composed: ComposedConfig) -> DictConfig:
        rest = {key: value for key, value in composed.hydra.items() if key != "overrides"}
        key = json.dumps(rest, sort_keys=True, default=str)
        if key not in self.nodes:
            self.nodes[key] = hydra_node(composed)
        self.nodes[key].hydra.overrides = composed.hydra["overrides"]
        return self.nodes[key]


def unknown_task(_: DictConfig) -> Any:
    """Stands for Hydra's task function, which callbacks are given; the run itself is started by the worker."""
    raise RuntimeError("a sweep's run is started by its worker, not by a callback")
