"""Images with boxes: what the data sets of object detection share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lab.data.decode import check_image, decode_image
from lab.data.order import balanced_indices, hold_out
from lab.data.progress import show_progress
from lab.data.readers import ImageListReader
from lab.data.standardize import scale_image_list
from lab.data.streamed import Streamed
from lab.text import join_names

FAULTY = ("clip", "leave_out", "refuse")
EXAMPLES_OF_FAULTS = 3

DetectionBatch = tuple[list[Tensor], list[dict[str, Tensor]]]


class Annotated(NamedTuple):
    """An image and the boxes in it.

    path: image file.  size: its height and width.  image_id: its number in the data set.
    boxes: float32 (N, 4), left, top, right and bottom edges in pixels, with 0 at the image's left and top edge.
    labels: int64 (N,), from 1, as 0 is the background.
    areas: float32 (N,), in pixels.  is_crowd: bool (N,), boxes that are neither trained on nor counted as missed.
    """

    path: Path
    size: tuple[int, int]
    image_id: int
    boxes: Tensor
    labels: Tensor
    areas: Tensor
    is_crowd: Tensor

    @property
    def target(self) -> dict[str, Tensor]:
        """The boxes under the names of torchvision's reference scripts."""
        return {
            "boxes": self.boxes,
            "labels": self.labels,
            "image_id": torch.tensor(self.image_id),
            "area": self.areas,
            "iscrowd": self.is_crowd,
        }

    def keep(self, chosen: Tensor) -> "Annotated":
        """The same image with the boxes that `chosen`, bool (N,), marks."""
        boxes, labels, areas, is_crowd = (part[chosen] for part in self[3:])
        return self._replace(boxes=boxes, labels=labels, areas=areas, is_crowd=is_crowd)


def annotated(
    path: Path,
    size: tuple[int, int],
    image_id: int,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    areas: Sequence[float] | None = None,
    is_crowd: Sequence[bool] | None = None,
) -> Annotated:
    """An `Annotated` from plain numbers.  areas: None for those of the boxes."""
    edges = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Annotated(
        path,
        size,
        image_id,
        edges,
        torch.tensor(labels, dtype=torch.int64),
        (edges[:, 2:] - edges[:, :2]).prod(1) if areas is None else torch.tensor(areas, dtype=torch.float32),
        torch.zeros(len(edges), dtype=torch.bool) if is_crowd is None else torch.tensor(is_crowd, dtype=torch.bool),
    )


class DetectionExamples(Dataset):
    """Pairs (image uint8 (3, H, W), target) by index; the target is that of `Annotated`."""

    def __init__(self, images: Sequence[Annotated]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.images[index]
        image = decode_image(found.path)
        if image.shape[1:] != found.size:
            (height, width), (high, wide) = found.size, image.shape[1:]
            raise ValueError(
                f"{found.path} is {wide} pixels wide and {high} high, its annotation says {width}, {height}"
            )
        return image, found.target


class DetectionData(Streamed):
    """Batches of images, uint8 (3, H, W) each of its own size, and of their targets, as `Annotated.target`.

    classes: names of the labels 1, 2, ...  category_ids: the data set's own numbers of these classes.
    """

    def __init__(self, splits: Mapping[str, Sequence[Annotated]], classes: Sequence[str], **options: Any):
        self.category_ids: Sequence[int] = range(1, len(classes) + 1)
        train = [image.keep(~image.is_crowd) for image in splits["train"]]
        sets = (DetectionExamples(images) for images in (train, splits["val"], splits["test"]))
        options |= {"collate": pack_examples, "unpack": PackedBatch.unpack}
        super().__init__(*sets, classes=classes, prepare=scale_image_list, **options)

    @property
    def reader(self) -> ImageListReader:
        return ImageListReader()


def check_class_count(num_classes: int | None, classes: Sequence[str]) -> None:
    """Raises ValueError for another number than that of the classes."""
    if num_classes not in (None, len(classes)):
        raise ValueError(f"num_classes is {num_classes}, but there are {len(classes)} classes: {', '.join(classes)}")


def detection_data(
    splits: Mapping[str, Sequence[Annotated]],
    classes: Sequence[str],
    *,
    batch_size: int,
    seed: int,
    val_share: float,
    test_share: float,
    train_examples: int | None,
    faulty_boxes: str,
    workers: int,
) -> DetectionData:
    """The data set of these images, with the boxes that are at fault clipped, left out or refused.

    splits: `train`, and `val` and `test` unless they are held out from it.
    faulty_boxes: `clip`, which cuts boxes at the image's edges and leaves out those that are empty or reversed;
        `leave_out`; or `refuse`.
    Raises ValueError for a split without images, and for faulty boxes that are refused.
    """
    if faulty_boxes not in FAULTY:
        raise ValueError(f"faulty_boxes={faulty_boxes} is none of {', '.join(FAULTY)}")
    if empty := [name for name, images in splits.items() if not images]:
        raise ValueError(f"{empty[0]} has no images")
    refuse_broken([image for images in splits.values() for image in images])
    faults = BoxFaults()
    mended = {name: [mend(image, faulty_boxes, faults) for image in images] for name, images in splits.items()}
    if faulty_boxes == "refuse" and faults.kinds:
        raise ValueError(f"{faults}; correct them, or give data.faulty_boxes=clip or leave_out")
    parts = hold_out(mended, val_share, test_share, seed)
    if train_examples is not None:
        one_class = torch.zeros(len(parts["train"]), dtype=torch.int64)
        parts["train"] = [parts["train"][place] for place in balanced_indices(one_class, train_examples, seed).tolist()]
    counts = ", ".join(f"{len(parts[name]):,} {name}" for name in ("train", "val", "test"))
    boxes = sum(len(image.boxes) for images in parts.values() for image in images)
    description = f"{sum(map(len, parts.values())):,} images with {boxes:,} boxes of {len(classes)} classes ({counts})"
    if faults.kinds:
        description += f"; {faults}"
    options = {"batch_size": batch_size, "seed": seed, "workers": workers, "description": description}
    return DetectionData(parts, classes, **options)


def refuse_broken(images: Sequence[Annotated]) -> None:
    """Raises ValueError that names the images that cannot be read."""
    broken = []
    for image in show_progress(images, len(images), "checking images"):
        try:
            check_image(image.path)
        except ValueError as error:
            broken.append(str(error))
    if broken:
        raise ValueError(f"{len(broken)} of {len(images)} images cannot be read: {join_names(broken, 5)}")


@dataclass
class BoxFaults:
    """The boxes at fault, by what happened to them and why."""

    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, image: Annotated, kind: str, found: Tensor) -> None:
        for box in image.boxes[found].tolist():
            edges = ", ".join(f"{edge:g}" for edge in box)
            self.kinds.setdefault(kind, []).append(f"{image.path.name} [{edges}]")

    def __str__(self) -> str:
        return "; ".join(
            f"{len(found):,} {'box' if len(found) == 1 else 'boxes'} {kind}: {join_names(found, EXAMPLES_OF_FAULTS)}"
            for kind, found in self.kinds.items()
        )


