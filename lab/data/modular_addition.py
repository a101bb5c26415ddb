"""Addition modulo a prime (Power et al. 2022, arXiv:2201.02177): all pairs, some of them held out."""

import torch
import torch.nn.functional as F

from lab.data.in_memory import Examples, InMemory
from lab.data.order import split_indices


def modular_addition(
    batch_size: int, seed: int, *, prime: int = 59, inputs: int = 118, test_share: float = 0.5, val_share: float = 0.1
) -> InMemory:
    """Inputs (2 p,): a and b, each one-hot. Labels: (a + b) mod p.

    test_share: share of the pairs that are held out.  val_share: share of those that are the validation set.
    inputs: 2 p, for the model's node to interpolate. Raises ValueError for another number.
    """
    if inputs != 2 * prime:
        raise ValueError(f"data.prime={prime} takes data.inputs={2 * prime}")
    a, b = torch.cartesian_prod(torch.arange(prime), torch.arange(prime)).T
    pairs = torch.cat([F.one_hot(a, prime), F.one_hot(b, prime)], dim=1).float()
    examples = Examples(pairs, (a + b) % prime)
    kept, held_out = split_indices(len(pairs), test_share, seed)
    num_val = round(val_share * len(held_out))
    return InMemory(
        examples.take(kept),
        examples.take(held_out[:num_val]),
        examples.take(held_out[num_val:]),
        batch_size=batch_size,
        seed=seed,
    )
