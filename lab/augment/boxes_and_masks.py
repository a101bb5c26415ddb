"""Augmentations of images that move what their targets locate along, boxes and masks, by torchvision's transforms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.nest import describe_shapes
from lab.seeding import temporary_seed

MASKS = ("mask", "masks")


class BoxesAndMasks(nn.Module):
    """Changes each image of a batch, and moves its target along. A target is a dict that may hold `boxes` (N, 4), as
    left, top, right, bottom, and `masks` (N, H, W), with further tensors of N rows; or a tensor (H, W), a mask with a
    class for each pixel. Images are uint8.

    flip: probability of a horizontal flip.
    scale: smallest and largest factor by which the image is resized; then a part of its old size is cut out, or it is
        padded to that with gray (Ghiasi et al. 2021, arXiv:2012.07177, sec. 3, large-scale jitter). None: as it is.
    crop: whether to cut out a part that keeps boxes to a random share (Liu et al. 2016, arXiv:1512.02325, sec. 2.2).
        Images then differ in size.
    color: probability of a change of brightness, contrast, saturation and hue, as in the same paper.
    ignored: class of the pixels of a mask that lie outside of the image.
    Boxes are clipped to the image; those that are left with a side below 1 pixel are dropped, with their rows.
    """

    def __init__(
        self,
        flip: float = 0.5,
        scale: Sequence[float] | None = None,
        crop: bool = False,
        color: float = 0.0,
        ignored: int = 255,
    ):
        from torchvision.transforms import v2
        from torchvision.tv_tensors import Mask

        super().__init__()
        if not (0 <= flip <= 1 and 0 <= color <= 1):
            raise ValueError(f"flip={flip} and color={color} are probabilities, from 0 to 1")
        if scale is not None and not (len(scale) == 2 and 0 < scale[0] <= scale[1]):
            raise ValueError(f"scale={list(scale)} is not two factors above 0, the smaller one first")
        self.scale, self.crop = scale, crop
        self.fill: Any = {Mask: ignored, "others": 127}
        self.cut = v2.RandomIoUCrop()
        self.color = v2.RandomPhotometricDistort(p=color) if color else None
        self.flip = v2.RandomHorizontalFlip(flip)

    def forward(self, batch: Any, generator: torch.Generator) -> Any:
        """The batch, (images, targets), each a tensor or a list, augmented image by image."""
        match batch:
            case (images, targets) if len(images) == len(targets):
                pairs = []
                for image, target in zip(images, targets, strict=True):
                    with temporary_seed(int(torch.randint(2**62, (), generator=generator))):
                        pairs.append(self.augment_example((image, target)))
                return join_like(images, [image for image, _ in pairs]), join_like(targets, [t for _, t in pairs])
        raise ValueError(
            f"boxes_and_masks takes batches of two parts, images and their targets; got {describe_shapes(batch)}"
        )

    def augment_example(self, example: Any) -> Any:
        """One pair of an image and its target; draws from the global generators."""
        image, target = wrap_example(*example)
        if self.color is not None:
            image, target = self.color(image, target)
        if self.scale is not None:
            image, target = self.rescale(image, target)
        if self.crop:
            if not (isinstance(target, dict) and "boxes" in target):
                raise ValueError("boxes_and_masks: crop=true cuts around boxes, which these targets do not have")
            image, target = self.cut(image, target)
        return unwrap_example(*self.flip(image, target))

    def rescale(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        from torchvision.transforms import v2

        size = (image.shape[-2], image.shape[-1])
        smallest, largest = self.scale or (1.0, 1.0)
        resize = v2.ScaleJitter(size, (smallest, largest), antialias=True)
        return v2.RandomCrop(size, pad_if_needed=True, fill=self.fill)(*resize(image, target))


def wrap_example(image: Tensor, target: Any) -> tuple[Tensor, Any]:
    """The pair as torchvision's transforms take it. Raises ValueError for targets that they cannot move."""
    from torchvision import tv_tensors

    size = image.shape[-2:]
    image = tv_tensors.Image(image)
    if isinstance(target, Tensor) and target.shape == size:
        return image, tv_tensors.Mask(target)
    if isinstance(target, Mapping) and ("boxes" in target or "masks" in target):
        wrapped = dict(target)
        if "boxes" in target:
            wrapped["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=tuple(size))  # type: ignore[call-overload]
        for name in MASKS:
            if name in target:
                wrapped[name] = tv_tensors.Mask(target[name])
        return image, wrapped
    raise ValueError(
        f"boxes_and_masks moves boxes and masks in dicts, or masks {tuple(size)}; got {describe_shapes(target)} for an "
        f"image {tuple(image.shape)}; for labels give another augmentation"
    )


def unwrap_example(image: Tensor, target: Any) -> tuple[Tensor, Any]:
    """Plain tensors again, without the boxes that have left the image."""
    from torchvision.ops import clip_boxes_to_image

    image = image.as_subclass(Tensor)
    if not isinstance(target, dict):
        return image, target.as_subclass(Tensor)
    plain = {name: part.as_subclass(Tensor) if isinstance(part, Tensor) else part for name, part in target.items()}
    if "boxes" not in plain:
        return image, plain
    clipped = clip_boxes_to_image(plain["boxes"], (image.shape[-2], image.shape[-1]))
    kept = ((clipped[:, 2:] - clipped[:, :2]) >= 1).all(1)
    rows = {
        name: part[kept] if isinstance(part, Tensor) and part.dim() and len(part) == len(kept) else part
        for name, part in {**plain, "boxes": clipped}.items()
    }
    return image, rows


def join_like(original: Any, parts: Sequence[Any]) -> Any:
    """A list, or a tensor where the original is one. Raises ValueError where the parts then differ in size."""
    if not isinstance(original, Tensor):
        return list(parts)
    if len({part.shape for part in parts}) > 1:
        raise ValueError("boxes_and_masks: crop=true gives images of different sizes; give crop=false for such batches")
    return torch.stack(list(parts))