def mend(image: Annotated, faulty_boxes: str, faults: BoxFaults) -> Annotated:
    """The image with boxes that have an area and lie inside it; what is changed is added to `faults`."""
    from torchvision.ops import clip_boxes_to_image

    boxes = image.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    is_number = boxes.isfinite().all(1)
    is_reversed = is_number & (sides < 0).any(1)
    is_empty = is_number & ~is_reversed & (sides == 0).any(1)
    clipped = clip_boxes_to_image(boxes, image.size)
    is_outside = is_number & ~is_reversed & ~is_empty & (clipped != boxes).any(1)
    is_lost = is_outside & (clipped[:, 2:] <= clipped[:, :2]).any(1)
    mends = faulty_boxes == "clip"
    done = "at fault" if faulty_boxes == "refuse" else "left out"
    for kind, found in (
        (f"{done}, not a number", ~is_number),
        (f"{done}, reversed", is_reversed),
        (f"{done}, empty", is_empty),
        (f"{done}, outside the image", is_lost if mends else is_outside),
        ("clipped to the image", is_outside & ~is_lost if mends else torch.zeros_like(is_lost)),
    ):
        faults.add(image, kind, found)
    kept = is_number & ~is_reversed & ~is_empty & (~is_lost if mends else ~is_outside)
    if kept.all() and not is_outside.any():
        return image
    return image._replace(boxes=clipped if mends else boxes).keep(kept)


class PackedBatch(NamedTuple):
    """A batch in as few tensors as there are kinds, as each costs a loader worker as much to send as many pixels.

    pixels: those of all images, one after the other.  shapes: of each image.
    rows: the targets' tensors, joined over the images.  lengths: their numbers of rows in each image; -1 for a scalar.
    """

    pixels: Tensor
    shapes: list[tuple[int, ...]]
    rows: dict[str, Tensor]
    lengths: dict[str, list[int]]

    def unpack(self) -> DetectionBatch:
        """Views of the packed tensors: the images, and the targets."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        images = [part.view(shape) for part, shape in zip(self.pixels.split(sizes), self.shapes, strict=True)]
        targets: list[dict[str, Tensor]] = [{} for _ in images]
        for name, rows in self.rows.items():
            lengths = self.lengths[name]
            for target, part, length in zip(targets, rows.split([abs(n) for n in lengths]), lengths, strict=True):
                target[name] = part[0] if length < 0 else part
        return images, targets


def pack_examples(examples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> PackedBatch:
    """A packed batch of images of different sizes and their targets."""
    images, targets = zip(*examples, strict=True)
    return PackedBatch(
        torch.cat([image.flatten() for image in images]),
        [tuple(image.shape) for image in images],
        {name: torch.cat([torch.atleast_1d(target[name]) for target in targets]) for name in targets[0]},
        {name: [len(target[name]) if target[name].dim() else -1 for target in targets] for name in targets[0]},
    )
