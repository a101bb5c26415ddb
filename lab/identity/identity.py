"""A run's identity: a hash of its config, its code and its data. No clock, no path and no host is part of it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab.config.check import target_nodes
from lab.config.redact import names_secret
from lab.config.settings import POLICY
from lab.errors import LabError
from lab.identity.fingerprint import digest, fingerprint
from lab.identity.source_code import collect_sources
from lab.ledger.weights_file import find_weights
from lab.version import __version__

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
    config's hash covers.  recipe: the config's hash without the seed; empty where it is not known.
    """

    config: str
    code: str
    files: dict[str, str]
    recipe: str = ""

    @property
    def id(self) -> str:
        """8 characters that name the run."""
        return digest(self.config, self.code)[:8]

    @property
    def recipe_id(self) -> str:
        """8 characters that runs have in common which differ in nothing but their seed."""
        return digest(self.recipe, self.code)[:8]

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Identity":
        return cls(manifest["config"], manifest["code"], manifest["files"], manifest.get("recipe_config", ""))


class Identifier:
    """Gives the identities of configs, with the code and the data as they are when first met: each source, each file
    and each config is read once.

    sources: the content of each module that counts, by its name.
    """

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.fingerprint = cache(fingerprint)
        self.code = cache(self.hash_code)
        self.known: dict[str, Identity] = {}

    def __call__(self, config: Mapping[str, Any]) -> Identity:
        """config: resolved, as plain values."""
        key = json.dumps(config, sort_keys=True, default=str)
        if key not in self.known:
            self.known[key] = self.identify(config)
        return self.known[key]

    def identify(self, config: Mapping[str, Any]) -> Identity:
        files: dict[str, str] = {}
        stripped = self.strip(config, files)
        canonical, recipe = (
            json.dumps(part, sort_keys=True, ensure_ascii=True)
            for part in (stripped, without_seed(stripped, config.get("seed")))
        )
        return Identity(digest(canonical), self.code(target_paths(config)), files, digest(recipe))

    def source_hashes(self) -> dict[str, str]:
        """The SHA-256 of each source that counted so far, for a CodeWatch."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.sources.items()}

    def hash_code(self, targets: tuple[str, ...]) -> str:
        """A hash of lab's version and of the sources outside installed packages that these targets import."""
        sources: dict[str, bytes] = {}
        for target in [*targets, "lab.train.loop"]:
            collect_sources(target, sources)
        self.sources |= sources
        return digest(__version__, *(part for name in sorted(sources) for part in (name, sources[name])))

    def strip(self, config: Mapping[str, Any], files: dict[str, str]) -> dict[str, Any]:
        """The config without bookkeeping and secrets, each path to something that exists replaced by a hash of its
        content.  files: takes the hashes, by path."""
        outputs = Path(str(config.get("paths", {}).get("outputs", "outputs")))
        model = config.get("model", {})
        if "weights" in model and config.get("weights") in (None, model["weights"]):  # one value, interpolated
            config = {key: value for key, value in config.items() if key != "weights"}

        def strip_value(value: Any, path: tuple[str, ...]) -> Any:
            if isinstance(value, Mapping):
                # the publisher's hash checks a download, so that its content is the same before and after
                fetched = {"folder"} if path == ("data",) and value.get("download") else set()
                return {
                    key: "fetched" if key in fetched else strip_value(part, (*path, key))
                    for key, part in value.items()
                    if (*path, key) not in BOOKKEEPING and not names_secret(str(key), part)
                }
            if isinstance(value, list):
                return [strip_value(part, path) for part in value]
            if isinstance(value, str) and (file := file_meant(value, path, outputs)):
                files[value] = self.fingerprint(file)
                return f"file:{files[value]}"
            return value

        return strip_value(config, ())


def is_bookkeeping(key: str) -> bool:
    """Whether a dotted key changes where a run is written and how it is shown, not what it computes."""
    parts = tuple(key.split("."))
    return any(parts[: len(name)] == name for name in BOOKKEEPING)


def target_paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({str(node["_target_"]) for _, node in target_nodes(config, ())}))


def without_seed(value: Any, seed: Any) -> Any:
    """The nest without the keys named `seed` that have the value of the run's seed: itself and what interpolates it."""
    if isinstance(value, Mapping):
        return {key: without_seed(part, seed) for key, part in value.items() if not (key == "seed" and part == seed)}
    return [without_seed(part, seed) for part in value] if isinstance(value, list) else value


def file_meant(value: str, path: tuple[str, ...], outputs: Path) -> Path | None:
    """The file or folder that a value of the config means; None where it means none.

    path: of the value in the config.  outputs: the folder in which runs are looked up by their id.
    """
    if path[-1] == "weights":
        try:
            if weights := find_weights(value, outputs):
                return weights.path
        except (LabError, ValueError):  # the run is not done, which building the model reports
            pass
    looks_like_path = PATH_KEY.search(path[-1]) or "/" in value or Path(value).suffix
    return Path(value) if len(path) > 1 and value and looks_like_path and Path(value).exists() else None
