"""Decoding of image files into tensors."""

from pathlib import Path
from typing import BinaryIO

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor


def decode_image(source: Path | BinaryIO) -> Tensor:
    """An image file as uint8 (3, H, W), whatever its colour mode. Raises ValueError if it is not an image."""
    try:
        with Image.open(source) as image:
            pixels = numpy.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} is not an image that can be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
