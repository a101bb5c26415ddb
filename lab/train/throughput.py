"""Throughput and memory of training steps on this machine."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lab.hardware import Hardware
from lab.run import Step


class ThroughputMeter:
    """Times the steps of a run; call `step` after each. The first step, which compiles and warms up, is not timed, nor
    is the time in which the meter is paused."""

    def __init__(self, hardware: Hardware):
        self.device = hardware.device
        self.num_timed = -1  # the first step is not timed
        self.seconds = self.started = 0.0
        self.examples: int | None = None
        reset_peak_memory(self.device)

    def step(self, step: Step) -> None:
        self.num_timed += 1
        self.examples = step.examples
        if not self.num_timed:
            self.start()

    def start(self) -> None:
        synchronize(self.device)
        self.started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.started
        yield
        self.start()

    def results(self) -> dict[str, float]:
        """hardware/steps_per_s, hardware/examples_per_s, and hardware/peak_memory_mb (10^6 bytes), the peak memory of
        the device, or of the whole process on a CPU. The first two are left out if fewer than two steps were taken.

        With several ranks, the examples are counted over all ranks, and the memory is rank 0's.
        """
        results = {"hardware/peak_memory_mb": round(peak_memory(self.device) / 1e6, 1)}
        if self.num_timed > 0:
            with self.paused():
                results["hardware/steps_per_s"] = self.num_timed / self.seconds
            if self.examples:
                results["hardware/examples_per_s"] = self.examples * results["hardware/steps_per_s"]
        return results


def synchronize(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def reset_peak_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # only Linux has this file; 5 resets the peak to the current resident memory
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: str) -> int:
    """Peak bytes in use since reset_peak_memory, or since the process began where the system cannot reset the peak."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
