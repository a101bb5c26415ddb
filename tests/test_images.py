"""Images: what pixels a file of each kind gives, and which files of a folder are examples."""

import io
import os
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, pil_loader
from torchvision.transforms.v2 import functional as F

from lab.data.decode import check_image, decode_image
from lab.data.image_files import IMAGE_SUFFIXES, class_folders, image_folder_files
from lab.data.image_folder import image_folder
from lab.identity.fingerprint import fingerprint
from lab.identity.identity import Identifier

FACTS = {"num_classes": 2, "classes": ["a", "b"], "shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}
RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def saved(image: Image.Image, form: str, **options) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    stream.seek(0)
    return stream


def with_alpha(mode: str) -> Image.Image:
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(RGB[:, :, 0]))
    return image


def turned(image: Image.Image) -> dict:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    return {"exif": exif.tobytes()}


COLOURS = Image.fromarray(RGB)
KINDS = {
    "gray": saved(COLOURS.convert("L"), "PNG"),
    "black and white": saved(COLOURS.convert("1"), "PNG"),
    "palette": saved(COLOURS.convert("P"), "PNG"),
    "palette with a transparent colour": saved(COLOURS.convert("P"), "PNG", transparency=3),
    "palette with transparencies": saved(COLOURS.convert("P"), "PNG", transparency=bytes(range(256))),
    "gray and alpha": saved(with_alpha("L"), "PNG"),
    "colour and alpha": saved(with_alpha("RGB"), "PNG"),
    "webp and alpha": saved(with_alpha("RGB"), "WEBP", lossless=True, exact=True),
    "cmyk": saved(COLOURS.convert("CMYK"), "JPEG"),
    "cmyk tiff": saved(COLOURS.convert("CMYK"), "TIFF"),
    "ycbcr": saved(COLOURS.convert("YCbCr"), "JPEG"),
    "exif": saved(COLOURS, "JPEG", **turned(COLOURS)),
    "gif": saved(COLOURS, "GIF", save_all=True, append_images=[COLOURS.rotate(90)]),
    "webp": saved(COLOURS, "WEBP", save_all=True, append_images=[COLOURS.rotate(180)], lossless=True),
    "apng": saved(COLOURS, "PNG", save_all=True, append_images=[COLOURS.rotate(180)]),
    "ppm": saved(COLOURS, "PPM"),
    "tiff": saved(COLOURS, "TIFF"),
}


@pytest.mark.filterwarnings("error:Palette images")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_eight_bits_gives_the_pixels_that_torchvisions_image_folder_reads(kind, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(KINDS[kind].getvalue())
    with Image.open(path) as image:
        image.info.pop("transparency", None)
        expected = np.array(image.convert("RGB"))
    assert torch.equal(decode_image(path), torch.from_numpy(expected).permute(2, 0, 1))
    if "transparenc" not in kind:  # where Pillow warns
        assert np.array_equal(expected, np.array(pil_loader(path)))


RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("PPM", {})])
def test_sixteen_bits_of_gray_are_scaled_as_torchvision_scales_them(form, options):
    pixels = decode_image(saved(Image.fromarray(RAMP), form, **options))
    expected = F.to_dtype(torch.from_numpy(RAMP), torch.uint8, scale=True)
    assert torch.equal(pixels, expected.expand(3, 64, 64))
    assert len(pixels.unique()) == 256


def test_big_endian_and_ten_bit_gray_are_scaled_to_the_whole_range():
    big_endian = Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes())
    assert torch.equal(decode_image(saved(big_endian, "TIFF")), decode_image(saved(Image.fromarray(RAMP), "TIFF")))
    ten_bits = io.BytesIO(b"P5 3 1 1023\n" + np.array([0, 512, 1023], dtype=">u2").tobytes())
    assert decode_image(ten_bits)[0, 0].tolist() == [0, 128, 255]


