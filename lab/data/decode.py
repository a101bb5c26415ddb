"""An image file to a tensor."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Item = TypeVar("Item")


def decode_image(source: Path | BinaryIO) -> Tensor:
    """uint8 (3, H, W), whatever the file's own mode. Raises ValueError for what is not an image."""
    try:
        with Image.open(source) as image:
            pixels = numpy.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} is not an image that can be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def with_progress(items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items, with a progress bar on a terminal while they are read."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, "reading images", total, console=console, transient=True, disable=not console.is_terminal)
