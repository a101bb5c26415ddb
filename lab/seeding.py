"""One seed, many independent named streams of randomness.

init, split, order, augment and dropout each draw from a stream of their own, so that one more draw in one of them
does not shift the others, and two runs with the same seed are a true pair.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

STREAMS = ("init", "split", "order", "augment", "dropout")


def stream_seed(seed: int, name: str, *position: int) -> int:
    """A 62-bit seed for the stream `name` at `position` (for example an epoch). Small enough to add a step to."""
    text = "/".join(map(str, (seed, name, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def make_generator(seed: int, name: str, *position: int) -> torch.Generator:
    """A CPU generator at the start of a stream. On the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(stream_seed(seed, name, *position))


def seed_all(seed: int) -> None:
    """Start the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Code that draws from the global generators of torch (on the CPU), NumPy and Python draws from `seed` inside, and
    leaves no trace outside."""
    python, numpys = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(numpys)
