"""The files of a folder of images: which are classes, which are images, and what is left out. Does not import torch."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.text import join_names

# torchvision's IMG_EXTENSIONS, and further ones that Pillow reads
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
IMAGE_SUFFIXES |= {".gif", ".pbm", ".pnm", ".jpe", ".jfif", ".apng", ".avif"}
LITTER = {"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "@eaDir"}  # of macOS, Python, Windows and Synology
SPLITS = ("train", "val", "test")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's data: its name begins with a dot (`.DS_Store`,
    `.ipynb_checkpoints`, `._x.jpg`), or a system writes it."""
    return name.startswith(".") or name in LITTER


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder` that are not hidden, sorted: the classes of an image folder."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def walk_files(folder: Path, parents: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file below `folder`, hidden ones included. Links to folders are followed, except for those that lead back
    to a folder on the way.

    parents: real paths of the folders on the way.
    """
    here = os.path.realpath(folder)
    if any(f"{parent}{os.sep}".startswith(f"{here}{os.sep}") for parent in parents):
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from walk_files(Path(entry.path), (*parents, here))
        else:
            yield Path(entry.path)


def visible_files(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder` that is not hidden and lies in no hidden folder."""
    for path in walk_files(folder):
        if not any(map(is_hidden, path.relative_to(folder).parts)) and path.is_file():
            yield path


@dataclass
class ClassFiles:
    """The images of one split.

    files: paths of the images and their labels, sorted by class and name.
    left_out: number of files that are no examples, by the reason.
    """

    files: list[tuple[Path, int]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def find_images(folder: Path, classes: Sequence[str]) -> ClassFiles:
    """The images in `folder/<class>/`, at any depth."""
    found = ClassFiles()
    labels = {name: label for label, name in enumerate(classes)}
    for path in sorted(walk_files(folder)):
        parts = path.relative_to(folder).parts
        if reason := why_no_image(path, parts):
            found.left_out[reason] += 1
        elif parts[0] in labels:
            found.files.append((path, labels[parts[0]]))
    found.files.sort(key=lambda pair: (pair[1], pair[0]))
    return found


def why_no_image(path: Path, parts: Sequence[str]) -> str:
    """The reason why a file is no example; empty if it is one.  parts: the path below the split's folder."""
    if any(map(is_hidden, parts)):
        return "hidden"
    if len(parts) == 1:
        return "beside the class folders"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return f"named {path.suffix}" if path.suffix else "without a suffix"
    return "" if path.is_file() else "broken links or no regular files"


def image_folder_files(root: Path) -> Iterator[Path]:
    """Every image that a data set reads from `root/<split>/<class>/`: those that count for a run's identity."""
    for split in SPLITS:
        if (root / split).is_dir():
            yield from (path for path, _ in find_images(root / split, class_folders(root / split)).files)


def count_images(splits: Sequence[tuple[str, int]], num_classes: int, left_out: Counter[str]) -> str:
    """One line that says what a folder was counted as: its images by split, its classes, and what was left out.

    splits: names of the splits and their numbers of images.
    """
    each = ", ".join(f"{number:,} {name}" for name, number in splits)
    line = f"{sum(number for _, number in splits):,} images in {num_classes} classes ({each})"
    if left_out:
        reasons = [f"{number:,} {reason}" for reason, number in left_out.most_common()]
        line += f"; {left_out.total():,} other files left out: {join_names(reasons)}"
    return line
