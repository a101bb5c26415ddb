"""The user's own images: a folder for each class in `train`, in `test` and optionally in `val`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lab.data.cache import cached_pixels
from lab.data.decode import CenterCrop, decode_image
from lab.data.image_files import class_folders, count_images, find_images
from lab.data.in_memory import Examples, InMemory
from lab.data.order import balanced_indices, split_indices
from lab.data.progress import show_progress
from lab.data.standardize import Standardize, check_channels
from lab.data.streamed import Indexable, Streamed
from lab.models.state_files import hash_file
from lab.text import join_names, suggest
from lab.user_cache import cache_limit

WORTH_BYTES = 20_000_000  # of pixels below which folders are decoded each time
Transform = Callable[[Tensor], Tensor]
Decoder = Callable[[Path], Tensor]


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
    upright: bool = False,
    broken: str = "refuse",
) -> InMemory | Streamed:
    """Images in `folder/<split>/<class>/`, resized and center-cropped to shape (C, H, W).

    val_share: share of `train` to hold out if there is no `folder/val`.
    train_examples: number of the other images to train on, balanced over the classes (`order.balanced_indices`); None
        for all.
    random_crop: whether to train on random resized crops (Szegedy et al. 2015, arXiv:1409.4842) instead of center
        crops.
    in_memory_mb: maximum size in megabytes of a data set that is decoded once and held in memory. Larger ones, and
        those with random crops, are streamed.
    workers: number of loader processes of a streamed data set.
    upright: whether to turn photos as their EXIF orientation says, which torchvision's ImageFolder does not.
    broken: `refuse` images that cannot be read, or `leave_out`, which decodes every image once to find them.
    What is an image and a class is told by `lab.data.image_files`, what its pixels are by `lab.data.decode`.
    Raises FileNotFoundError for a missing folder and for a class without training images, ValueError if the classes are
    not those of the folders, and for images that cannot be read: of a data set in memory for all of them at once, of a
    streamed one where the first is met.
    """
    if len(classes) != num_classes:
        train_folder = Path(folder) / "train"
        raise ValueError(f"num_classes is {num_classes}, but {train_folder} has {len(classes)}: {', '.join(classes)}")
    check_channels(shape, mean, std)
    if broken not in ("refuse", "leave_out"):
        raise ValueError(f"broken={broken} is neither refuse nor leave_out")
    prepare = Standardize(mean, std)
    read = partial(decode_image, upright=upright)
    folders = read_folders(Path(folder), classes, CenterCrop(shape), read, broken == "leave_out")
    train, val, test, description = read_splits(Path(folder), folders, classes, val_share, train_examples, seed)
    megabytes = sum(map(len, (train, val, test))) * torch.Size(shape).numel() / 1e6
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "prepare": prepare}
    options |= {"classes": classes, "description": description}
    if not random_crop and megabytes <= in_memory_mb:
        return InMemory(*load_splits((train, val, test), [*folders.values()], shape, upright, in_memory_mb), **options)
    plain = train
    if random_crop:
        train = Subset(replace(folders["train"], transform=RandomCrop(shape)), plain.indices)
    return Streamed(train, val, test, plain=plain, workers=workers, **options)


def read_folders(
    root: Path, classes: list[str], transform: Transform, read: Decoder, leave_out_broken: bool
) -> dict[str, "ImageFolder"]:
    """The images of `train`, `test` and, where there is one, `val`."""
    names = [name for name in ("train", "val", "test") if name != "val" or (root / "val").is_dir()]
    return {name: find_folder(root / name, classes, transform, read, leave_out_broken) for name in names}


def read_splits(
    root: Path,
    folders: "dict[str, ImageFolder]",
    classes: list[str],
    val_share: float,
    train_examples: int | None,
    seed: int,
) -> tuple[Subset, Indexable, Indexable, str]:
    """Training, validation and test images, and a line that says what the folder was counted as."""
    train, test = folders["train"], folders["test"]
    with_images = {label for _, label in train.files}
    if empty := [name for label, name in enumerate(classes) if label not in with_images]:
        raise FileNotFoundError(
            f"no images in {join_names([str(root / 'train' / name) for name in empty])}; a class needs some to train "
            "on: add them, or remove the folder"
        )
    left_out = sum((folder.left_out for folder in folders.values()), Counter())
    description = count_images([(name, len(folder)) for name, folder in folders.items()], len(classes), left_out)
    if "val" in folders:
        kept, val = torch.arange(len(train)), folders["val"]
    else:
        kept, held_out = split_indices(len(train), val_share, seed)
        val = Subset(train, held_out.tolist())
    if train_examples is not None:
        labels = torch.tensor([label for _, label in train.files])
        kept = kept[balanced_indices(labels[kept], train_examples, seed)]
    return Subset(train, kept.tolist()), val, test, description


@dataclass(frozen=True, eq=False)
class ImageFolder(Dataset):
    """Pairs (image uint8 (C, H, W), label) by index.  left_out: number of other files by the reason."""

    files: list[tuple[Path, int]]
    left_out: Counter[str]
    transform: Transform
    read: Decoder

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return self.transform(self.read(path)), label


def find_folder(
    folder: Path, classes: list[str], transform: Transform, read: Decoder, leave_out_broken: bool
) -> ImageFolder:
    """The files in `folder/<class>/`, sorted by class and name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected is {folder}/<class>/<image>")
    for name in class_folders(folder):
        if name not in classes:
            raise ValueError(f"{folder / name} is not a class of the training set; {suggest(name, classes)}")
    images = find_images(folder, classes)
    if not images.files:
        raise FileNotFoundError(f"no images below {folder}; expected is {folder}/<class>/<image>")
    if leave_out_broken:
        readable = [can_read(read, path) for path, _ in show_progress(images.files, len(images.files))]
        if number := readable.count(False):
            images.left_out[f"that cannot be read ({images.files[readable.index(False)][0]})"] += number
        images.files = [file for file, is_readable in zip(images.files, readable, strict=True) if is_readable]
    return ImageFolder(images.files, images.left_out, transform, read)


