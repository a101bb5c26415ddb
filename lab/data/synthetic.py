"""Made-up images for trying things out: one random prototype a class, seen through noise."""

import torch

from lab.data.in_memory import Examples, InMemory
from lab.seeding import make_generator


def synthetic(
    num_classes: int,
    shape: list[int],
    batch_size: int,
    seed: int,
    num_examples: int = 1024,
    noise: float = 0.5,
    val_share: float = 0.1,
    train_examples: int | None = None,
) -> InMemory:
    """num_examples: of training, and a quarter as many of test.  noise: its standard deviation beside the
    prototypes' of 1; at 0.5 a linear classifier gets nearly all right, at 10 hardly any.

    train_examples: see `InMemory`.

    The same images for every seed, so that seeds compare; labels are balanced.
    """
    draw = make_generator(0, "synthetic")
    prototypes = torch.randn(num_classes, *shape, generator=draw)

    def examples(num: int) -> Examples:
        labels = torch.arange(num) % num_classes
        inputs = prototypes[labels] + noise * torch.randn(num, *shape, generator=draw)
        # four standard deviations to either side of gray fill uint8
        spread = 127.5 / (4 * (1 + noise**2) ** 0.5)
        return Examples((127.5 + spread * inputs).round().clamp(0, 255).to(torch.uint8), labels)

    train, test = examples(num_examples), examples(max(num_classes, num_examples // 4))
    return InMemory(
        train,
        test,
        val_share=val_share,
        train_examples=train_examples,
        batch_size=batch_size,
        seed=seed,
        mean=[0.5] * shape[0],
        std=[0.125] * shape[0],
    )
