"""Your own images: one folder a class, below `train`, `test` and, where you have it, `val`."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lab.data.decode import decode_image, with_progress
from lab.data.in_memory import Examples, InMemory
from lab.data.order import balanced_indices, split_indices
from lab.data.standardize import check_channels
from lab.data.streamed import Indexable, Streamed
from lab.text import suggest

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


def image_folder(
    folder: str,
    num_classes: int,
    shape: list[int],
    batch_size: int,
    seed: int,
    mean: list[float],
    std: list[float],
    classes: list[str],
    val_share: float = 0.1,
    train_examples: int | None = None,
    random_crop: bool = False,
    in_memory_mb: int = 2000,
    workers: int = 2,
) -> InMemory | Streamed:
    """Images in `folder/<split>/<class>/`, their shorter side resized and their middle cropped to shape (C, H, W).

    val_share: of `train`, held out where there is no `folder/val`.  train_examples: train on so many of what is left,
    balanced over the classes (`order.balanced`).  random_crop: training images are random resized crops (Szegedy et al.
    2015, arXiv:1409.4842) instead.  in_memory_mb: sets up to so many megabytes are decoded once and held in memory;
    larger ones, and those with random crops, stream through `workers` processes.
    Raises FileNotFoundError for a missing folder, ValueError where the classes are not those of the folders.
    """
    check_facts(Path(folder), num_classes, shape, mean, std, classes)
    train, val, test = make_splits(Path(folder), classes, shape, val_share, train_examples, seed)
    facts = {"batch_size": batch_size, "seed": seed, "mean": mean, "std": std, "classes": classes}
    if random_crop:
        cropped = Subset(ImageFolder(Path(folder) / "train", classes, RandomCrop(shape)), train.indices)
        return Streamed(cropped, val, test, plain=train, workers=workers, **facts)
    megabytes = sum(map(len, (train, val, test))) * torch.Size(shape).numel() / 1e6
    if megabytes > in_memory_mb:
        return Streamed(train, val, test, workers=workers, **facts)
    return InMemory(load_examples(train, shape), load_examples(test, shape), val=load_examples(val, shape), **facts)


def check_facts(
    root: Path, num_classes: int, shape: list[int], mean: list[float], std: list[float], classes: list[str]
):
    if len(classes) != num_classes:
        raise ValueError(f"num_classes is {num_classes}, but {root / 'train'} has {len(classes)}: {', '.join(classes)}")
    check_channels(shape, mean, std)


def make_splits(
    root: Path,
    classes: list[str],
    shape: list[int],
    val_share: float,
    train_examples: int | None,
    seed: int,
) -> tuple[Subset, Indexable, Indexable]:
    """Training, validation and test images, of all their middle."""
    middle = CenterCrop(shape)
    train = ImageFolder(root / "train", classes, middle)
    test = ImageFolder(root / "test", classes, middle)
    if (root / "val").is_dir():
        kept, val = torch.arange(len(train)), ImageFolder(root / "val", classes, middle)
    else:
        kept, held_out = split_indices(len(train), val_share, seed)
        val = Subset(train, held_out.tolist())
    if train_examples is not None:
        labels = torch.tensor([label for _, label in train.files])
        kept = kept[balanced_indices(labels[kept], train_examples, seed)]
    return Subset(train, kept.tolist()), val, test


class ImageFolder(Dataset):
    """(image uint8 (C, H, W), label) by index, of the files in `folder/<class>/`, sorted by name."""

    def __init__(self, folder: Path, classes: list[str], transform: Callable[[Tensor], Tensor]):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; expected is {folder}/<class>/<image>")
        here = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
        for name in here:
            if name not in classes:
                raise ValueError(f"{folder / name} is not a class of the training set; {suggest(name, classes)}")
        self.files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).glob("**/*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not self.files:
            raise FileNotFoundError(f"no images below {folder}; expected is {folder}/<class>/<image>")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.transform(decode_image(path)), label


class CenterCrop:
    """Resize the shorter side, then crop the middle, to (C, H, W)."""

    def __init__(self, shape: list[int]):
        self.channels, self.height, self.width = shape

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        grow = max(self.height / image.shape[1], self.width / image.shape[2])
        size = [max(self.height, round(image.shape[1] * grow)), max(self.width, round(image.shape[2] * grow))]
        image = F.center_crop(F.resize(image, size), [self.height, self.width])
        return F.rgb_to_grayscale(image) if self.channels == 1 else image


class RandomCrop:
    """A random part of the image, of 35 to 100 % of its area, resized to (C, H, W)."""

    def __init__(self, shape: list[int]):
        from torchvision.transforms import v2

        self.channels = shape[0]
        self.crop = v2.RandomResizedCrop(shape[1:], scale=(0.35, 1.0))

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        image = self.crop(image)
        return F.rgb_to_grayscale(image) if self.channels == 1 else image


def load_examples(examples: Indexable, shape: list[int]) -> Examples:
    images = torch.empty(len(examples), *shape, dtype=torch.uint8)
    labels = torch.empty(len(examples), dtype=torch.int64)
    for index in with_progress(range(len(examples)), len(examples)):
        images[index], labels[index] = examples[index]
    return Examples(images, labels)
