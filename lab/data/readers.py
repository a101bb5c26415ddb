"""How a finished run reads new inputs: what of its data set is kept in its directory, without the examples.

A data set's `reader` is kept as reader.json and the files that it names. It stands in for the data set where a run is
built to predict.
"""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lab.data.decode import CenterCrop, decode_image
from lab.data.image_files import IMAGE_SUFFIXES, visible_files
from lab.data.sequences import join_sequences
from lab.data.standardize import Standardize, scale_image_list
from lab.data.tokenize import encode_texts, pad_id, read_tokenizer

READER_FILE = "reader.json"


class Reader:
    """A data set without examples.  files: names and contents that a run keeps."""

    kind = ""
    steps_per_epoch = 1

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `load`, as JSON holds them."""
        return {}

    @property
    def files(self) -> dict[str, bytes]:
        return {READER_FILE: json.dumps({"kind": self.kind, **self.options}).encode()}

    def expand(self, inputs: Sequence[str]) -> list[str]:
        """The inputs to read: these, or what lies in them. Raises ValueError for one that is not there."""
        return list(inputs)

    def read(self, inputs: Sequence[str]) -> Any:
        """What the task's `predict` takes for these inputs. Raises ValueError for one that cannot be read."""
        raise NotImplementedError

    def batches(self, after: int = 0) -> Iterator[Any]:
        return iter(())

    def val(self) -> Iterator[Any]:
        return iter(())

    def test(self) -> Iterator[Any]:
        return iter(())


class ImageReader(Reader):
    """Image files, resized until they cover (H, W) and cropped at the center, then standardised: (B, C, H, W) float32.

    shape: (C, H, W).  mean, std: as `lab.data.standardize.Standardize` takes them.
    """

    kind = "images"

    def __init__(self, shape: Sequence[int], mean: Sequence[float], std: Sequence[float]):
        self.shape, self.mean, self.std = list(shape), list(mean), list(std)
        self.crop, self.prepare = CenterCrop(self.shape), Standardize(mean, std)

    @classmethod
    def load(cls, directory: Path, **options: Any) -> "ImageReader":
        return cls(**options)

    @property
    def options(self) -> dict[str, Any]:
        return {"shape": self.shape, "mean": self.mean, "std": self.std}

    def expand(self, inputs: Sequence[str]) -> list[str]:
        return expand_images(inputs)

    def read(self, inputs: Sequence[str]) -> Tensor:
        images = torch.stack([self.crop(decode_image(Path(path))) for path in inputs])
        return self.prepare((images, None))[0]


class ImageListReader(Reader):
    """Image files, each of its own size: a list of (3, H, W), float32 from 0 to 1."""

    kind = "image_list"

    @classmethod
    def load(cls, directory: Path) -> "ImageListReader":
        return cls()

    def expand(self, inputs: Sequence[str]) -> list[str]:
        return expand_images(inputs)

    def read(self, inputs: Sequence[str]) -> list[Tensor]:
        return scale_image_list(([decode_image(Path(path)) for path in inputs], None))[0]


def expand_images(inputs: Sequence[str]) -> list[str]:
    """The inputs, with the images of a folder in its place."""
    found: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            images = sorted(str(file) for file in visible_files(path) if file.suffix.lower() in IMAGE_SUFFIXES)
            if not images:
                raise ValueError(f"no images below {given}")
            found += images
        elif path.is_file():
            found.append(given)
        else:
            raise ValueError(f"no file {given}; this run takes images: files or folders of them")
    return found


class TokenizerReader(Reader):
    """A reader with one tokenizer, the first argument of its class."""

    tokenizer: Any

    @classmethod
    def load(cls, directory: Path, **options: Any) -> Self:
        return cls(read_tokenizer(str(directory / "tokenizer.json")), **options)  # type: ignore[call-arg]

    @property
    def files(self) -> dict[str, bytes]:
        return {**super().files, "tokenizer.json": self.tokenizer.to_str().encode()}


