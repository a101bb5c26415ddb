"""What the tests share: real data where it is, and the command line, in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    for place in (os.environ.get("LAB_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if place and (Path(place) / "cifar10" / "train.parquet").exists():
            return Path(place).resolve()
    pytest.skip("no real data: set LAB_DATA to a folder that has cifar10/train.parquet")


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys) -> Callable[..., Ended]:
    """The command line, in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
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
    """The command line, as a process of its own."""

    def call(*arguments: str, cwd: Path = tmp_path, **env: str) -> Ended:
        command = [sys.executable, "-m", "lab", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=240, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


def scores(results: dict[str, float]) -> dict[str, float]:
    """A run's results without what its steps cost on this machine, which no two runs share."""
    return {name: value for name, value in results.items() if not name.startswith("hardware/")}


def only_run(root: Path) -> Path:
    """The one run directory below `root`/outputs/runs."""
    (found,) = {path.parent for path in root.glob("outputs/runs/**/status.json")}
    return found
