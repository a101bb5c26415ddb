"""A project whose runs meet with mishaps: each in the middle of training, as what it is, nothing of it pretended."""

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


def points(num: int, seed: int) -> Examples:
    """Points (2,) in two overlapping clouds."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    return Examples(torch.randn(num, 2, generator=draw) + labels[:, None], labels)


class Mishaps(InMemory):
    """The clouds, and before the batch after step `at`, the mishap."""

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
        super().__init__(points(60, 1), points(30, 2), val=points(30, 3), batch_size=batch_size, seed=seed)
        self.befall, self.at, self.pause = MISHAPS[mishap], at, pause
        self.marker = Path(f"{once}-{mishap}-{seed}").absolute() if once else None

    def batches(self, after: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for position, batch in enumerate(super().batches(after), start=after):
            time.sleep(self.pause)
            if position == self.at and not (self.marker and self.marker.exists()):
                if self.marker:
                    self.marker.touch()
                batch = self.befall(batch) or batch
            yield batch


def error(batch):
    raise RuntimeError("a mishap of the run's own")


def leave(batch):
    sys.exit(0)


def divide_by_nothing(batch):
    return batch[0] / 0 * 0, batch[1]


def hang(batch):
    time.sleep(1000)


def talk(batch):
    for number in range(20_000):
        print("talk", number, "and more of it " * 5)
        print("talk", number, file=sys.stderr)
    os.system("echo from a child")


def want_memory(batch):
    torch.empty(2**60, dtype=torch.uint8)


def leak(batch):
    """Leave the process as no other run should find it."""
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
    """Enter what changes the arithmetic of everything that follows, and never leave it."""
    leak(batch)
    torch.set_default_device("meta")
    torch.autocast("cpu", torch.bfloat16).__enter__()
    torch.inference_mode().__enter__()
    torch.set_grad_enabled(False)


def look(batch):
    """Tell what a run may find its process changed in."""
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
    "error": error,
    "leave": leave,
    "diverge": divide_by_nothing,
    "abort": lambda batch: os.abort(),
    "segfault": lambda batch: ctypes.string_at(0),
    "kill": lambda batch: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
    "talk": talk,
    "memory": want_memory,
    "look": look,
    "leak": leak,
    "leak_modes": leak_modes,
}


class Slow:
    """Examples read one by one, as a map-style data set; each draws a little noise."""

    def __init__(self, examples: Examples, pause: float):
        self.examples, self.pause = examples, pause

    def __len__(self) -> int:
        return len(self.examples.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.pause)
        inputs, labels = self.examples
        return inputs[index] + 0.1 * torch.randn(2), labels[index]


class Read(Streamed):
    def prepare(self, batch):
        return tuple(batch)


def read_by_workers(
    num_classes: int, shape: list[int], batch_size: int, seed: int, workers: int, pause: float
) -> Streamed:
    train, val, test = (Slow(points(num, seed), pause) for num, seed in ((60, 1), (30, 3), (30, 2)))
    return Read(train, val, test, batch_size=batch_size, seed=seed, workers=workers)


class Dropout(nn.Module):
    """Points (B, 2) to logits (B, num_classes), with dropout's draws and a normalisation's running statistics."""

    def __init__(self, num_classes: int, width: int, most: int | None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(width, num_classes)
        self.most = most

    def forward(self, points: Tensor) -> Tensor:
        if self.training and self.most and len(points) > self.most:
            raise torch.OutOfMemoryError(f"no memory for {len(points)} examples")
        return self.head(self.body(points))
