"""A run's identity: what was asked for, with which code, on which data. No clock, no path, no host in it."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab import __version__
from lab.config.check import nodes
from lab.config.redact import names_secret
from lab.config.settings import POLICY
from lab.config.targets import is_project_source
from lab.models.places import place

# keys that change where a run is written and how it is shown, not what it computes
BOOKKEEPING = {
    *((name,) for name in ("paths", "logger", "log_every", "save_every", "again", "sweep", "search", *POLICY)),
    *(("data", name) for name in ("workers", "download", "in_memory_mb")),
    ("model", "download"),
    ("hardware", "threads"),
}
READ_WHOLE = 2**30  # bytes of a data set up to which all of its content counts
SAMPLE = 2**16  # bytes at either end of each file that count above that
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
        return Identity(digest(canonical), self.code(targets(config)), files)

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each source that counted so far, for a CodeWatch."""
        return {name: hashlib.sha256(source).hexdigest() for name, source in self.sources.items()}

    def code_of(self, targets: tuple[str, ...]) -> str:
        """lab's version, and the sources outside installed packages that these targets import."""
        sources: dict[str, bytes] = {}
        for target in [*targets, "lab.train.loop"]:
            collect(target, sources)
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
        if isinstance(value, str) and path[-1] == "weights" and (file := weights_file(value)):
            files[value] = self.fingerprint(file)
            return f"file:{files[value]}"
        if isinstance(value, str) and is_path(value, path):
            files[value] = self.fingerprint(Path(value))
            return f"file:{files[value]}"
        return value


def identify(config: Mapping[str, Any]) -> Identity:
    return Identifier()(config)


def bookkeeping(key: str) -> bool:
    """Whether a dotted key changes where a run is written and how it is shown, not what it computes."""
    parts = tuple(key.split("."))
    return any(parts[: len(name)] == name for name in BOOKKEEPING)


def targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({str(node["_target_"]) for _, node in nodes(config, ())}))


class CodeWatch:
    """Whether the code is still what it was.  sources: the SHA-256 of each module that counts, by its name."""

    def __init__(self, sources: Mapping[str, str]):
        self.sources = sources
        self.paths = {name: local_source(name) for name in sources}
        self.seen: dict[str, tuple[int, int]] = {}

    def changed(self) -> list[str]:
        """The modules whose files no longer hold what they did; those whose times are the same are not read again."""
        return [name for name, path in self.paths.items() if path is None or self.differs(name, path)]

    def differs(self, name: str, path: Path) -> bool:
        try:
            now = path.stat()
            if self.seen.get(name) == (now.st_mtime_ns, now.st_size):
                return False
            same = hashlib.sha256(path.read_bytes()).hexdigest() == self.sources[name]
        except OSError:
            return True
        if same:
            self.seen[name] = (now.st_mtime_ns, now.st_size)
        return not same


def digest(*parts: str | bytes) -> str:
    """SHA-256 of the parts, in hexadecimal; each part counts with its length, so that no two lists collide."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def is_path(value: str, path: tuple[str, ...]) -> bool:
    looks = PATH_KEY.search(path[-1]) or "/" in value or Path(value).suffix
    return len(path) > 1 and bool(value and looks) and Path(value).exists()


def weights_file(weights: str) -> Path | None:
    """The file that is loaded: of a run, that of its final weights. None where there is none, or none yet."""
    try:
        found = place(weights)
    except ValueError:  # the run is not done; building the model says so
        return None
    return found.file if found else None


def fingerprint(path: Path) -> str:
    """Of the names and the content below `path`; of files that are more than READ_WHOLE bytes together, of their
    names, sizes and both ends."""
    found = sorted(files_below(path)) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in found]
    whole = sum(sizes) <= READ_WHOLE
    parts: list[str | bytes] = []
    for file, size in zip(found, sizes, strict=True):
        parts += [file.relative_to(path).as_posix(), str(size), content(file, size, whole)]
    return digest(*parts)


def files_below(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path, followlinks=True):
        yield from (Path(folder, name) for name in names)


def content(file: Path, size: int, whole: bool) -> bytes:
    with open(file, "rb") as handle:
        if whole or size <= 2 * SAMPLE:
            return hashlib.file_digest(handle, "sha256").digest()
        head = handle.read(SAMPLE)
        handle.seek(-SAMPLE, os.SEEK_END)
        return hashlib.sha256(head + handle.read()).digest()


def collect(module: str, sources: dict[str, bytes]) -> None:
    """Add the sources of `module`, of its parent packages and of what they import, but of no installed package."""
    if module in sources:
        return
    if "." in module:
        collect(module.rpartition(".")[0], sources)
    path = local_source(module)
    if path is None:
        return
    sources[module] = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for name in imports(sources[module], package):
        collect(name, sources)


def imports(source: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the import itself will say so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def local_source(module: str) -> Path | None:
    """The file of a module outside installed packages and the standard library, found without importing it."""
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        path = Path(spec.origin or "")
        return path if not rest and is_project_source(path) else None
    for location in spec.submodule_search_locations:
        base = Path(location).joinpath(*rest)
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if is_project_source(path):
                return path
    return None