class TextReader(TokenizerReader):
    """Texts, or pairs of texts with a tab between them, as {"input_ids", "attention_mask"}, each (B, L)."""

    kind = "texts"

    def __init__(self, tokenizer: Any, max_length: int, is_pair: bool):
        self.tokenizer, self.max_length, self.is_pair = tokenizer, max_length, is_pair

    @property
    def options(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "is_pair": self.is_pair}

    def read(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        texts, pairs = list(inputs), None
        if self.is_pair:
            split = [text.partition("\t") for text in inputs]
            if alone := [first for first, tab, _ in split if not tab]:
                raise ValueError(f"{alone[0][:40]!r} is one text; this run takes two, with a tab between them")
            texts, pairs = [first for first, _, _ in split], [second for _, _, second in split]
        return pad_texts(self.tokenizer, texts, pairs, self.max_length)


class TranslationReader(Reader):
    """Sentences to translate, as {"input_ids", "attention_mask"}, each (B, S).

    first, last, pad: special tokens of the target.
    """

    kind = "translation"

    def __init__(self, source_tokenizer: Any, target_tokenizer: Any, first: int, last: int, max_length: int):
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.first, self.last, self.max_length = first, last, max_length
        self.pad = pad_id(target_tokenizer)
        self.sentences: Sequence[tuple[str, str]] = ()

    @classmethod
    def load(cls, directory: Path, **options: Any) -> "TranslationReader":
        names = ("source_tokenizer.json", "target_tokenizer.json")
        return cls(*(read_tokenizer(str(directory / name)) for name in names), **options)

    @property
    def options(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "max_length": self.max_length}

    @property
    def files(self) -> dict[str, bytes]:
        tokenizers = {"source": self.source_tokenizer, "target": self.target_tokenizer}
        kept = {f"{name}_tokenizer.json": tokenizer.to_str().encode() for name, tokenizer in tokenizers.items()}
        return {**super().files, **kept}

    def read(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        return pad_texts(self.source_tokenizer, inputs, None, self.max_length)


class PromptReader(TokenizerReader):
    """Beginnings of texts, which are taken as they are.  bos, eos: tokens that begin and end a document, or None."""

    kind = "prompts"

    def __init__(self, tokenizer: Any, bos: int | None, eos: int | None):
        self.tokenizer, self.bos, self.eos = tokenizer, bos, eos

    @property
    def options(self) -> dict[str, Any]:
        return {"bos": self.bos, "eos": self.eos}

    def read(self, inputs: Sequence[str]) -> list[str]:
        return list(inputs)


READERS = {
    "images": "lab.data.readers.ImageReader",
    "image_list": "lab.data.readers.ImageListReader",
    "texts": "lab.data.readers.TextReader",
    "translation": "lab.data.readers.TranslationReader",
    "prompts": "lab.data.readers.PromptReader",
    "rows": "lab.data.csv_table.TableReader",
}


def load_reader(directory: Path, content: dict[str, Any]) -> Reader:
    """The reader that a run keeps.  content: that of reader.json. Raises ValueError for one that is damaged."""
    options = {name: value for name, value in content.items() if name != "kind"}
    if content.get("kind") not in READERS:
        raise ValueError(f"{directory / READER_FILE} has no kind of inputs that is known here: {content.get('kind')!r}")
    module, _, name = READERS[content["kind"]].rpartition(".")
    try:
        return getattr(importlib.import_module(module), name).load(directory, **options)
    except TypeError as error:
        raise ValueError(f"{directory / READER_FILE} is not as a run writes it: {error}") from error


def pad_texts(tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> dict[str, Tensor]:
    sequences = join_sequences(encode_texts(tokenizer, texts, pairs, max_length))
    ids, mask = sequences.take(torch.arange(len(texts)), pad_id(tokenizer))
    return {"input_ids": ids, "attention_mask": mask}


def image_reader(prepare: Any, inputs: Tensor | None) -> Reader | None:
    """The reader of a data set of images, from its preparation and one or more of its images (..., C, H, W); None for
    other data."""
    if not isinstance(prepare, Standardize) or inputs is None or inputs.dtype != torch.uint8 or inputs.dim() < 3:
        return None
    return ImageReader(inputs.shape[-3:], prepare.mean, prepare.std)
