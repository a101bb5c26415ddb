"""Images with squares as data sets of object detection, and a detector small enough to train in a test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

CLASSES = ["red", "blue"]
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220)}
Square = tuple[str, int, int, int, int]  # its class, and its left, top, right, bottom edge


def draw_squares(number: int) -> tuple[Image.Image, list[Square]]:
    """Image `number`, of its own size, with one to three squares that do not touch."""
    generator = np.random.default_rng(number)
    width, height = 48 + 4 * (number % 3), 40 + 4 * (number % 2)
    pixels = generator.integers(90, 110, (height, width, 3), dtype=np.uint8)
    squares: list[Square] = []
    for place in range(1 + number % 3):
        name = CLASSES[int(generator.integers(2))]
        side, left, top = (int(generator.integers(low, high)) for low, high in ((8, 14), (0, 2), (0, height - 14)))
        left += 16 * place
        pixels[top : top + side, left : left + side] = COLOURS[name]
        squares.append((name, left, top, left + side, top + side))
    return Image.fromarray(pixels), squares


def voc_object(name: str, left: float, top: float, right: float, bottom: float, difficult: int = 0) -> str:
    edges = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, right, bottom), strict=True)
    box = "".join(f"<{side}>{edge}</{side}>" for side, edge in edges)
    return f"<object>\n<name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>\n</object>\n"


def write_voc(root: Path, count: int = 12) -> Path:
    """A folder in the format of Pascal VOC: the last two images are the test set, the two before validation."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    names = [f"{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        image, squares = draw_squares(number)
        image.save(root / "JPEGImages" / f"{name}.png")
        found = [voc_object(kind, left + 1, top + 1, right, bottom) for kind, left, top, right, bottom in squares]
        write_annotation(root, name, "".join(found))
    for split, chosen in (("train", names[:-4]), ("val", names[-4:-2]), ("test", names[-2:])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen), "utf-8")
    return root


def write_annotation(root: Path, name: str, objects: str) -> None:
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>\n{objects}</annotation>\n", "utf-8")


def write_coco(root: Path, count: int = 12, first: int = 0) -> tuple[Path, Path]:
    """A JSON file in COCO's format, with category ids 7 (blue) and 3 (red), and its folder of images."""
    folder = root / "photos"
    folder.mkdir(parents=True)
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 7, "name": "blue"}, {"id": 3, "name": "red"}]
    for number in range(first, first + count):
        image, squares = draw_squares(number)
        image.save(folder / f"{number}.png")
        size = {"width": image.width, "height": image.height}
        content["images"].append({"id": 1000 - number, "file_name": f"{number}.png", **size})
        for kind, left, top, right, bottom in squares:
            box = [left, top, right - left, bottom - top]
            row = {"id": len(content["annotations"]), "image_id": 1000 - number, "bbox": box, "iscrowd": 0}
            row |= {"category_id": {"blue": 7, "red": 3}[kind], "area": box[2] * box[3]}
            content["annotations"].append(row)
    (root / "boxes.json").write_text(json.dumps(content), "utf-8")
    return root / "boxes.json", folder


class Backbone(nn.Sequential):
    """Images (B, 3, H, W) to features (B, 16, H/4, W/4)."""

    out_channels = 16

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (16, 2), (16, 1)):
            layers += [nn.Conv2d(inputs, 16, 3, stride, padding=1), nn.GroupNorm(4, 16), nn.ReLU()]
        super().__init__(*layers)


def small_detector(num_classes: int, **_: Any) -> RetinaNet:
    """A RetinaNet on images as they are, for objects of 8 to 16 pixels."""
    anchors = AnchorGenerator(((10, 14),), ((1.0,),))
    model = RetinaNet(Backbone(), num_classes + 1, min_size=40, max_size=60, anchor_generator=anchors)
    for module in model.head.modules():  # torchvision's start of 0.01 is for long training
        if isinstance(module, nn.Conv2d) and module.out_channels == Backbone.out_channels:
            nn.init.kaiming_normal_(module.weight)
    return model


def random_batch(counts: list[int], seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes with so many boxes each, in float64."""
    draw = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for place, count in enumerate(counts):
        images.append(torch.rand(3, 40 + place, 50, generator=draw, dtype=torch.float64))
        corners = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 25
        sides = 8 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * 6
        labels = torch.randint(1, 3, (count,), generator=draw)
        targets.append({"boxes": torch.cat([corners, corners + sides], 1), "labels": labels})
    return images, targets
