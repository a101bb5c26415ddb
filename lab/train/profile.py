"""Training with a profiler, which shows where the time of a step goes."""

from collections.abc import Iterator
from pathlib import Path

import torch

from lab.run import Run, Step
from lab.train.loop import train

WARMUP, ACTIVE = 2, 6


def train_with_profiler(run: Run, after: int, directory: Path) -> Iterator[Step]:
    """As `train`, but steps 3 to 8 are traced into `directory`/trace.pt.trace.json for Perfetto or TensorBoard."""

    def save(profiler: torch.profiler.profile) -> None:
        trace = directory / "trace.pt.trace.json"
        trace.unlink(missing_ok=True)  # the profiler would write through a link
        profiler.export_chrome_trace(str(trace))

    schedule = torch.profiler.schedule(wait=0, warmup=WARMUP, active=ACTIVE, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=save, record_shapes=True) as profiler:
        for step in train(run, after):
            yield step
            profiler.step()
