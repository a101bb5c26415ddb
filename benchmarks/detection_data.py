"""Images a second of detection data: lab's `data=voc` beside torchvision's reference recipe, in turns.

    python benchmarks/detection_data.py                     # ${LAB_DATA:-data}/bccd/BCCD, about 3 minutes

Both read the training images of BCCD (205 of 640x480) with 2 loader workers, flip half of them with their boxes, give
batches of 8 as float images from 0 to 1, and either drop them (load) or take a training step of torchvision's
ssdlite320_mobilenet_v3_large with AdamW on each (train).

torchvision  references/detection at v0.29: VOCDetection wrapped for transforms v2, RandomHorizontalFlip, PILToTensor,
             ToDtype, SanitizeBoundingBoxes, ToPureTensor; a DataLoader with a random sampler; a loop by hand.
lab          data=voc, augment=boxes_and_masks, lab.train.loop.train.

A ratio is the median over the repeats of torchvision's time divided by lab's in the same repeat; expected >= 1.0.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from lab.augment.boxes_and_masks import BoxesAndMasks
from lab.data.voc import voc
from lab.models.detector import detector
from lab.optim.schedules import constant
from lab.run import Run, cadence
from lab.tasks.detection import Detection
from lab.train.loop import train

FOLDER = Path(os.environ.get("LAB_DATA", "data")) / "bccd" / "BCCD"
CLASSES = ["RBC", "WBC", "Platelets"]
BATCH, WORKERS = 8, 2


class VocForTraining(torch.utils.data.Dataset):
    """As torchvision's reference scripts read a folder: Pillow, the annotation's XML at each access, transforms v2."""

    def __init__(self, folder: Path):
        from torchvision.transforms import v2

        self.folder = folder
        self.names = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
        steps = [v2.RandomHorizontalFlip(0.5), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
        self.transform = v2.Compose([*steps, v2.SanitizeBoundingBoxes(), v2.ToPureTensor()])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        from xml.etree import ElementTree

        from PIL import Image
        from torchvision.tv_tensors import BoundingBoxes

        name = self.names[index]
        image = Image.open(self.folder / "JPEGImages" / f"{name}.jpg").convert("RGB")
        found = list(ElementTree.parse(self.folder / "Annotations" / f"{name}.xml").iter("object"))
        sides = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[float(one.findtext(f"bndbox/{side}", "0")) for side in sides] for one in found]
        labels = torch.tensor([CLASSES.index(one.findtext("name", "")) + 1 for one in found])
        size = (image.height, image.width)
        target = {"boxes": BoundingBoxes(boxes, format="XYXY", canvas_size=size), "labels": labels}  # type: ignore[call-overload]
        return self.transform(image, target)


def make_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = detector("ssdlite320_mobilenet_v3_large", len(CLASSES)).train()
    return model, torch.optim.AdamW(model.parameters(), 1e-3)


def time_torchvision(steps: int, trains: bool) -> float:
    def pair(batch: Any) -> Any:
        return tuple(zip(*batch, strict=True))

    loader = DataLoader(
        VocForTraining(FOLDER), BATCH, shuffle=True, num_workers=WORKERS, collate_fn=pair, drop_last=True
    )
    model, optimizer = make_model()
    batches = (batch for _ in range(steps) for batch in loader)
    next(batches)
    start = time.perf_counter()
    for _, (images, targets) in zip(range(steps), batches, strict=False):
        if trains:
            loss = torch.stack(list(model(list(images), list(targets)).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return time.perf_counter() - start


def time_lab(steps: int, trains: bool) -> float:
    data = voc(str(FOLDER), CLASSES, BATCH, seed=0, workers=WORKERS).augmented_by(BoxesAndMasks().augment_example)
    if not trains:
        batches = data.batches(0)
        next(batches)
        start = time.perf_counter()
        for _ in range(steps):
            data.prepare(next(batches))
        return time.perf_counter() - start
    model, optimizer = make_model()
    run = Run(model, Detection(CLASSES), data, optimizer, constant(optimizer), cadence(steps + 1, steps + 1))
    taken = train(run)
    next(taken)
    start = time.perf_counter()
    for _ in taken:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name, trains, steps in (("load", False, 100), ("train", True, 10)):
        rows = []
        for repeat in range(options.repeats):
            order = (time_torchvision, time_lab) if repeat % 2 else (time_lab, time_torchvision)
            seconds = {function: function(steps, trains) for function in order}
            rows.append((seconds[time_torchvision], seconds[time_lab]))
        theirs, ours = (statistics.median(steps * BATCH / row[place] for row in rows) for place in (0, 1))
        ratio = statistics.median(row[0] / row[1] for row in rows)
        print(f"{name}: torchvision {theirs:.0f} images/s, lab {ours:.0f} images/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