def can_read(read: Decoder, path: Path) -> bool:
    try:
        read(path)
    except ValueError:
        return False
    return True


class RandomCrop:
    """Crops a random part of an image, 35 to 100 % of its area, and resizes it to (C, H, W)."""

    def __init__(self, shape: list[int]):
        from torchvision.transforms import v2

        self.channels = shape[0]
        self.crop = v2.RandomResizedCrop(shape[1:], scale=(0.35, 1.0))

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        image = self.crop(image)
        return F.rgb_to_grayscale(image) if self.channels == 1 else image


def load_splits(
    splits: Sequence[Indexable], folders: Sequence[ImageFolder], shape: list[int], upright: bool, in_memory_mb: int
) -> list[Examples]:
    """The examples of each split, a folder or a subset of one. Where all folders fit into memory and decoding them
    takes more than a moment, they are decoded whole and kept by their content, for other runs and other subsets."""
    size = sum(map(len, folders)) * torch.Size(shape).numel()
    if not (WORTH_BYTES <= size <= in_memory_mb * 1e6 and cache_limit()):
        return [load_examples(split, shape) for split in splits]
    whole = {id(folder): load_folder(folder, shape, upright) for folder in folders}
    return [
        whole[id(split.dataset)].take(torch.tensor(split.indices, dtype=torch.int64))
        if isinstance(split, Subset)
        else whole[id(split)]
        for split in splits
    ]


def load_folder(folder: ImageFolder, shape: list[int], upright: bool) -> Examples:
    """All images of a folder, read from the cache of decoded images where they were decoded before."""
    parts = ["image_folder", repr((shape, upright)), *(hash_file(path) for path, _ in folder.files)]
    kept = cached_pixels(parts, lambda: {"inputs": load_examples(folder, shape).inputs})
    return Examples(kept["inputs"], torch.tensor([label for _, label in folder.files]))


def load_examples(examples: Indexable, shape: list[int]) -> Examples:
    """All examples, decoded into tensors of images and labels. Raises ValueError that names those that cannot be."""
    images = torch.empty(len(examples), *shape, dtype=torch.uint8)
    labels = torch.empty(len(examples), dtype=torch.int64)
    broken = []
    for index in show_progress(range(len(examples)), len(examples)):
        try:
            images[index], labels[index] = examples[index]
        except ValueError as error:
            broken.append(str(error))
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(examples)} images cannot be read; mend or remove them: {join_names(broken)}"
        )
    return Examples(images, labels)
