"""Object detection on any folder in the format of Pascal VOC.

Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from lab.data.decode import image_size
from lab.data.detection import Annotated, DetectionData, annotated, check_class_count, detection_data
from lab.data.image_files import IMAGE_SUFFIXES
from lab.data.progress import show_progress
from lab.data.text_table import read_lines
from lab.text import join_names

SIDES = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """An object of an annotation file.  box: its xmin, ymin, xmax, ymax.  line: where it begins in the file."""

    name: str
    box: tuple[float, float, float, float]
    is_difficult: bool
    line: int


def voc(
    folder: str,
    classes: Sequence[str],
    batch_size: int,
    seed: int,
    *,
    num_classes: int | None = None,
    train_split: str | None = "train",
    val_split: str | None = "val",
    test_split: str | None = "test",
    val_share: float = 0.1,
    test_share: float = 0.1,
    train_examples: int | None = None,
    one_based: bool = True,
    faulty_boxes: str = "clip",
    workers: int = 2,
) -> DetectionData:
    """The images of `folder/JPEGImages` with the boxes of `folder/Annotations`.

    classes: names of the classes; label 1 is the first.
    train_split, val_split, test_split: names of files in `ImageSets/Main`, without `.txt`. A training split of None is
        every annotated image; a validation or test split of None is a share of the training images, the test set the
        same for every seed.
    train_examples: number of training images to draw; None for all.
    one_based: whether pixels are counted from 1 and edges belong to the box, as in VOC itself: a box from xmin to xmax
        then has its left edge at xmin - 1.
    faulty_boxes, workers: as in `lab.data.detection`.
    Boxes marked `difficult` are not trained on, and are neither hits nor misses in the scores.
    Raises FileNotFoundError for missing files, and ValueError that names the file, with the line of an annotation.
    """
    root = Path(folder)
    check_class_count(num_classes, classes)
    images = find_images_by_name(root)
    chosen = {"train": train_split, "val": val_split, "test": test_split}
    names = {split: read_split(root, file, split) for split, file in chosen.items() if file or split == "train"}
    number, splits = 0, {}
    for split, found in names.items():
        splits[split] = []
        for name in show_progress(found, len(found), "reading annotations"):
            number += 1
            splits[split].append(read_image(root, name, images, classes, number, one_based))
    return detection_data(
        splits,
        classes,
        batch_size=batch_size,
        seed=seed,
        val_share=val_share,
        test_share=test_share,
        train_examples=train_examples,
        faulty_boxes=faulty_boxes,
        workers=workers,
    )


def find_images_by_name(root: Path) -> dict[str, Path]:
    """The image files in `JPEGImages` by their names without suffix."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.resolve()}: place JPEGImages, Annotations and ImageSets/Main there, or give "
            "data.folder= or LAB_DATA="
        )
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def read_split(root: Path, split: str | None, name: str) -> list[str]:
    """The names of the images of a split; of every annotation for a split of None."""
    if split is None:
        found = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
        if not found:
            raise FileNotFoundError(f"no annotations in {root / 'Annotations'}")
        return found
    file = root / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        instead = "every annotated image" if name == "train" else "a share of the training images"
        raise FileNotFoundError(f"no {file}; place it there, or give data.{name}_split=null for {instead}")
    names = [line.split()[0] for line in read_lines(file) if line.strip()]
    if paths := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{file} lists {paths[0]!r}, which is a path, not the name of an image; remove it")
    return names


def read_image(
    root: Path, name: str, images: dict[str, Path], classes: Sequence[str], number: int, one_based: bool
) -> Annotated:
    if name not in images:
        raise FileNotFoundError(f"no image {name} in {root / 'JPEGImages'}; add it, or take it out of the split")
    path = root / "Annotations" / f"{name}.xml"
    objects = read_objects(path)
    check_classes(path, objects, classes)
    boxes = [edges_of(found.box, one_based) for found in objects]
    labels = [classes.index(found.name) + 1 for found in objects]
    is_crowd = [found.is_difficult for found in objects]
    return annotated(images[name], image_size(images[name]), number, boxes, labels, None, is_crowd)


def edges_of(box: tuple[float, float, float, float], one_based: bool) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of a box. One that is empty or reversed stays as it is in the file."""
    left, top, right, bottom = box
    shift = 1 if one_based and left < right and top < bottom else 0
    return left - shift, top - shift, right, bottom


def check_classes(path: Path, objects: Iterable[VocObject], classes: Sequence[str]) -> None:
    """Raises ValueError for an object of another class, with the classes that the folder has."""
    unknown = next((found for found in objects if found.name not in classes), None)
    if unknown is None:
        return
    names: set[str] = set()
    for other in path.parent.glob("*.xml"):
        try:
            names |= {found.name for found in read_objects(other)}
        except ValueError:
            continue
    listed = ",".join(sorted(names))
    raise ValueError(
        f"{path}:{unknown.line} is a {unknown.name!r}, which data.classes does not name; the annotations have "
        f"'data.classes=[{listed}]'"
    )


def read_objects(path: Path) -> list[VocObject]:
    """The objects in an annotation file. Raises ValueError with the file and the line of what cannot be read."""
    if not path.is_file():
        raise FileNotFoundError(f"no annotation {path}; add it, or take the image out of the split")
    # decoded here, so that no other encoding can hide a DOCTYPE; XML without a DOCTYPE cannot define entities
    text = "".join(read_lines(path))
    if "<!DOCTYPE" in text:
        raise ValueError(f"{path} has a DOCTYPE, which no annotation needs; remove it if you trust the file")
    try:
        elements = list(ElementTree.fromstring(text).iter("object"))
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}:{error.position[0]} is no XML: {error}") from error
    except ValueError as error:  # an encoding that is not that of the file
        raise ValueError(f"{path} is no XML: {error}") from error
    lines = [text.count("\n", 0, begin.start()) + 1 for begin in re.finditer(r"<object[\s>]", text)]
    return [read_object(element, path, line) for element, line in zip(elements, lines, strict=False)]


def read_object(element: ElementTree.Element, path: Path, line: int) -> VocObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise ValueError(f"{path}:{line}: an object without a name")
    texts = [element.findtext(f"bndbox/{side}") for side in SIDES]
    if missing := [side for side, text in zip(SIDES, texts, strict=True) if text is None]:
        raise ValueError(
            f"{path}:{line}: the object {name!r} has no {join_names([f'bndbox/{side}' for side in missing])}"
        )
    try:
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError as error:
        raise ValueError(f"{path}:{line}: the box of {name!r} is {texts}, not four numbers") from error
    return VocObject(name, (left, top, right, bottom), element.findtext("difficult", "0").strip() == "1", line)
