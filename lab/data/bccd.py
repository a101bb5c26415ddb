"""Single blood cells, cut from the smear images of BCCD: red cells, white cells and platelets.

Source: Shenggan & Cosmic 2018, BCCD Dataset (MIT licence), 364 images with 4,888 boxes in the format of Pascal VOC.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lab.data.decode import decode_image
from lab.data.in_memory import Examples, InMemory
from lab.data.order import balanced_indices
from lab.data.progress import show_progress
from lab.data.standardize import Standardize, check_channels
from lab.data.voc import read_objects, read_split
from lab.text import suggest

CLASSES = ("RBC", "WBC", "Platelets")


class Cell(NamedTuple):
    """A cell in a smear image.  box: left, top, right, bottom in pixels."""

    image: Path
    box: tuple[int, int, int, int]
    label: int


def bccd_cells(
    folder: str,
    batch_size: int,
    seed: int,
    *,
    train_examples: int | None = None,
    margin: float = 0.1,
    num_classes: int = 3,
    shape: Sequence[int] = (3, 32, 32),
    classes: Sequence[str] = CLASSES,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> InMemory:
    """Square crops around the boxes in `folder`, resized to shape (C, H, W). The splits are the official ones; all
    cells of an image lie in one split.

    train_examples: number of cells to train on, balanced over the classes (`order.balanced_indices`); None for all, of
        which 85 % are RBC. Validation and test sets keep their size and their imbalance, so monitor
        `val/balanced_accuracy`.
    margin: space around a box, as a share of its longer side.

    Two boxes have no area and are left out: an RBC of BloodImage_00343 (train) and one of BloodImage_00338 (val).
    Raises FileNotFoundError that names the files to place and their folder. Raises ValueError for classes or a shape
    that do not fit BCCD, for files that are not annotations, for paths instead of image names, and for a box outside
    its image.
    """
    if num_classes != len(CLASSES) or list(classes) != list(CLASSES):
        raise ValueError(f"BCCD's cells are {list(CLASSES)}, not {num_classes} classes {list(classes)}")
    check_channels(shape, mean, std)
    if margin < 0:
        raise ValueError(f"margin {margin} is negative; give a share of a box's side, such as 0.1")
    root = Path(folder)
    train, val, test = (read_cells(root, split) for split in ("train", "val", "test"))
    if train_examples is not None:
        indices = balanced_indices(torch.tensor([cell.label for cell in train]), train_examples, seed)
        train = [train[index] for index in indices]
    train, val, test = (crop_cells(cells, shape, margin) for cells in (train, val, test))
    prepare = Standardize(mean, std)
    return InMemory(train, val, test, batch_size=batch_size, seed=seed, prepare=prepare, classes=classes)


def read_cells(root: Path, split: str) -> list[Cell]:
    """The cells of one split, grouped by image, without boxes that have no area."""
    names_file = root / "ImageSets" / "Main" / f"{split}.txt"
    if not names_file.is_file():
        raise FileNotFoundError(
            f"no {names_file.name} in {names_file.parent.resolve()}: place JPEGImages, Annotations and ImageSets of "
            f"BCCD (Shenggan/BCCD_Dataset on GitHub) in {root.resolve()}, or give data.folder= or LAB_DATA="
        )
    return [
        Cell(root / "JPEGImages" / f"{name}.jpg", box, label)
        for name in read_split(root, split, split)
        for box, label in read_labelled_boxes(root / "Annotations" / f"{name}.xml")
        if box[0] < box[2] and box[1] < box[3]
    ]


def read_labelled_boxes(path: Path) -> list[tuple[tuple[int, int, int, int], int]]:
    found = []
    for name, box, _, line in read_objects(path):
        if name not in CLASSES:
            raise ValueError(f"{path}:{line}: no class {name!r}; {suggest(name, CLASSES)}")
        left, top, right, bottom = map(round, box)
        found.append(((left, top, right, bottom), CLASSES.index(name)))
    return found


def crop_cells(cells: list[Cell], shape: Sequence[int], margin: float) -> Examples:
    """The cells as images of shape (C, H, W). Decodes each smear image once."""
    from torchvision.transforms.v2 import functional as F

    crops = torch.empty(len(cells), *shape, dtype=torch.uint8)
    by_image = groupby(enumerate(cells), key=lambda numbered: numbered[1].image)
    images = [(path, list(group)) for path, group in by_image]
    for path, numbered_cells in show_progress(images, len(images)):
        image = decode_image(path)
        for number, cell in numbered_cells:
            top, left, side = fit_square(cell, image, margin)
            crop = F.resized_crop(image, top, left, side, side, list(shape[1:]), antialias=True)
            crops[number] = F.rgb_to_grayscale(crop) if shape[0] == 1 else crop
    return Examples(crops, torch.tensor([cell.label for cell in cells]))


def fit_square(cell: Cell, image: Tensor, margin: float) -> tuple[int, int, int]:
    """Top, left and side, in pixels, of the square around a cell's box and its margin. The square is shifted to lie
    inside the image (3, H, W), and shrunk to the image's shorter side if it is larger."""
    height, width = image.shape[1:]
    left, top, right, bottom = cell.box
    if min(left, top) < 0 or right > width or bottom > height:
        raise ValueError(f"the box {cell.box} lies outside {cell.image}, which is {width} pixels wide, {height} high")
    side = min(round(max(right - left, bottom - top) * (1 + 2 * margin)), height, width)
    top, left = (round((low + high - side) / 2) for low, high in ((top, bottom), (left, right)))
    return min(max(top, 0), height - side), min(max(left, 0), width - side), side
