"""Where Hydra is told that a run lies: the resolvers `lab.run_dir` and `lab.job_dir`."""

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from lab.config.composed import ComposedConfig, without_hydra_node
from lab.config.hydra_setup import plain_config
from lab.identity.identity import Identifier
from lab.identity.run_directory import run_directory, runs_by_id, runs_folder


def directory_resolvers(identify: Identifier) -> dict[str, Callable[..., str]]:
    """The resolvers that give hydra.run.dir and hydra.sweep.subdir."""

    def run_dir(root: DictConfig) -> Path:
        asked = ComposedConfig.from_hydra(without_hydra_node(root), root.hydra)
        return run_directory(asked, identify(asked.config).id, runs_by_id(runs_folder(asked)))

    def job_dir(root: DictConfig) -> Path:
        """Where a single run would be, unless hydra.sweep.dir was moved; then `<n>-<id8>` inside it."""
        if is_in_outputs(root):
            return run_dir(root).resolve()  # joining an absolute path to the sweep's gives that path
        return Path(f"{root.hydra.job.num}-{identify(plain_config(root)).id}")

    return {
        "lab.run_dir": lambda *, _root_: str(run_dir(_root_)),
        "lab.job_dir": lambda *, _root_: str(job_dir(_root_)),
    }


def is_in_outputs(root: DictConfig) -> bool:
    """Whether a sweep's directory is where lab puts it."""
    return Path(root.hydra.sweep.dir).is_relative_to(Path(root.paths.outputs) / "sweeps")
