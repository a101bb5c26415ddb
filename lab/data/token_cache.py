"""Tokenized texts, kept beside the data by their content, so that a large corpus is tokenized once."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from lab.data.sequences import Sequences

FOLDER = ".tokens"  # hidden, so that it is no part of the data
WORTH_CHARACTERS = 20_000_000  # below this many, tokenizing takes a second or two


def cached_tokens(near: Path, parts: Iterable[str], make: Callable[[], Sequences]) -> Sequences:
    """The sequences that `make` gives, read from a file in `near`/.tokens where the same were made before.

    parts: everything that decides the tokens: the tokenizer, its options, the texts.
    A folder that cannot be written to is left alone.
    """
    from safetensors.torch import load_file, save_file

    file = near / FOLDER / f"{hash_parts(parts)}.safetensors"
    with suppress(Exception):  # no such file, or one that is damaged: it is made again
        kept = load_file(file)
        return Sequences(kept["tokens"], kept["starts"])
    made = make()
    partial = file.with_suffix(f".{hash_parts([str(id(made))])[:8]}.partial")
    try:
        file.parent.mkdir(exist_ok=True)
        save_file({"tokens": made.tokens, "starts": made.starts}, partial)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()
    return made


def hash_parts(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))  # so that parts cannot run into one another
        digest.update(content)
    return digest.hexdigest()[:32]