def test_sixteen_bits_of_colour_keep_their_high_byte():
    """A PNG of one pixel, (0x1234, 0x8000, 0xfeff), written by hand, as Pillow writes no such file."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + bytes.fromhex("12348000feff")
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode_image(io.BytesIO(content)).flatten().tolist() == [0x12, 0x80, 0xFE]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_an_unknown_range_are_refused_by_the_files_name(mode, tmp_path):
    Image.fromarray(RGB[:, :, 0]).convert(mode).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif.*unknown range; save it with 8 or 16 bits"):
        decode_image(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_broken_files_are_refused_by_name(tmp_path, monkeypatch):
    for name, content in (
        ("empty.png", b""),
        ("text.jpg", b"no image"),
        ("half.png", saved(COLOURS.resize((99, 99)), "PNG").getvalue()[:900]),
        ("half.jpg", saved(COLOURS.resize((99, 99)), "JPEG").getvalue()[:900]),
        ("half.tif", saved(COLOURS, "TIFF").getvalue()[:60]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not an image that can be read"):
            decode_image(tmp_path / name)
    COLOURS.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"bomb\.png is not an image.*exceeds limit"):
        decode_image(tmp_path / "bomb.png")


@pytest.fixture
def pictures(tmp_path):
    """Two classes, 12 images each in train and 4 in test."""
    generator = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(number):
                image = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
                image.save(tmp_path / split / name / f"{index:02}.png")
    return tmp_path


def read(folder, **options) -> Any:
    return image_folder(str(folder), **{**FACTS, "batch_size": 4, "seed": 0, "workers": 0, **options})


def folder_id(folder) -> str:
    data = {"_target_": "lab.data.image_folder.image_folder", "folder": str(folder)}
    return Identifier()({"seed": 0, "data": data}).id


def add_litter(folder) -> None:
    for split in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (folder / split / name).mkdir()
            COLOURS.save(folder / split / name / "0.png")
        (folder / split / "notes.txt").write_text("beside the classes")
        (folder / split / "loose.png").write_bytes(KINDS["gray"].getvalue())
        for name in (".DS_Store", "._00.png", "Thumbs.db", "labels.csv", "README"):
            (folder / split / "a" / name).write_bytes(b"\0")
        (folder / split / "a" / ".hidden").mkdir()
        COLOURS.save(folder / split / "a" / ".hidden" / "0.png")
        os.symlink("nowhere.png", folder / split / "a" / "broken.png")
    (folder / ".DS_Store").write_bytes(b"\0")


def test_what_is_no_image_and_no_class_is_left_out_and_counted(pictures):
    clean = read(pictures)
    add_litter(pictures)
    assert class_folders(pictures / "train") == ["a", "b"]
    data = read(pictures)
    for split in ("train", "val", "test"):
        assert all(map(torch.equal, data.splits[split], clean.splits[split]))
    assert clean.description == "32 images in 2 classes (24 train, 8 test)"
    assert data.description == (
        "32 images in 2 classes (24 train, 8 test); 22 other files left out: 12 hidden, 4 beside the class folders, "
        "2 without a suffix, 2 broken links or no regular files, 2 named .csv"
    )


def test_a_stray_file_does_not_change_the_id_and_an_image_does(pictures):
    before = folder_id(pictures)
    add_litter(pictures)
    (pictures / "train" / "a" / "notes.txt").write_text("x")
    assert folder_id(pictures) == before
    COLOURS.save(pictures / "train" / "a" / "00.png")
    changed = folder_id(pictures)
    COLOURS.save(pictures / "test" / "b" / "new.TIFF")
    assert len({before, changed, folder_id(pictures)}) == 3


def test_a_run_counts_the_files_that_its_id_hashes(pictures):
    add_litter(pictures)
    assert len(list(image_folder_files(pictures))) == 32


def test_hidden_files_change_no_hash_of_any_folder(tmp_path):
    (tmp_path / "x.csv").write_text("1")
    before = fingerprint(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (".DS_Store", ".ipynb_checkpoints/x.csv"):
        (tmp_path / name).write_text("1")
    assert fingerprint(tmp_path) == before
    (tmp_path / "y.csv").write_text("1")
    assert fingerprint(tmp_path) != before


def test_images_are_found_by_every_suffix_of_torchvisions_in_any_case(pictures):
    assert set(IMG_EXTENSIONS) <= IMAGE_SUFFIXES
    for suffix in (".tif", ".PPM", ".pgm", ".TIFF", ".WebP", ".bmp", ".JPG"):
        COLOURS.save(pictures / "train" / "a" / f"more{suffix}")
    ours = [path for path in image_folder_files(pictures) if "train" in path.parts]
    theirs = TorchvisionFolder(str(pictures / "train"))
    assert [str(path) for path in ours] == [path for path, _ in theirs.samples]
    assert len(ours) == 31


def test_a_folder_named_like_an_image_is_a_folder(pictures):
    (pictures / "train" / "a" / "shot.jpg").mkdir()
    COLOURS.save(pictures / "train" / "a" / "shot.jpg" / "0.png")
    assert read(pictures).description.startswith("33 images in 2 classes (25 train")


def test_linked_folders_are_read_and_links_in_a_circle_are_read_once(pictures, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    COLOURS.save(elsewhere / "0.png")
    os.symlink(elsewhere, pictures / "train" / "a" / "linked")
    os.symlink(pictures / "train" / "a", elsewhere / "back")
    os.symlink("..", pictures / "train" / "b" / "up")
    assert read(pictures).description.startswith("33 images in 2 classes (25 train")
    assert len(fingerprint(pictures)) == 64


def test_a_class_without_training_images_is_refused_by_its_folder(pictures):
    for name in ("c", "d"):
        (pictures / "train" / name).mkdir()
    (pictures / "train" / "c" / "x.heic").write_bytes(b"\0")
    with pytest.raises(FileNotFoundError, match=r"no images in .*train/c, .*train/d; a class needs some"):
        read(pictures, num_classes=4, classes=["a", "b", "c", "d"])
    for name in ("c/x.heic", "c", "d"):
        path = pictures / "train" / name
        path.rmdir() if path.is_dir() else path.unlink()
    for path in (pictures / "test" / "b").iterdir():
        path.unlink()
    assert len(read(pictures).splits["test"].labels) == 4, "a class may be absent from the test set"


def test_all_broken_images_are_counted_and_named(pictures):
    for name in ("03", "05"):
        (pictures / "train" / "b" / f"{name}.png").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"2 of 24 images cannot be read.*b/03\.png .*b/05\.png ") as caught:
        read(pictures, val_share=0)
    assert "remove" in str(caught.value)
    with pytest.raises(ValueError, match=r"b/0[35]\.png is not an image"):
        list(zip(range(6), read(pictures, val_share=0, in_memory_mb=0).batches(), strict=False))


@pytest.mark.parametrize("in_memory_mb", [2000, 0])
def test_broken_images_are_left_out_where_that_is_said(pictures, in_memory_mb):
    (pictures / "train" / "b" / "03.png").write_bytes(b"\0")
    data = read(pictures, broken="leave_out", in_memory_mb=in_memory_mb, val_share=0)
    assert "(23 train, 8 test); 1 other files left out: 1 that cannot be read" in data.description
    assert "03.png" in data.description
    assert [len(batch[1]) for batch in islice(data.batches(), 6)] == [4] * 6
    with pytest.raises(ValueError, match="broken=ignore is neither"):
        read(pictures, broken="ignore")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_photo_is_turned_as_its_exif_says_where_that_is_asked_for(form, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    stream = saved(COLOURS, form, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(stream)).convert("RGB")
    stream.seek(0)
    assert np.array_equal(decode_image(stream, upright=True).permute(1, 2, 0), np.array(upright))
    stream.seek(0)
    assert decode_image(stream).shape == (3, 6, 5)


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_file_has_pillows_pixels(quality, subsampling):
    smooth = Image.fromarray(RGB).resize((97, 61), Image.Resampling.BICUBIC)
    for image in (smooth, smooth.convert("L")):
        stream = saved(image, "JPEG", quality=quality, progressive=quality == 75, **({"subsampling": subsampling}))
        expected = np.array(Image.open(stream).convert("RGB"))
        stream.seek(0)
        assert np.array_equal(decode_image(stream).permute(1, 2, 0), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_file_that_is_cut_off_is_found_without_decoding_whole_ones(tmp_path, form, monkeypatch):
    content = saved(COLOURS.resize((99, 99)), form).getvalue()
    (tmp_path / "whole").write_bytes(content)
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    check_image(tmp_path / "whole")
    with pytest.raises(ValueError, match="cut is not an image that can be read"):
        check_image(tmp_path / "cut")
    if form in ("JPEG", "PNG"):
        monkeypatch.setattr("lab.data.decode.decode_image", None)
        check_image(tmp_path / "whole")
