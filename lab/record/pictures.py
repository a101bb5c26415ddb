"""Pictures for TensorBoard: a grid of inputs, a confusion matrix."""

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor


def image_grid(images: Tensor, longest: int = 36) -> Image.Image | None:
    """The first `longest` of images (B, 1 or 3, H, W), each channel's range spread over 0 to 255.

    None for inputs that are not images.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        return None
    images = images[:longest].detach().float().cpu()
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp_min(1e-12) * 255).to(torch.uint8).expand(-1, 3, -1, -1)
    columns = max(1, round(len(shown) ** 0.5))
    rows = -(-len(shown) // columns)
    height, width = shown.shape[2:]
    sheet = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=torch.uint8)
    for number, image in enumerate(shown):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return enlarge(Image.fromarray(sheet.numpy()))


def enlarge(picture: Image.Image, smallest: int = 320) -> Image.Image:
    factor = max(1, smallest // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def draw_confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Image.Image:
    """Rows are labels, columns predictions; a cell's shade is its share of the row, its number the count."""
    num = len(counts)
    cell = 44 if num <= 25 else max(2, 1000 // num)
    named = num <= 25
    margin = (12 + max(int(text_width(name)) for name in classes)) if named else 12
    top = margin if named else 12
    picture = Image.new("RGB", (margin + num * cell + 12, top + num * cell + 28), "white")
    draw = ImageDraw.Draw(picture)
    for row, values in enumerate(counts):
        for column, value in enumerate(values):
            share = value / max(1, sum(values))
            box = [
                margin + column * cell,
                top + row * cell,
                margin + (column + 1) * cell - 1,
                top + (row + 1) * cell - 1,
            ]
            draw.rectangle(box, fill=tuple(round(255 + share * (dark - 255)) for dark in (8, 48, 107)))
            if named and value:
                ink = "white" if share > 0.5 else "black"
                draw.text((box[0] + cell / 2, box[1] + cell / 2), str(value), fill=ink, anchor="mm")
    if named:
        for number, name in enumerate(classes):
            middle = number * cell + cell / 2
            draw.text((margin - 6, top + middle), name, fill="black", anchor="rm")
            picture.paste(draw_upright(name), (round(margin + middle - 7), top - 6 - int(text_width(name))))
    draw.text((margin, top + num * cell + 8), "rows: labels   columns: predictions", fill="black")
    return picture


def text_width(text: str) -> float:
    return ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)


def draw_upright(text: str) -> Image.Image:
    label = Image.new("RGB", (int(text_width(text)) + 1, 14), "white")
    ImageDraw.Draw(label).text((0, 0), text, fill="black")
    return label.rotate(90, expand=True)


def encode_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
