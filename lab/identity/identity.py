"""A run's identity: a hash of its config, its code and its data. It does not depend on the time, on where files lie, or
on the machine."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab.config.settings import POLICY
from lab.config.trust import targets_in
from lab.data.image_files import image_folder_files, visible_files
from lab.errors import LabError
from lab.identity.fingerprint import digest, fingerprint
from lab.identity.source_code import ImportIndex, collect_sources
from lab.ledger.weights_file import find_weights
from lab.redact import names_secret
from lab.version import __version__

# keys that change where and how a run is done, written and shown, but not its results
BOOKKEEPING = {
    *((name,) for name in ("paths", "logger", "log_every", "save_every", "again", "sweep", "search", *POLICY)),
    *(("data", name) for name in ("workers", "download", "in_memory_mb")),
    ("model", "download"),
    ("hardware", "threads"),
}
# data sets that read only some of the files in their folder, with the function that lists them
FILE_LISTS = {"lab.data.image_folder.image_folder": image_folder_files}
PATH_KEY = re.compile(r"(^|_)(folder|dir|root|path|file|weights|adapter)$")


@dataclass(frozen=True)
class Identity:
    """The hashes that identify a run.

    config, code: hashes of the config and of the sources.  files: fingerprint of each file or folder that the config
    names, by path; the config's hash covers them.  recipe: hash of the config without the seed; empty where it is
    unknown.
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
        """8 characters that are the same for runs that differ only in their seed."""
        return digest(self.recipe, self.code)[:8]

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Identity":
        return cls(manifest["config"], manifest["code"], manifest["files"], manifest.get("recipe_config", ""))


class Identifier:
    """Gives the identities of configs. Each config, file, folder and source is read once, so that
    later changes do not count.

    sources: content of each module that counted for an identity, by module name.  known: identities by config, as JSON.
    """

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.read_source = cache(Path.read_bytes)
        self.imports = cache(ImportIndex)  # read when it is first asked for
        self.fingerprint = cache(fingerprint)
        self.file_named_by = cache(file_named_by)
        self.code = cache(self.hash_code)
        self.known: dict[str, Identity] = {}

    def __call__(self, config: Mapping[str, Any]) -> Identity:
        """The identity of a config.  config: resolved, as plain values."""
        key = json.dumps(config, sort_keys=True, default=str)
        if key not in self.known:
            self.known[key] = self.identify(config)
        return self.known[key]

    def identify(self, config: Mapping[str, Any]) -> Identity:
        """As a call, but computed again for a config that is known."""
        files: dict[str, str] = {}
        stripped = self.strip(config, files)
        canonical, recipe = (
            json.dumps(part, sort_keys=True, ensure_ascii=True)
            for part in (stripped, without_seed(stripped, config.get("seed")))
        )
        return Identity(digest(canonical), self.code(target_paths(config)), files, digest(recipe))

    def source_hashes(self) -> dict[str, str]:
        """The SHA-256 of each source that counted so far, by module name, for a CodeWatch."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.sources.items()}

    def hash_code(self, targets: tuple[str, ...]) -> str:
        """A hash of lab's version and of the sources, outside installed packages, that targets and loop import."""
        sources = collect_sources([*targets, "lab.train.loop"], self.read_source, self.imports())
        self.imports().write(most=5000)
        self.sources |= sources
        return digest(__version__, *(part for name in sorted(sources) for part in (name, sources[name])))

    def strip(self, config: Mapping[str, Any], files: dict[str, str]) -> dict[str, Any]:
        """The config without bookkeeping and secrets, and with a hash of the content in place of each path that exists.

        files: dict to which the hashes are added, by path.
        """
        nodes = {name: part for name, part in config.items() if isinstance(part, Mapping)}
        outputs = str(nodes.get("paths", {}).get("outputs", "outputs"))
        list_files = FILE_LISTS.get(str(nodes.get("data", {}).get("_target_")), visible_files)
        model = nodes.get("model", {})
        if "weights" in model and config.get("weights") in (None, model["weights"]):  # one value, interpolated
            config = {key: value for key, value in config.items() if key != "weights"}

        def strip_value(value: Any, path: tuple[str, ...]) -> Any:
            if isinstance(value, dict):
                # a download is checked against its publisher's hash, so it need not be there to count as the same
                fetched = {"folder"} if path == ("data",) and value.get("download") else set()
                return {
                    key: "fetched" if key in fetched else strip_value(part, (*path, key))
                    for key, part in value.items()
                    if (*path, key) not in BOOKKEEPING and not names_secret(str(key), part)
                }
            if isinstance(value, list):
                return [strip_value(part, path) for part in value]
            if isinstance(value, str) and (file := self.file_named_by(value, path, outputs)):
                files[value] = self.fingerprint(file, list_files if path == ("data", "folder") else visible_files)
                return f"file:{files[value]}"
            return value

        return strip_value(dict(config), ())


def is_bookkeeping(key: str) -> bool:
    """Whether a dotted key is one of BOOKKEEPING, or lies below one."""
    parts = tuple(key.split("."))
    return any(parts[: len(name)] == name for name in BOOKKEEPING)


def target_paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The dotted path of every `_target_` in the config, sorted."""
    return tuple(sorted(targets_in(config)))


def without_seed(value: Any, seed: Any) -> Any:
    """The nest without the keys named `seed` that hold the run's seed: its own, and those that interpolate it."""
    if isinstance(value, dict):
        return {key: without_seed(part, seed) for key, part in value.items() if not (key == "seed" and part == seed)}
    return [without_seed(part, seed) for part in value] if isinstance(value, list) else value


def file_named_by(value: str, path: tuple[str, ...], outputs: str) -> Path | None:
    """The file or folder that a value of the config names, also by a run's directory or id; None where it names none.

    path: keys that lead to the value in the config.  outputs: folder in which runs are looked up by their id.
    """
    if path[-1] == "weights":
        try:
            if weights := find_weights(value, Path(outputs)):
                return weights.path
        except (LabError, ValueError):  # such as a run that is not done, which building the model reports
            pass
    # "/" alone is a separator: as a path it would be the whole disk
    looks_like_path = (
        PATH_KEY.search(path[-1]) or ("/" in value and value.strip("./")) or ("." in value and Path(value).suffix)
    )
    return Path(value) if len(path) > 1 and value and looks_like_path and Path(value).exists() else None
