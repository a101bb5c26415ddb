"""Files of the Hugging Face hub, from its local cache, or from the network if the user asks for a download."""

from collections.abc import Sequence
from pathlib import Path


def hub_files(name: str, patterns: Sequence[str], download: bool) -> list[Path]:
    """The files of the repository `name` (owner/name, or owner/name@revision) that match, in the order of the patterns.

    download: whether to fetch files that the hub's cache lacks.
    Raises FileNotFoundError, or ConnectionError after a failed download, with the place to put the files.
    """
    from huggingface_hub import constants, snapshot_download

    repository, _, revision = name.partition("@")
    files, reason = [], f"it has no {' or '.join(patterns)}"
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(patterns), local_files_only=not download
        )
        files = [file for pattern in patterns for file in sorted(Path(folder).glob(pattern))]
    except Exception as error:  # the errors of the hub's client share no base class
        reason = str(error).strip().splitlines()[0]
    if files:
        return files
    failure = (
        f"could not be fetched ({reason})" if download else "is not in its cache, and model.download=true was not given"
    )
    raise (ConnectionError if download else FileNotFoundError)(
        f"{name} of the Hugging Face hub {failure}. Fetch {' or '.join(patterns)} where there is a network "
        f"(hf download {repository}), and place the folder models--{repository.replace('/', '--')} of its cache in "
        f"{constants.HF_HUB_CACHE}, or give the path of the file or its folder"
    )
