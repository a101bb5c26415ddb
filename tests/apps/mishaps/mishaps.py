"""A project whose runs meet with a real mishap in the middle of training, none of them simulated."""

import ctypes
import logging
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from torch import Tensor, nn

from lab.data.in_memory import Examples, InMemory
from lab.data.streamed import Streamed


def draw_points(num: int, seed: int) -> Examples:
    """Points (2,) in two overlapping clouds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    return Examples(torch.randn(num, 2, generator=generator) + labels[:, None], labels)


class Mishaps(InMemory):
    """The clouds, with a mishap before the batch that follows step `at`.

    mishap: a name in MISHAPS.  once: start of the name of a marker file; where it exists, the mishap has happened.
    pause: seconds before each batch.
    """

    def __init__(
        self,
        num_classes: int,
        shape: list[int],
        batch_size: int,
        seed: int,
        mishap: str,
        at: int,
        once: str | None,
        pause: float,
    ):
        super().__init__(draw_points(60, 1), draw_points(30, 3), draw_points(30, 2), batch_size=batch_size, seed=seed)
        self.cause_mishap, self.at, self.pause = MISHAPS[mishap], at, pause
        self.marker = Path(f"{once}-{mishap}-{seed}").absolute() if once else None

    def batches(self, after: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for position, batch in enumerate(super().batches(after), start=after):
            time.sleep(self.pause)
            if position == self.at and not (self.marker and self.marker.exists()):
                if self.marker:
                    self.marker.touch()
                batch = self.cause_mishap(batch) or batch
            yield batch


def raise_error(batch):
    raise RuntimeError("a mishap of the run's own")


def exit_process(batch):
    sys.exit(0)


def divide_by_zero(batch):
    return batch[0] / 0 * 0, batch[1]


def hang(batch):
    time.sleep(1000)


def print_much(batch):
    for number in range(20_000):
        print("talk", number, "and more of it " * 5)
        print("talk", number, file=sys.stderr)
    os.system("echo from a child")


def allocate_too_much(batch):
    torch.empty(2**60, dtype=torch.uint8)


def close_files(batch):
    """Close all descriptors, those of the run's own files and of its process too."""
    os.closerange(3, 1000)


def fork(batch):
    """Leave a child behind that holds all descriptors open."""
    if not os.fork():
        time.sleep(60)
        os._exit(0)


def freeze(batch):
    os.kill(os.getpid(), signal.SIGSTOP)


def leak_state(batch):
    """Change process-wide state that no other run should find changed."""
    torch.manual_seed(99)
    numpy.random.seed(99)
    random.seed(99)
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.autograd.set_detect_anomaly(True)
    numpy.seterr(all="ignore")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(logging.NullHandler())
    os.environ["OMP_NUM_THREADS"] = "3"
    os.environ["LEAKED"] = "1"
    sys.path.insert(0, "/nowhere")
    os.chdir("/")
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout = open(os.devnull, "w")


def leak_modes(batch):
    """Enter modes that change the arithmetic of everything that follows, and never leave them."""
    leak_state(batch)
    torch.set_default_device("meta")
    torch.autocast("cpu", torch.bfloat16).__enter__()
    torch.inference_mode().__enter__()
    torch.set_grad_enabled(False)


def print_state(batch):
    """Print the process-wide state that another run may have changed."""
    filters = [kind for kind, *_ in warnings.filters]
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
    modes += (torch.is_anomaly_enabled(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype())
    modes += (torch.backends.mkldnn.enabled, torch.get_float32_matmul_precision(), torch.get_num_threads())
    print("torch", *modes, torch.tensor(1e-40) * 1, torch.ones(1).device, torch.rand(1))
    print("numpy", numpy.geterr())
    print("logging", logging.getLogger().level, logging.root.manager.disable, len(logging.root.handlers), filters)
    os.umask(umask := os.umask(0))
    print("process", os.getcwd(), umask, sys.path, signal.getsignal(signal.SIGALRM))
    print("environment", sorted(os.environ), os.environ["OMP_NUM_THREADS"])


MISHAPS = {
    "none": lambda batch: None,
    "error": raise_error,
    "leave": exit_process,
    "diverge": divide_by_zero,
    "abort": lambda batch: os.abort(),
    "segfault": lambda batch: ctypes.string_at(0),
    "kill": lambda batch: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
    "talk": print_much,
    "close": close_files,
    "fork": fork,
    "freeze": freeze,
    "memory": allocate_too_much,
    "look": print_state,
    "leak": leak_state,
    "leak_modes": leak_modes,
}


class SlowExamples:
    """A map-style data set that pauses for each example and draws a little noise for it."""

    def __init__(self, examples: Examples, pause: float, hangs_at: int | None):
        self.examples, self.pause, self.hangs_at = examples, pause, hangs_at

    def __len__(self) -> int:
        return len(self.examples.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.pause)
        if index == self.hangs_at:
            hang(None)
        inputs, labels = self.examples
        return inputs[index] + 0.1 * torch.randn(2), labels[index]


def read_by_workers(
    num_classes: int,
    shape: list[int],
    batch_size: int,
    seed: int,
    workers: int,
    pause: float,
    hangs_at: int | None,
) -> Streamed:
    points = (draw_points(num, seed) for num, seed in ((60, 1), (30, 3), (30, 2)))
    train, val, test = (SlowExamples(split, pause, hangs_at) for split in points)
    return Streamed(train, val, test, batch_size=batch_size, seed=seed, workers=workers)


class Dropout(nn.Module):
    """Points (B, 2) to logits (B, num_classes), with dropout and BatchNorm statistics.

    most: number of examples above which a training batch runs out of memory; None for any number.  hangs: whether the
    model is never made.
    """

    def __init__(self, num_classes: int, width: int, most: int | None, hangs: bool):
        super().__init__()
        if hangs:
            hang(None)
        self.body = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(width, num_classes)
        self.most = most

    def forward(self, points: Tensor) -> Tensor:
        if self.training and self.most and len(points) > self.most:
            raise torch.OutOfMemoryError(f"no memory for {len(points)} examples")
        return self.head(self.body(points))
