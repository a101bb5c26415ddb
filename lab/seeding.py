"""One seed, many independent named streams of randomness.

init, split, order, augment and dropout each draw from their own stream, so that one more draw in one of them does not
shift the others, and two runs with the same seed differ only in their settings.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

STREAMS = ("init", "split", "order", "augment", "dropout")


def stream_seed(seed: int, name: str, *position: int) -> int:
    """A seed for the stream `name` at `position`, for example an epoch. 62 bits leave room to add a step to it."""
    text = "/".join(map(str, (seed, name, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def make_generator(seed: int, name: str, *position: int) -> torch.Generator:
    """A generator at the start of a stream. It is on the CPU, so that runs on every device see the same draws."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *position))


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (on the CPU), NumPy and Python inside the block, and restore their states
    after it."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
