"""A run of a sweep has around it what Hydra gives to a single run."""

import json
from pathlib import Path

import pytest

CODE = """
import logging
import math
import os

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from torch import nn

from lab.data.streamed import Streamed

log = logging.getLogger(__name__)


class Net(nn.Sequential):
    def __init__(self, shape: list[int], num_classes: int, note: str = ""):
        width = int(os.environ["WIDTH"])
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.Linear(width, num_classes))
        log.info("built as %s for %s", note, HydraConfig.get().runtime.choices.model)
        log.debug("not to be seen")

    def forward(self, inputs):
        if self.training and not hasattr(self, "has_run"):
            self.has_run = True
            log.info("first batch")
        return super().forward(inputs)


class Noise:
    def __init__(self, num: int):
        self.num, self.label = num, lambda index: index % 10

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        return torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8), self.label(index)


def noise(batch_size: int, seed: int, shape: list[int], num_classes: int) -> Streamed:
    return Streamed(Noise(40), Noise(20), Noise(20), batch_size=batch_size, seed=seed, workers=1)


class Diary(Callback):
    def on_job_start(self, config, **rest):
        self.write("start", config)

    def on_job_end(self, config, job_return, **rest):
        self.write(job_return.status.name, config)

    def write(self, what, config):
        with open("diary.txt", "a") as file:
            file.write(f"{what} {config.seed} {config.hydra.runtime.output_dir}\\n")
"""
FACTS = "shape: ${data.shape}\nnum_classes: ${data.num_classes}\n"


@pytest.fixture
def app(tmp_path) -> Path:
    """A project whose code needs what Hydra gives to a job, and whose data set cannot be pickled."""
    (tmp_path / "mine.py").write_text(CODE)
    for group, node in {
        "model": f"_target_: mine.Net\n{FACTS}note: ''\n",
        "data": "_target_: mine.noise\nbatch_size: 8\nseed: ${seed}\nshape: [1, 8, 8]\nnum_classes: 10\n",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(node)
    return tmp_path


def runs(app: Path) -> dict[int, Path]:
    manifests = [path.parent for path in app.glob("outputs/runs/**/manifest.json")]
    return {json.loads((run / "manifest.json").read_text())["seed"]: run for run in manifests}


@pytest.mark.slow
def test_a_sweeps_run_has_the_environment_logging_config_and_callbacks_of_a_single_run(app, lab_process):
    command = ("train", "model=mine", "data=mine", "steps=2", "logger=none", "+hydra.job.env_set.WIDTH=16")
    command += ("+hydra.callbacks.diary._target_=mine.Diary", "model.note=job${hydra:job.num}")
    single = lab_process(*command, "model.note=alone", "seed=5")
    assert single.code == 0, single.err
    sweep = lab_process(*command, "-m", "seed=1,2")
    assert sweep.code == 0, sweep.err
    logs = {seed: (run / "run.log").read_text().splitlines() for seed, run in runs(app).items()}
    assert logs == {
        seed: [f"built as {note} for mine", "first batch"] for seed, note in {5: "alone", 1: "job0", 2: "job1"}.items()
    }
    diary = [line.split() for line in (app / "diary.txt").read_text().splitlines()]
    assert sorted((seed, what) for what, seed, _ in diary) == [
        (seed, what) for seed in ("1", "2", "5") for what in ("COMPLETED", "start")
    ]
    assert {Path(directory) for *_, directory in diary} == set(runs(app).values())
