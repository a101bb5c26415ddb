"""Generated images for quick trials: one random prototype for each class, with added noise."""

import torch

from lab.data.in_memory import Examples, InMemory, split_examples
from lab.data.standardize import Standardize
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
    """Images that are the same for every seed, so that seeds can be compared, with balanced labels.

    num_examples: number of training and validation examples; the test set has a quarter as many.
    noise: standard deviation of the noise, relative to that of the prototypes. At 0.5 a linear classifier is right on
        nearly all images, at 10 on hardly any.
    val_share, train_examples: see `split_examples`.
    """
    generator = make_generator(0, "synthetic")
    prototypes = torch.randn(num_classes, *shape, generator=generator)

    def draw_examples(num: int) -> Examples:
        labels = torch.arange(num) % num_classes
        inputs = prototypes[labels] + noise * torch.randn(num, *shape, generator=generator)
        # the range of uint8 is four standard deviations to either side of mid-gray
        spread = 127.5 / (4 * (1 + noise**2) ** 0.5)
        return Examples((127.5 + spread * inputs).round().clamp(0, 255).to(torch.uint8), labels)

    train, val = split_examples(draw_examples(num_examples), val_share, seed, train_examples)
    test = draw_examples(max(num_classes, num_examples // 4))
    prepare = Standardize([0.5] * shape[0], [0.125] * shape[0])
    return InMemory(train, val, test, batch_size=batch_size, seed=seed, prepare=prepare)
