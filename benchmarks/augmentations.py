"""Augmented batches by lab, and by torchvision's transforms on each example in a DataLoader.

    python benchmarks/augmentations.py [--repeats 5] [--images 5000]

Both give standardised batches of 128 images of 3 x 32 x 32 pixels on one CPU thread, in turns. This prints images a
second, and how many times as many lab gives: medians of the ratios of the turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lab.augment.flip_crop import flip_crop
from lab.augment.none import none
from lab.augment.randaugment import randaugment
from lab.data.in_memory import Examples, InMemory
from lab.data.standardize import Standardize

MEAN, STD, BATCH = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26], 128


class PerExample(Dataset):
    """As torchvision's data sets: one example at a time, through its transform."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable[[Any], Any]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.transform(self.images[number]), int(self.labels[number])


def images_per_second(batches: Iterable[Any]) -> float:
    began, count = time.perf_counter(), 0
    for images, _ in batches:
        count += len(images)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    examples = Examples(images, torch.randint(0, 10, (options.images,)))
    nothing = Examples(images[:0], examples.labels[:0])
    prepare = Standardize(MEAN, STD)
    data = InMemory(examples, nothing, nothing, batch_size=BATCH, seed=0, prepare=prepare)
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    ways = {
        "none": (none, []),
        "flip_crop": (partial(flip_crop, padding=4), [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip()]),
        "randaugment": (partial(randaugment, num_ops=2, magnitude=9), [v2.RandAugment(2, 9)]),
    }
    generator = torch.Generator()
    for name, (augment, first) in ways.items():
        loader = DataLoader(PerExample(*examples, v2.Compose([*first, *last])), BATCH, shuffle=True)
        pairs = []
        for _ in range(options.repeats):
            own = (prepare(augment(batch, generator)) for batch in data.batches())
            limited = (batch for batch, _ in zip(own, range(data.steps_per_epoch), strict=False))
            pairs.append((images_per_second(limited), images_per_second(loader)))
        ratio = statistics.median(own / other for own, other in pairs)
        own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:<12} lab {own:>9,.0f} images/s, per example {other:>7,.0f} images/s, {ratio:5.1f} times as many")


if __name__ == "__main__":
    main()
