"""A run's identity: what was asked for, with which code, on which data. No clock, no path, no host in it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab import __version__
from lab.config.check import target_nodes
from lab.config.redact import names_secret
from lab.config.settings import POLICY
from lab.identity.fingerprint import digest, fingerprint
from lab.identity.source_code import collect_sources
from lab.runs.weights_file import find_weights

# keys that change where a run is written and how it is shown, not what it computes
BOOKKEEPING = {
    *((name,) for name in ("paths", "logger", "log_every", "save_every", "again", "sweep", "search", *POLICY)),
    *(("data", name) for name in ("workers", "download", "in_memory_mb")),
    ("model", "download"),
    ("hardware", "threads"),
}
PATH_KEY = re.compile(r"(^|_)(folder|dir|root|path|file|weights|adapter)$")


@dataclass(frozen=True)
class Identity:
    """config, code: hashes of the two.  files: the fingerprint of each file or folder that the config names, which the
    config's hash covers."""

    config: str
    code: str
    files: dict[str, str]

    @property
    def id(self) -> str:
        return digest(self.config, self.code)[:8]


class Identifier:
    """The identities of configs as the code and the data are when first met: each source and file is read once.

    sources: the content of each module that counts, by its name.
    """

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.fingerprint = cache(fingerprint)
        self.code = cache(self.code_of)

    def __call__(self, config: Mapping[str, Any]) -> Identity:
        """config: resolved, as plain values."""
        files: dict[str, str] = {}
        own = config.get("model", {})
        if "weights" in own and config.get("weights") in (None, own["weights"]):  # said twice, by interpolation
            config = {key: value for key, value in config.items() if key != "weights"}
        canonical = json.dumps(self.stripped(config, (), files), sort_keys=True, ensure_ascii=True)
        return Identity(digest(canonical), self.code(target_paths(config)), files)

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each source that counted so far, for a CodeWatch."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.sources.items()}

    def code_of(self, targets: tuple[str, ...]) -> str:
        """lab's version, and the sources outside installed packages that these targets import."""
        sources: dict[str, bytes] = {}
        for target in [*targets, "lab.train.loop"]:
            collect_sources(target, sources)
        self.sources |= sources
        return digest(__version__, *(part for name in sorted(sources) for part in (name, sources[name])))

    def stripped(self, value: Any, path: tuple[str, ...], files: dict[str, str]) -> Any:
        """The config without bookkeeping and secrets, a path to something that exists replaced by what lies there."""
        if isinstance(value, Mapping):
            # what its publisher's hash checks when it is downloaded is the same before and after
            fetched = {"folder"} if path == ("data",) and value.get("download") else set()
            return {
                key: "fetched" if key in fetched else self.stripped(part, (*path, key), files)
                for key, part in value.items()
                if (*path, key) not in BOOKKEEPING and not names_secret(str(key), part)
            }
        if isinstance(value, list):
            return [self.stripped(part, path, files) for part in value]
        if isinstance(value, str) and path[-1] == "weights" and (file := weights_path(value)):
            files[value] = self.fingerprint(file)
            return f"file:{files[value]}"
        if isinstance(value, str) and is_path(value, path):
            files[value] = self.fingerprint(Path(value))
            return f"file:{files[value]}"
        return value


def identify(config: Mapping[str, Any]) -> Identity:
    return Identifier()(config)


def is_bookkeeping(key: str) -> bool:
    """Whether a dotted key changes where a run is written and how it is shown, not what it computes."""
    parts = tuple(key.split("."))
    return any(parts[: len(name)] == name for name in BOOKKEEPING)


def target_paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({str(node["_target_"]) for _, node in target_nodes(config, ())}))


def is_path(value: str, path: tuple[str, ...]) -> bool:
    looks = PATH_KEY.search(path[-1]) or "/" in value or Path(value).suffix
    return len(path) > 1 and bool(value and looks) and Path(value).exists()


def weights_path(weights: str) -> Path | None:
    """The file that is loaded: of a run, that of its final weights. None where there is none, or none yet."""
    try:
        found = find_weights(weights)
    except ValueError:  # the run is not done; building the model says so
        return None
    return found.file if found else None
