"""The sources that a run's identity covers: the modules of lab and of the project that its targets import."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lab.config.targets import is_project_source
from lab.user_cache import Index


class CodeWatch:
    """Compares the code with what it was when a sweep was planned.

    sources: SHA-256 of each module that counts, by module name.  paths: file of each module; None where there is none
    any more.  seen: time of modification (ns) and size (bytes) of each file when its content was last found unchanged.
    """

    def __init__(self, sources: Mapping[str, str]):
        self.sources = sources
        self.paths = {name: local_source(name) for name in sources}
        self.seen: dict[str, tuple[int, int]] = {}

    def changed(self) -> list[str]:
        """The names of the modules whose sources changed or are gone. A file whose time and size are still the same is
        not read again."""
        return [name for name, path in self.paths.items() if path is None or self.differs(name, path)]

    def differs(self, name: str, path: Path) -> bool:
        """Whether the file at `path` no longer holds the planned source of module `name`."""
        try:
            stat = path.stat()
            if self.seen.get(name) == (stat.st_mtime_ns, stat.st_size):
                return False
            is_same = hashlib.sha256(path.read_bytes()).hexdigest() == self.sources[name]
        except OSError:
            return True
        if is_same:
            self.seen[name] = (stat.st_mtime_ns, stat.st_size)
        return not is_same


def imported_modules(source: bytes, package: str) -> list[str]:
    """The dotted paths in the import statements of a source, those inside functions too; imports by `importlib` are not
    seen. A name after `from ... import` counts as a module, which it may not be.

    package: package of the module, to which relative imports refer.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:  # importing the module reports it
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


class ImportIndex(Index):
    """`imported_modules` of sources by their content, kept in the user's cache: parsing takes longer than hashing."""

    def __init__(self) -> None:
        super().__init__(f"imports-{sys.version_info.major}.{sys.version_info.minor}")

    def __call__(self, source: bytes, package: str) -> list[str]:
        key = f"{package} {hashlib.sha256(source).hexdigest()}"
        if key not in self.now:
            kept = self.kept.get(key)
            self.now[key] = kept if isinstance(kept, list) else imported_modules(source, package)
        return self.now[key]


def collect_sources(
    modules: Iterable[str],
    read: Callable[[Path], bytes] = Path.read_bytes,
    imports: Callable[[bytes, str], Iterable[str]] = imported_modules,
) -> dict[str, bytes]:
    """The sources, by module name, of `modules`, of their parent packages, and of all modules that these import,
    directly or not, except the standard library and installed packages.

    modules: dotted paths of modules, or of attributes in them, whose modules are then added as their parents.
    read: gives the content of a file.  imports: as `imported_modules`.
    """
    sources: dict[str, bytes] = {}
    seen, waiting = {""}, list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        parent = module.rpartition(".")[0]
        waiting.append(parent)
        if path := local_source(module):
            sources[module] = read(path)
            waiting += imports(sources[module], module if path.name == "__init__.py" else parent)
    return sources


def local_source(module: str) -> Path | None:
    """The file of a module, found without importing it; None for a module of the standard library or of an
    installed package, and where there is no such module."""
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
