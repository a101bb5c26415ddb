"""Sweeps in the queue of a SLURM cluster, which runs on this machine."""

from collections.abc import Iterator

import pytest

from tests import slurm
from tests.processes import TIMEOUT
from tests.project import SHORT, last_step, read, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not slurm.is_installed(),
        reason="no SLURM: as root, apt-get install --no-install-recommends slurmctld slurmd slurm-client munge",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[slurm.Slurm]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lab[submitit]'")
    cluster = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def sweep(partition: str) -> tuple[str, ...]:
    options = ("cpus_per_task=1", "mem_gb=null", "timeout_min=30", f"partition={partition}")
    launcher = ("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{option}" for option in options))
    return ("train", "-m", SHORT, "data.pause=0.2", *launcher)


@pytest.mark.parametrize("partition", ["low", "spot"])
def test_preempted_runs_save_are_requeued_and_end_done_and_exact_before_the_command_does(cluster, project, partition):
    process = project.start(*sweep(partition), "seed=0,1", **cluster.environment)
    project.await_steps(3, runs=2)
    cluster.call("sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 1")

    def has_ended() -> bool:
        cluster.skip_delays()
        return process.poll() is not None

    wait_for(has_ended, TIMEOUT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    assert "2 done" in out
    assert "sacct" not in out + err
    manifests = [read(run / "manifest.json") for run in project.runs()]
    assert [manifest["exact"] for manifest in manifests] == [True] * 2
    assert [len(manifest["segments"]) for manifest in manifests] == [2, 2]
    assert [manifest["threads"] for manifest in manifests] == [1, 1]  # cpus_per_task, though the machine has more


def test_a_cancelled_job_leaves_its_run_to_be_resumed_and_the_other_goes_on(cluster, project):
    process = project.start(*sweep("low"), "seed=0,1", **cluster.environment)
    run = project.await_steps(3, runs=2)[0]
    number = {read(run / "manifest.json")["seed"]: run for run in project.runs()}
    seed = next(seed for seed, directory in number.items() if directory == run)
    (job,) = [job for job in cluster.queue() if job.endswith(f"_{seed}")]
    cluster.call("scancel", job)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode in (1, 75), err
    assert "1 done" in out
    assert "1 interrupted" in out
    assert last_step(run) < 20
    again = project.lab(*sweep("low"), "seed=0,1", **cluster.environment)
    assert again.code == 0, again.err
    assert "2 done" in again.out
    assert read(run / "manifest.json")["exact"]
