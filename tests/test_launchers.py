"""Hydra's other launchers: the plan is lab's, the processes are theirs."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from lab.hydra_app import launchers
from lab.record.files import read_json
from lab.sweep.pool import available_cores
from tests.processes import TIMEOUT, start_lab
from tests.project import wait_for

APPS = Path(__file__).parent / "apps"
MLP = ("model=mlp", "steps=20", "optimizer=sgd")


@pytest.fixture
def mishaps(tmp_path) -> Path:
    """A copy of the project whose runs meet with mishaps."""
    return Path(shutil.copytree(APPS / "mishaps", tmp_path / "mishaps"))


def start_sweep(project: Path, *arguments: str) -> subprocess.Popen[str]:
    sweep = ("train", "-m", "experiment=mishaps/short", *arguments)
    return start_lab(*sweep, cwd=project, stderr=subprocess.STDOUT)


def runs(project: Path) -> dict[str, Path]:
    """The runs of a project by what befalls them."""
    statuses = project.glob("outputs/runs/**/status.json")
    return {re.findall(r"mishap=([a-z]+)", status.parent.name)[0]: status.parent for status in statuses}


def states(project: Path) -> Counter[str]:
    return Counter(read_json(path)["state"] for path in project.glob("outputs/runs/**/status.json"))


def linked(project: Path) -> set[Path]:
    """The runs that the one sweep points to."""
    (plan,) = project.glob("outputs/sweeps/*/plan.jsonl")
    return {link.resolve() for link in plan.parent.iterdir() if link.is_symlink()}


def others_are_done(project: Path, *launcher: str) -> None:
    """Of four runs two are killed by themselves, and the project's configs break while the sweep is under way."""
    first = start_sweep(project, "data.mishap=kill,none", "seed=1,2", "data.pause=0.05", *launcher)
    wait_for(lambda: list(project.glob("outputs/runs/**/status.json")) or first.poll() is not None)
    option = project / "conf" / "model" / "dropout.yaml"
    kept = option.read_text()
    option.unlink()
    output, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 1, output
    assert states(project) == {"done": 2, "failed": 2}, output
    assert linked(project) == {path.parent for path in project.glob("outputs/runs/**/status.json")}
    option.write_text(kept)

    again = start_sweep(project, "data.mishap=none", "seed=1,2", "data.pause=0.05", *launcher)
    output, _ = again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0, output
    assert "2 done" in output
    assert "aunching" not in output


@pytest.mark.slow
def test_with_joblib_a_killed_run_takes_no_other_along_and_what_is_done_is_not_launched(mishaps):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'lab[joblib]'")
    others_are_done(mishaps, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
def test_with_submitit_a_run_whose_time_ends_goes_on_where_it_was_and_failures_stay_their_own(mishaps):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lab[submitit]'")
    sweep = ("data.mishap=kill,none", "data.pause=0.1", "hydra/launcher=submitit_local")
    first = start_sweep(mishaps, *sweep)
    wait_for(lambda: "none" in runs(mishaps) or first.poll() is not None)
    wait_for(lambda: list(runs(mishaps)["none"].glob("checkpoints/*.pt")))
    # as SLURM does some time before it ends a job
    os.kill(submitit_process(read_json(runs(mishaps)["none"] / "status.json")["pid"]), signal.SIGUSR2)
    output, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 1, output
    ended_states = {mishap: read_json(run / "status.json")["state"] for mishap, run in runs(mishaps).items()}
    assert ended_states == {"kill": "failed", "none": "done"}
    assert linked(mishaps) == set(runs(mishaps).values())
    manifest = read_json(runs(mishaps)["none"] / "manifest.json")
    assert len(manifest["segments"]) == 2
    assert manifest["threads"] == max(1, available_cores() // 2)  # its share of those that both have together
    steps = [json.loads(line).get("step") for line in (runs(mishaps)["none"] / "metrics.jsonl").open()]
    assert max(steps) == 20


def submitit_process(pid: int) -> int:
    """The process of submitit that is an ancestor of `pid`."""
    while "submitit.core._submit" not in Path(f"/proc/{pid}/cmdline").read_text():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert pid > 1, "no process of submitit above the run"
    return pid


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'lab[ray]'")
def test_with_ray_a_killed_run_takes_no_other_along_and_what_is_done_is_not_launched(mishaps):
    others_are_done(mishaps, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")


def test_slurm_is_asked_for_in_its_own_words_and_says_where_it_is_not(lab, tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lab[submitit]'")
    monkeypatch.setattr(launchers, "QUIET_SECONDS", 0)
    slurm = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=240")
    shown = lab("train", "--cfg", "hydra", "-p", "hydra.launcher", *slurm)
    assert "partition: gpu" in shown.out
    assert "timeout_min: 240" in shown.out
    assert "2 new" in lab("plan", *MLP, "seed=1,2", *slurm).out
    if shutil.which("srun"):
        pytest.skip("this machine has SLURM; the sweep would be queued")
    ended = lab("train", "-m", *MLP, "seed=1,2", *slurm)
    assert ended.code == 1
    assert "SlurmLauncher gave up" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "2 pending" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lab", "basic"])
def test_hydras_own_sweeper_does_all_runs_though_one_fails(lab, tmp_path, launcher):
    basic = ("hydra/sweeper=basic", f"hydra/launcher={launcher}", "hydra.sweeper.max_batch_size=2")
    ended = lab("train", "-m", *MLP, "optimizer.lr=1e30,0.1,0.05", *basic)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert states(tmp_path) == {"done": 2, "diverged": 1}
    assert lab("train", "-m", *MLP, "optimizer.lr=0.1,0.05", *basic).code == 0
    assert states(tmp_path) == {"done": 2, "diverged": 1}
