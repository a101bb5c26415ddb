"""Files of the Hugging Face hub: from its cache, and from the network only where that is asked for."""

from collections.abc import Sequence
from pathlib import Path


def hub_files(name: str, patterns: Sequence[str], download: bool) -> list[Path]:
    """The files of the repository `name` (owner/name, or owner/name@revision) that match, the first pattern's first.

    download: whether to ask the hub for what is not in its cache.
    Raises FileNotFoundError, or ConnectionError where a download failed, with what to place where.
    """
    from huggingface_hub import constants, snapshot_download

    repository, _, revision = name.partition("@")
    found, why = [], f"it has no {' or '.join(patterns)}"
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(patterns), local_files_only=not download
        )
        found = [file for pattern in patterns for file in sorted(Path(folder).glob(pattern))]
    except Exception as error:  # what the hub's client raises has no base in common
        why = str(error).strip().splitlines()[0]
    if found:
        return found
    how = f"could not be fetched ({why})" if download else "is not in its cache, and model.download=true was not given"
    raise (ConnectionError if download else FileNotFoundError)(
        f"{name} of the Hugging Face hub {how}. Fetch {' or '.join(patterns)} where there is a network (hf download "
        f"{repository}), and place the folder models--{repository.replace('/', '--')} of its cache in "
        f"{constants.HF_HUB_CACHE}, or give the path of the file or its folder"
    )
