"""Decoding of image files into tensors."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

ORIENTATION = 0x0112  # EXIF's tag
WHOLE_FILES = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how files begin, and what is near their end
TAIL = 4096  # bytes


def decode_image(source: Path | BinaryIO, name: str | None = None, upright: bool = False) -> Tensor:
    """An image file as uint8 (3, H, W), as torchvision's ImageFolder reads it, with Pillow's `convert("RGB")`:
    transparency is dropped, so that a transparent pixel has the colour that is stored below it; of an animation the
    first frame is read.

    Images of 16 bits are scaled to 8 by their high byte, colours by Pillow, gray ones here, where `convert` would clip
    them to white. JPEG files are read by simplejpeg, which gives Pillow's pixels several times as fast.
    name: name of the source in messages; None for the source itself.
    upright: whether to turn a photo as its EXIF orientation says. Boxes and masks then no longer fit it, unless they
        were drawn on the turned photo.
    Raises ValueError with the name if it is not an image, is truncated or too large, or has 32-bit or floating-point
    pixels, whose range no file tells.
    """
    try:
        content = source.read_bytes() if isinstance(source, Path) else source.read()
        pixels = decode_jpeg(content, upright)
        if pixels is None:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                pixels = rgb_pixels(ImageOps.exif_transpose(image) if upright else image)
    except MemoryError:
        raise
    except Exception as error:  # for broken files, Pillow's decoders raise errors of many kinds
        reason = "it is none of the formats that Pillow knows" if "cannot identify image" in str(error) else error
        raise ValueError(f"{name or source} is not an image that can be read: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def decode_jpeg(content: bytes, upright: bool) -> numpy.ndarray | None:
    """The pixels of a plain JPEG file as uint8 (H, W, 3). None for what is left to Pillow: other formats, CMYK, photos
    to be turned, damaged files, and images so large that Pillow warns of them."""
    if not content.startswith(b"\xff\xd8"):
        return None
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        pixels = int(height) * int(width)
        if colours in ("CMYK", "YCCK") or pixels > (Image.MAX_IMAGE_PIXELS or pixels):
            return None
        if upright and b"Exif" in content[:65536] and orientation(content) != 1:
            return None
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError:
        return None


def orientation(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as image:
        return image.getexif().get(ORIENTATION, 1)


def image_size(path: Path) -> tuple[int, int]:
    """The height and width of an image file, from its header. Raises ValueError for a file that is no image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # as above
        raise ValueError(f"{path} is not an image that can be read: {error}") from error


def check_image(path: Path) -> None:
    """Raises ValueError, as `decode_image` does, for a file that is cut off or no image. Whether a JPEG or a PNG is
    whole is told by its end; files of other kinds are decoded."""
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(max(0, file.seek(0, 2) - TAIL))
        end = file.read()
    for kind, last in WHOLE_FILES:
        if start.startswith(kind) and last in end:
            return
    decode_image(path)


def rgb_pixels(image: Image.Image) -> numpy.ndarray:
    """The pixels of a loaded image as uint8 (H, W, 3)."""
    if is_16_bit_gray(image):
        high_byte = (numpy.asarray(image).astype(numpy.int64) >> 8).astype(numpy.uint8)
        return high_byte[:, :, None].repeat(3, 2)
    if image.mode in ("I", "F"):
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise ValueError(f"its pixels are {kind} numbers of an unknown range; save it with 8 or 16 bits")
    image.info.pop("transparency", None)  # Pillow would warn that it drops it
    return numpy.array(image.convert("RGB"))


def is_16_bit_gray(image: Image.Image) -> bool:
    """Whether an image is gray with values up to 65,535. Pillow scales PGM files of more than 8 bits to that range, and
    gives them the mode of 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


class CenterCrop:
    """Resizes an image until it covers (H, W), then crops its center to (C, H, W)."""

    def __init__(self, shape: Sequence[int]):
        self.channels, self.height, self.width = shape

    def __call__(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as F

        factor = max(self.height / image.shape[1], self.width / image.shape[2])
        size = [max(self.height, round(image.shape[1] * factor)), max(self.width, round(image.shape[2] * factor))]
        image = F.center_crop(F.resize(image, size), [self.height, self.width])
        return F.rgb_to_grayscale(image) if self.channels == 1 else image
