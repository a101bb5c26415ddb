"""What Hydra does around a job, done by the workers of a sweep: environment, directory, logging and callbacks."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from omegaconf import DictConfig, OmegaConf, read_write

from lab.config.composed import ComposedConfig


@contextmanager
def hydra_job(composed: ComposedConfig, directory: Path, nodes: "HydraNodes") -> Iterator[Callable[[str | None], None]]:
    """The surroundings that Hydra gives to a job, as for a single run: `hydra.job.env_set`, `hydra.job.chdir`, the
    logging of `hydra.job_logging` and `hydra.verbose`, HydraConfig, and job callbacks.

    nodes: Hydra's nodes of the jobs before it.
    Gives a function that takes the run's error, None for a run that is done; the callbacks are told of it at the end.
    """
    config = config_of_job = nodes(composed, directory)
    callbacks = Callbacks(config)
    if callbacks.callbacks:  # else nobody is given it, and merging takes 10 ms
        merged = OmegaConf.merge(OmegaConf.create(dict(composed.unresolved)), config)
        assert isinstance(merged, DictConfig)
        config_of_job = merged
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
    """HydraConfig and the environment variables of a job.  config: Hydra's own node, as `HydraNodes` gives it."""
    HydraConfig.instance().cfg = config  # pyright: ignore[reportAttributeAccessIssue]  # plain values do
    variables = config.hydra.job.get("env_set") or {}
    with env_override({str(name): str(value) for name, value in variables.items()}):
        yield


class HydraNodes:
    """Configs with nothing but Hydra's own node, of many jobs, one after another: jobs that differ in their overrides
    and directories alone share a node, in which each puts its own. The nodes are read-only, as in Hydra."""

    def __init__(self) -> None:
        self.nodes: dict[str, DictConfig] = {}
        self.latest: tuple[Any, DictConfig] | None = None

    def __call__(self, composed: ComposedConfig, directory: Path | None = None) -> DictConfig:
        """The node of a job.  directory: the job's."""
        if self.latest is None or self.latest[0] is not composed.hydra:  # jobs that were composed together share it
            self.latest = (composed.hydra, self.find(composed.hydra))
        node = self.latest[1]
        if directory is not None:
            with read_write(node):
                node.hydra.runtime.output_dir = str(directory)
        return node

    def find(self, hydra: Mapping[str, Any]) -> DictConfig:
        key = json.dumps({name: value for name, value in hydra.items() if name != "overrides"}, default=str)
        if key not in self.nodes:
            self.nodes[key] = OmegaConf.create({"hydra": dict(hydra)})
            OmegaConf.set_readonly(self.nodes[key], True)
        with read_write(self.nodes[key]):
            self.nodes[key].hydra.overrides = hydra["overrides"]
        return self.nodes[key]


def unknown_task(_: DictConfig) -> Any:
    """Stands for Hydra's task function, which callbacks are given; the run itself is started by the worker."""
    raise RuntimeError("a sweep's run is started by its worker, not by a callback")
