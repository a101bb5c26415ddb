"""CIFAR-10: 60,000 colour images of 32x32 in ten classes.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
"""

import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from lab.data.cache import cached_pixels
from lab.data.decode import decode_image
from lab.data.in_memory import Examples, InMemory, split_examples
from lab.data.progress import show_progress
from lab.data.standardize import Standardize
from lab.models.state_files import hash_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(
    folder: str,
    batch_size: int,
    seed: int,
    *,
    val_share: float = 0.1,
    train_examples: int | None = None,
    limit: int | None = None,
    download: bool = False,
    num_classes: int = 10,
    shape: Sequence[int] = (3, 32, 32),
    classes: Sequence[str] = CIFAR10_CLASSES,
    mean: Sequence[float] = (0.4914, 0.4822, 0.4465),
    std: Sequence[float] = (0.2470, 0.2435, 0.2616),
) -> InMemory:
    """Images from `folder`: from `train.parquet` and `test.parquet` (columns `img: struct<bytes, path>`,
    `label: int64`) if they exist, else from torchvision's `cifar-10-batches-py`.

    val_share, train_examples: split of the training images; see `split_examples`.
    limit: number of examples to read from the beginning of each split; None for all.
    download: whether to fetch torchvision's archive into `folder` if nothing is there.
    Raises FileNotFoundError that names the files to place and their folder, ConnectionError if a download fails, and
    ValueError for a number of classes or a shape that do not fit CIFAR-10.
    """
    if list(shape) != [3, 32, 32] or num_classes != 10:
        raise ValueError(f"CIFAR-10 is 10 classes of shape [3, 32, 32], not {num_classes} of {list(shape)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is not a positive number; null reads all images")
    read = read_cached if (Path(folder) / "train.parquet").is_file() else read_archive
    train, val = split_examples(read(Path(folder), "train", limit, download), val_share, seed, train_examples)
    test = read(Path(folder), "test", limit, download)
    prepare = Standardize(mean, std)
    return InMemory(train, val, test, batch_size=batch_size, seed=seed, prepare=prepare, classes=classes)


def read_cached(folder: Path, split: str, limit: int | None, download: bool) -> Examples:
    """As `read_parquet`, with the pixels that were decoded before."""
    path = folder / f"{split}.parquet"
    if limit is not None or not path.is_file():
        return read_parquet(folder, split, limit, download)
    parts = chain(["cifar10"], map(hash_file, [path]))  # hashed only where there is a cache
    return Examples(**cached_pixels(parts, lambda: read_parquet(folder, split, limit, download)._asdict()))


def read_parquet(folder: Path, split: str, limit: int | None, download: bool) -> Examples:
    """One split from Parquet files. `download` is ignored, as these files are never downloaded."""
    from pyarrow import parquet

    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; place it beside {folder / 'train.parquet'}")
    table = parquet.read_table(path).slice(0, limit)
    encoded = table.column("img").combine_chunks().field("bytes").to_pylist()
    images = torch.empty(len(encoded), 3, 32, 32, dtype=torch.uint8)
    for row, content in enumerate(show_progress(encoded, len(encoded))):
        image = decode_image(io.BytesIO(content), f"row {row} of {path}")
        if image.shape != images.shape[1:]:
            raise ValueError(f"row {row} of {path} is an image of {list(image.shape)}; CIFAR-10's are [3, 32, 32]")
        images[row] = image
    labels = torch.from_numpy(table.column("label").to_numpy().copy()).long()
    if wrong := [row for row, label in enumerate(labels.tolist()) if not 0 <= label < len(CIFAR10_CLASSES)]:
        raise ValueError(f"row {wrong[0]} of {path} has the label {int(labels[wrong[0]])}, which is not from 0 to 9")
    return Examples(images, labels)


def read_archive(folder: Path, split: str, limit: int | None, download: bool) -> Examples:
    """One split from torchvision's archive."""
    from torchvision.datasets import CIFAR10

    try:
        archive = CIFAR10(str(folder), train=split == "train", download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"no CIFAR-10 in {folder.resolve()}: place train.parquet and test.parquet there, or the unpacked "
            f"cifar-10-batches-py, or download that with data.download=true, or give data.folder= or LAB_DATA="
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"CIFAR-10 could not be downloaded ({error}); place train.parquet and test.parquet, or the unpacked "
            f"cifar-10-batches-py, in {folder.resolve()}"
        ) from error
    images = torch.from_numpy(archive.data[:limit]).permute(0, 3, 1, 2).contiguous()
    return Examples(images, torch.tensor(archive.targets[:limit]))
