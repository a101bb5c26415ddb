"""Object detection on images with annotations in COCO's JSON (Lin et al. 2014, arXiv:1405.0312)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.data.detection import Annotated, DetectionData, annotated, check_class_count, detection_data


def coco(
    train_annotations: str,
    train_images: str,
    classes: Sequence[str],
    batch_size: int,
    seed: int,
    *,
    num_classes: int | None = None,
    val_annotations: str | None = None,
    val_images: str | None = None,
    test_annotations: str | None = None,
    test_images: str | None = None,
    val_share: float = 0.1,
    test_share: float = 0.1,
    train_examples: int | None = None,
    faulty_boxes: str = "clip",
    workers: int = 2,
) -> DetectionData:
    """Images with the boxes of `instances_*.json`.

    train_annotations, train_images: JSON file and folder of images of the training split; so for `val` and `test`. A
        split of None is a share of the training images, the test set the same for every seed.
    classes: names of the categories; label 1 is the first. Their ids in the files may be any numbers.
    train_examples, faulty_boxes, workers: as in `lab.data.voc`.
    Boxes with `iscrowd` are not trained on, and count in the scores as COCO counts them. A size of an object is its
    `area` where the file has it. Images without annotations are kept: they hold no object.
    Raises FileNotFoundError for missing files, and ValueError that names the file and the annotation.
    """
    check_class_count(num_classes, classes)
    files = {
        "train": (train_annotations, train_images),
        "val": (val_annotations, val_images),
        "test": (test_annotations, test_images),
    }
    splits: dict[str, list[Annotated]] = {}
    category_ids: list[int] = []
    for split, (annotations, images) in files.items():
        if annotations is None:
            continue
        if images is None:
            raise ValueError(f"{split}_annotations without {split}_images; give data.{split}_images=FOLDER")
        splits[split], found = read_coco(Path(annotations), Path(images), classes)
        category_ids = category_ids or found
        if found != category_ids:
            raise ValueError(f"{annotations} numbers its categories otherwise than {train_annotations}")
    data = detection_data(
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
    data.category_ids = category_ids
    return data


def read_coco(file: Path, folder: Path, classes: Sequence[str]) -> tuple[list[Annotated], list[int]]:
    """The images of one file in the order of their ids, and the file's ids of the classes."""
    content = read_json_file(file)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder.resolve()}; place the images of {file.name} there")
    categories = {str(row["name"]): int(row["id"]) for row in rows_of(content, "categories", file, ("id", "name"))}
    if set(categories) != set(classes):
        listed = ",".join(sorted(categories, key=lambda name: categories[name]))
        raise ValueError(f"{file} has other categories than data.classes; they are 'data.classes=[{listed}]'")
    label_of = {categories[name]: label for label, name in enumerate(classes, start=1)}
    images = {row["id"]: row for row in rows_of(content, "images", file, ("id", "file_name", "width", "height"))}
    if not images:
        raise ValueError(f"{file} has no images")
    by_image: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in images}
    for row in rows_of(content, "annotations", file, ("image_id", "category_id", "bbox")):
        check_annotation(row, file, by_image, label_of)
        by_image[row["image_id"]].append(row)
    present = {path.name for path in folder.iterdir()}
    found = []
    for image_id in sorted(images):
        name = Path(str(images[image_id]["file_name"]))
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{file} lists the image {str(name)!r}, which is not below {folder}")
        path = folder / name
        if str(name) not in present and not path.is_file():
            raise FileNotFoundError(f"no image {path}, which {file} lists; add it, or take it out of the file")
        found.append(read_rows_of_image(path, images[image_id], by_image[image_id], label_of))
    return found, [categories[name] for name in classes]


def read_json_file(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {file.resolve()}; place COCO's annotations there") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno} is no JSON: {error.msg}") from error
    except (OSError, RecursionError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not an object with images and annotations")
    return content


def rows_of(content: Mapping[str, Any], name: str, file: Path, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of one list of the file, each with these keys."""
    rows = content.get(name)
    if not isinstance(rows, list):
        raise ValueError(f"{file} has no list of {name}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise ValueError(f"{file}: {name}[{place}] does not have {', '.join(keys)}")
    return rows


def check_annotation(
    row: Mapping[str, Any], file: Path, images: Mapping[Any, Any], label_of: Mapping[int, int]
) -> None:
    where = f"{file}: annotation {row.get('id', '?')}"
    if row["image_id"] not in images:
        raise ValueError(f"{where} is of image {row['image_id']!r}, which the file does not list")
    if row["category_id"] not in label_of:
        raise ValueError(f"{where} is of category {row['category_id']!r}, which the file does not list")
    box = row["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)):
        raise ValueError(f"{where} has the bbox {box!r}, not four numbers: left, top, width, height")


def read_rows_of_image(
    path: Path, image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]
) -> Annotated:
    edges = [(left, top, left + width, top + height) for left, top, width, height in (row["bbox"] for row in rows)]
    return annotated(
        path,
        (int(image["height"]), int(image["width"])),
        int(image["id"]),
        edges,
        [label_of[row["category_id"]] for row in rows],
        [float(row.get("area", row["bbox"][2] * row["bbox"][3])) for row in rows],
        [bool(row.get("iscrowd", 0)) for row in rows],
    )
