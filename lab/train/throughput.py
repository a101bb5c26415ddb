"""What steps cost on this machine: time, examples, memory."""

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
    """Told of each step, after it. The first one, which compiles and warms up, does not count, nor does what is done
    while the meter is paused."""

    def __init__(self, hardware: Hardware):
        self.device = hardware.device
        self.taken, self.seconds, self.since, self.examples = -1, 0.0, 0.0, None
        reset_peak_memory(self.device)

    def step(self, step: Step) -> None:
        self.taken += 1
        self.examples = step.examples
        if not self.taken:
            self.go_on()

    def go_on(self) -> None:
        synchronize(self.device)
        self.since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.since
        yield
        self.go_on()

    def results(self) -> dict[str, float]:
        """hardware/steps_per_s, hardware/examples_per_s, and hardware/peak_memory_mb (10^6 bytes): of the device, or on
        a CPU of the whole process. Without the first two where not more than one step was taken.

        Where several processes train, examples are those of all, memory is that of the first.
        """
        found = {"hardware/peak_memory_mb": round(peak_memory(self.device) / 1e6, 1)}
        if self.taken > 0:
            with self.paused():
                found["hardware/steps_per_s"] = self.taken / self.seconds
            if self.examples:
                found["hardware/examples_per_s"] = self.examples * found["hardware/steps_per_s"]
        return found


def synchronize(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def reset_peak_memory(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux alone has it: 5 sets the peak to what is resident now
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes, since `reset_peak`; where the system keeps no such count, since the process began."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
