"""Pictures for TensorBoard: a grid of images, a confusion matrix, attention, boxes."""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor


def are_images(inputs: Any) -> bool:
    """Whether inputs are a batch of grey or colour images, (B, 1 or 3, H, W), B > 0."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3) and len(inputs) > 0


def draw_image_grid(images: Tensor, max_images: int = 36) -> Image.Image:
    """A grid of the first `max_images` images of (B, 1 or 3, H, W), with each channel's range scaled to 0 to 255."""
    images = images[:max_images].detach().float().cpu()
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    pixels = ((images - low) / (high - low).clamp_min(1e-12) * 255).to(torch.uint8).expand(-1, 3, -1, -1)
    columns = max(1, round(len(pixels) ** 0.5))
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[2:]
    sheet = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return enlarge(Image.fromarray(sheet.numpy()))


def enlarge(picture: Image.Image, within: int = 320) -> Image.Image:
    """The picture enlarged by the highest whole factor that keeps its longer side at most `within` pixels."""
    factor = max(1, within // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def draw_confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Image.Image:
    """A picture of the counts: rows are labels, columns predictions. The shade of a cell is its share of the row."""
    num = len(counts)
    cell = 44 if num <= 25 else max(2, 1000 // num)
    named = num <= 25
    margin = longest_name(tuple(classes)) + 12 if named else 12
    top = margin if named else 12
    picture = draw_frame(tuple(classes) if named else (), num, cell, margin, top).copy()
    draw = ImageDraw.Draw(picture)
    for row, values in enumerate(counts):
        total = max(1, sum(values))
        for column, value in enumerate(values):
            if not value:  # it stays white
                continue
            share = value / total
            box = [
                margin + column * cell,
                top + row * cell,
                margin + (column + 1) * cell - 1,
                top + (row + 1) * cell - 1,
            ]
            draw.rectangle(box, fill=tuple(round(255 + share * (dark - 255)) for dark in (8, 48, 107)))
            if named:
                ink = "white" if share > 0.5 else "black"
                draw.text((box[0] + cell / 2, box[1] + cell / 2), str(value), fill=ink, anchor="mm")
    return picture


@lru_cache(maxsize=4)
def draw_frame(names: Sequence[str], num: int, cell: int, margin: int, top: int) -> Image.Image:
    """What all confusion matrices of these classes have in common. Drawing it takes longer than the counts do."""
    picture = Image.new("RGB", (margin + num * cell + 12, top + num * cell + 28), "white")
    draw = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        middle = number * cell + cell / 2
        draw.text((margin - 6, top + middle), name, fill="black", anchor="rm")
        picture.paste(draw_upright(name), (round(margin + middle - 7), top - 6 - int(measure_text(name))))
    draw.text((margin, top + num * cell + 8), "rows: labels   columns: predictions", fill="black")
    return picture


@lru_cache(maxsize=4)
def longest_name(names: Sequence[str]) -> int:
    return max(int(measure_text(name)) for name in names)


def measure_text(text: str) -> float:
    """The width of a text in pixels."""
    return ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)


def draw_upright(text: str) -> Image.Image:
    label = Image.new("RGB", (int(measure_text(text)) + 1, 14), "white")
    ImageDraw.Draw(label).text((0, 0), text, fill="black")
    return label.rotate(90, expand=True)


def encode_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)  # twice as fast as 6, and a quarter larger
    return buffer.getvalue()


def draw_attention(weights: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """A picture of attention weights from 0 to 1: a row for each target token, a column for each source token."""
    cell = 22
    left, top = (12 + max(int(measure_text(name)) for name in [" ", *names]) for names in (rows, columns))
    picture = Image.new("RGB", (left + len(columns) * cell + 12, top + len(rows) * cell + 12), "white")
    draw = ImageDraw.Draw(picture)
    for row, values in enumerate(weights):
        draw.text((left - 6, top + row * cell + cell / 2), rows[row], fill="black", anchor="rm")
        for column, value in enumerate(values):
            corner = (left + column * cell, top + row * cell)
            shade = tuple(round(255 + value * (dark - 255)) for dark in (8, 48, 107))
            draw.rectangle([*corner, corner[0] + cell - 1, corner[1] + cell - 1], fill=shade)
    for column, name in enumerate(columns):
        picture.paste(draw_upright(name), (left + column * cell + 4, top - 6 - int(measure_text(name))))
    return picture


class Box(NamedTuple):
    """A box to draw.  edges: left, top, right, bottom in pixels.  colour: a number; None for a thin white line."""

    edges: Sequence[float]
    text: str
    colour: int | None = None


# of Okabe & Ito 2008, which people with any colour vision tell apart
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def draw_boxes(image: Tensor, boxes: Sequence[Box], longest: int | None = None) -> Image.Image:
    """The image (3, H, W), from 0 to 1, with boxes and their texts.

    longest: length of the longer side of the picture; None for that of the image.
    """
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0)
    picture = Image.fromarray(pixels.numpy())
    factor = longest / max(picture.size) if longest else 1.0
    picture = picture.resize([max(1, round(side * factor)) for side in picture.size]) if longest else picture
    draw = ImageDraw.Draw(picture)
    for edges, text, colour in boxes:
        left, top, right, bottom = (edge * factor for edge in edges)
        corners = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
        if colour is None:
            draw.rectangle(corners, outline="white", width=1)
            continue
        ink = COLOURS[colour % len(COLOURS)]
        draw.rectangle(corners, outline=ink, width=2)
        place = draw.textbbox((corners[0] + 2, max(0.0, corners[1] - 12)), text)
        draw.rectangle(place, fill=ink)
        draw.text(place[:2], text, fill="black")
    return picture


def draw_sheet(images: Sequence[tuple[Tensor, Sequence[Box]]], longest: int = 480) -> Image.Image:
    """Images with their boxes, two in a row; thin white boxes are the true ones."""
    pictures = [draw_boxes(image, boxes, longest) for image, boxes in images]
    rows = [pictures[start : start + 2] for start in range(0, len(pictures), 2)]
    width = max(sum(picture.width + 4 for picture in row) for row in rows)
    sheet = Image.new("RGB", (width, sum(max(p.height for p in row) + 4 for row in rows)), "white")
    top = 0
    for row in rows:
        left = 0
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + 4
        top += max(picture.height for picture in row) + 4
    return sheet
