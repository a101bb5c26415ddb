"""Reading of state dicts from files of weights, without unpickling code."""

import hashlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.models.low_rank import merge_low_rank

State = dict[str, Tensor]


def read_weights(files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """The merged contents of the files, and the SHA-256 of the file; for several files, the SHA-256 of their hashes.

    Raises ValueError for a file that is damaged or holds code.
    """
    contents: dict[str, Any] = {}
    digests = []
    for file in files:
        digests.append(hash_file(file))
        content = read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file} holds a {type(content).__name__}, not a state dict")
        contents |= content
    return contents, digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def hash_file(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_safetensors(file: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no sound safetensors file ({error}); fetch it again") from error


def find_damage(file: Path) -> str | None:
    """What is wrong with a zip archive that torch.save wrote; None where it is sound. It is not unpacked if that could
    give more than the size of the file: torch never compresses."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        compressed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
        if compressed:
            return f"{compressed} is compressed, as torch writes none"
        if sum(entry.file_size for entry in entries) > file.stat().st_size:
            return "its parts are larger than the file"
        damaged = archive.testzip()
    return f"{damaged} has changed since it was written" if damaged else None


def read_torch_file(file: Path) -> Any:
    with open(file, "rb") as stream:
        is_zip = stream.read(2) == b"PK"  # files written before torch 1.6 are not zip archives
    try:
        # torch.load does not notice a flipped bit; the CRC of the archive does
        if is_zip and (damage := find_damage(file)):
            raise ValueError(f"{file} is damaged: {damage}; fetch it again")
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, LookupError) as error:
        # raised for code, and for files that are not pickles, such as empty files and text
        if not re.search("unsupported (global|class)|call reduce", str(error), re.IGNORECASE):
            raise ValueError(f"{file} is no file of weights, or damaged; fetch it again") from error
        raise ValueError(
            f"{file} holds more than tensors: opening it would run code that it names, which lab never does. If you "
            "trust its author, load it once yourself with torch.load(..., weights_only=False), write its state dict "
            "with safetensors.torch.save_file, and give that file"
        ) from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"{file} is damaged ({str(error).splitlines()[0]}); fetch it again") from error


# keys under which files store their state dict; those of lab's own checkpoints come first
STATE_KEYS = ("scored", "run", "state_dict", "model", "model_state_dict", "net")


def unwrap_state(contents: dict[str, Any]) -> State:
    """The state dict inside a file's contents, without the prefixes of DataParallel and torch.compile, and with LoRA or
    DoRA merged into the weights."""
    for key in STATE_KEYS:
        if isinstance(contents.get(key), dict):
            return unwrap_state(contents[key])
    state = {
        key.removeprefix("_orig_mod.").removeprefix("module."): value
        for key, value in contents.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return merge_low_rank(state)
