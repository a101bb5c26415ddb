"""What the tests share: real data where it is, and the command line, in this process or in one of its own."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# Threads of torch that wait for each other soon sleep. Without this they spin, each for milliseconds, and keep other
# tests' threads from the cores: a small run then takes 20 times as long. Those of OpenBLAS start when it is imported,
# and a process can be forked only if it has one.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # both are read when torch and NumPy are imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import torch

from tests.processes import Ended, ForkedPopen, can_fork, finish, start_lab

if TYPE_CHECKING:
    from tests.project import Project

ROOT = Path(__file__).parent.parent
FORBIDS_BYTECODE, sys.dont_write_bytecode = sys.dont_write_bytecode, False  # else each process compiles all of lab
torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
os.environ["LAB_WARM"] = "0"
if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for the whole session, which is not the user's
    os.environ["LAB_CACHE"] = tempfile.mkdtemp(prefix="lab-tests-")
    atexit.register(shutil.rmtree, os.environ["LAB_CACHE"], ignore_errors=True)
    # else torch sets it when it first compiles, and no fork of an earlier process suits a command of a later test
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(os.environ["LAB_CACHE"], "torchinductor"))
os.environ.pop("LAB_CACHE_GB", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left alone with them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: not slow[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if names & {"lab", "lab_process", "project"} and not session.config.option.collectonly:
        can_fork(os.environ)  # the warm interpreter imports while the first tests run
    sys.dont_write_bytecode = FORBIDS_BYTECODE
    gc.collect()
    gc.freeze()  # what is imported lives on: a collection during a test need not look at it


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    for place in (os.environ.get("LAB_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "cifar10" / "train.parquet").exists():
            return Path(place).resolve()
    pytest.skip("no real data: set LAB_DATA to a folder that has cifar10/train.parquet")


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys) -> Callable[..., Ended]:
    """The command line, in this process, in an empty directory; the commands that it starts are forks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen)
    for name in ("LAB_OUTPUTS", "LAB_SWEEP", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> Ended:
        from lab.cli.main import main

        monkeypatch.setattr(sys, "argv", ["lab", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        finally:
            monkeypatch.delenv("LAB_SWEEP", raising=False)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def lab_process(tmp_path) -> Callable[..., Ended]:
    """The command line, as a process of its own.  new: see `start_lab`.  Other named arguments are its environment."""

    def call(*arguments: str, cwd: Path = tmp_path, new: bool = False, **env: str) -> Ended:
        return finish(start_lab(*arguments, cwd=cwd, new=new, env=env))

    return call


@pytest.fixture
def project(tmp_path) -> Iterator["Project"]:
    """A copy of the project whose runs meet with mishaps."""
    from tests.project import Project

    project = Project(tmp_path / "project")
    yield project
    project.end()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What seeds 0, 1 and 2 of that project come to when nothing happens, in a process each."""
    from tests.project import SEEDS, Project, by_seed

    project = Project(tmp_path_factory.mktemp("unbroken") / "project")
    done = project.lab(*SEEDS, "hydra.launcher.isolation=process")
    assert done.code == 0, done.err
    return by_seed(project.runs())


def scores(results: dict[str, float]) -> dict[str, float]:
    """A run's results without what its steps cost on this machine, which no two runs share."""
    return {name: value for name, value in results.items() if not name.startswith("hardware/")}


def only_run(root: Path) -> Path:
    """The one run directory below `root`/outputs/runs."""
    (run,) = {path.parent for path in root.glob("outputs/runs/**/status.json")}
    return run
