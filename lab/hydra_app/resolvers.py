"""The resolvers that give Hydra its directories: hydra.run.dir, hydra.sweep.dir and hydra.sweep.subdir."""

from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lab.config.composed import ComposedConfig
from lab.config.hydra_setup import plain_config, without_hydra_node
from lab.identity.identity import Identifier
from lab.identity.run_directory import run_directory, runs_folder
from lab.ledger.listing import runs_by_id


def directory_resolvers(identify: Identifier, sweep_name: Callable[[], str]) -> dict[str, Callable[..., str]]:
    """The resolvers by name.  sweep_name: function that gives the name of the planned sweep's directory."""

    def run_dir(root: DictConfig) -> Path:
        composed = ComposedConfig.from_hydra(without_hydra_node(root), root.hydra)
        return run_directory(composed, identify(composed.resolved).id, runs_by_id(runs_folder(composed)))

    def job_dir(root: DictConfig) -> Path:
        """The directory that the job would have as a single run; where hydra.sweep.dir was moved out of the outputs,
        `<n>-<id8>` inside it."""
        if is_in_outputs(root):
            return run_dir(root).resolve()  # joining an absolute path to the sweep's gives that path
        return Path(f"{root.hydra.job.num}-{identify(plain_config(root)).id}")

    return {
        "lab.run_dir": lambda *, _root_: str(run_dir(whole_config(_root_))),
        "lab.job_dir": lambda *, _root_: str(job_dir(whole_config(_root_))),
        "lab.sweep_dir": lambda *, _root_: f"{whole_config(_root_).paths.outputs}/sweeps/{sweep_name()}",
    }


def whole_config(root: DictConfig) -> DictConfig:
    """The config with the run's own keys, also where Hydra resolves its own node alone (`--cfg hydra --resolve`)."""
    return root if "paths" in root else HydraConfig.get()._get_root()  # type: ignore[attr-defined]


def is_in_outputs(root: DictConfig) -> bool:
    """Whether the sweep's directory lies in `<outputs>/sweeps`, where lab puts it."""
    return Path(root.hydra.sweep.dir).is_relative_to(Path(root.paths.outputs) / "sweeps")
