"""Texts for language models: plain text or JSON lines, packed into blocks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.data.order import hold_out
from lab.data.packing import Blocks, Documents, PackedText, describe_blocks, pack
from lab.data.text_table import read_lines, read_rows
from lab.data.tokenize import FIRST, LAST, make_tokenizer, pad_id, token_id, tokenize
from lab.text import suggest

DOCUMENTS = ("line", "paragraph", "file")


def text_corpus(
    batch_size: int,
    seed: int,
    *,
    train_file: str,
    val_file: str | None = None,
    test_file: str | None = None,
    documents: str = "paragraph",
    text: str = "text",
    val_share: float = 0.05,
    test_share: float = 0.05,
    train_examples: int | None = None,
    tokenizer: str = "byte_bpe",
    vocab_size: int = 8000,
    max_length: int = 256,
    packing: str = "best_fit",
    lowercase: bool = False,
    bos: str | None = FIRST,
    eos: str | None = LAST,
    download: bool = False,
) -> PackedText:
    """Documents as blocks of `max_length` tokens (`lab.data.packing.PackedText`).

    train_file, val_file, test_file: plain text, gzip of it (`.gz`), or JSON lines (`.jsonl`) with a column `text`.
        Without a val_file, `val_share` of the training documents are drawn from the seed; without a test_file,
        `test_share` of them, the same for every seed.
    documents: what a document of a plain text is: a line, a paragraph (blank lines between them) or the file.
    train_examples: number of training documents; None: all.
    tokenizer, vocab_size, lowercase, download: as `lab.data.tokenize.make_tokenizer` takes them; the vocabulary is that
        of the training documents alone.
    packing: as `lab.data.packing.pack` takes it.  bos, eos: special tokens around each document; None: none.
    Raises ValueError with file and line for what cannot be read.
    """
    files = {"train": train_file, "val": val_file, "test": test_file}
    texts = {name: list(read_documents(Path(file), documents, text)) for name, file in files.items() if file}
    texts = hold_out(texts, val_share, test_share, seed)
    texts["train"] = texts["train"][:train_examples]
    made = make_tokenizer(tokenizer, texts["train"], vocab_size, lowercase, download)
    return pack_splits(
        {name: encode_documents(made, part, Path(train_file).parent, bos, eos) for name, part in texts.items()},
        made,
        batch_size=batch_size,
        seed=seed,
        max_length=max_length,
        packing=packing,
        bos=bos,
        eos=eos,
    )


def pack_splits(
    documents: dict[str, Documents],
    tokenizer: Any,
    *,
    batch_size: int,
    seed: int,
    max_length: int,
    packing: str,
    bos: str | None,
    eos: str | None,
) -> PackedText:
    """The data set of these documents of each split."""
    splits = {name: pack(part, max_length, packing, pad_id(tokenizer)) for name, part in documents.items()}
    return PackedText(
        splits,
        tokenizer,
        batch_size=batch_size,
        seed=seed,
        bos=None if bos is None else token_id(tokenizer, bos, "bos"),
        eos=None if eos is None else token_id(tokenizer, eos, "eos"),
        token_bytes=count_bytes(tokenizer),
        description=describe_blocks(
            splits, padding_share(documents["train"], splits["train"]), tokenizer.get_vocab_size()
        ),
    )


def padding_share(documents: Documents, blocks: Blocks) -> float:
    return max(0.0, 1 - len(documents.sequences.tokens) / max(1, blocks.tokens.numel()))


def read_documents(path: Path, documents: str, column: str) -> Iterator[str]:
    """The documents of a file, without white space around them. Raises ValueError for a file without any."""
    if documents not in DOCUMENTS:
        raise ValueError(f"documents={documents} is none of {', '.join(DOCUMENTS)}; {suggest(documents, DOCUMENTS)}")
    if path.suffix == ".jsonl":
        found = (text for _, (text,) in read_rows(path, [column]))
    elif documents == "line":
        found = read_lines(path)
    elif documents == "paragraph":
        found = paragraphs(read_lines(path))
    else:
        found = iter(["".join(read_lines(path))])
    is_empty = True
    for text in found:
        if text := text.strip():
            is_empty = False
            yield text
    if is_empty:
        raise ValueError(f"{path} has no text")


def paragraphs(lines: Iterator[str]) -> Iterator[str]:
    gathered: list[str] = []
    for line in lines:
        if line.strip():
            gathered.append(line)
        elif gathered:
            yield "".join(gathered)
            gathered = []
    yield "".join(gathered)


def encode_documents(tokenizer: Any, texts: Sequence[str], near: Path, bos: str | None, eos: str | None) -> Documents:
    """The tokens of each text, between its first and last token."""
    before = [] if bos is None else [token_id(tokenizer, bos, "bos")]
    after = [] if eos is None else [token_id(tokenizer, eos, "eos")]
    return Documents(tokenize(tokenizer, texts, near, special=False, before=before, after=after))


def count_bytes(tokenizer: Any) -> Tensor | None:
    """The number of bytes (V,) of each token of a byte-level vocabulary, 0 for special ones; None for other
    vocabularies."""
    if "ByteLevel" not in str(tokenizer.pre_tokenizer):
        return None
    special = set(tokenizer.get_added_tokens_decoder())
    lengths = torch.zeros(max(tokenizer.get_vocab().values()) + 1)
    for token, number in tokenizer.get_vocab().items():
        lengths[number] = 0 if number in special else len(token)
    return lengths
