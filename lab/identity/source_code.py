"""The sources that a run's identity covers."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.config.targets import is_project_source


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


def collect_sources(module: str, sources: dict[str, bytes]) -> None:
    """Add the sources of `module`, of its parent packages and of what they import, but of no installed package."""
    if module in sources:
        return
    if "." in module:
        collect_sources(module.rpartition(".")[0], sources)
    path = local_source(module)
    if path is None:
        return
    sources[module] = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for name in imported_modules(sources[module], package):
        collect_sources(name, sources)


def imported_modules(source: bytes, package: str) -> Iterator[str]:
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
