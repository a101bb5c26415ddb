"""The differences between runs."""

from collections.abc import Mapping
from typing import Any

from lab.ledger.saved_run import SavedRun


def flatten_config(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nest of mappings by their dotted paths; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        return {
            path: leaf for key, part in value.items() for path, leaf in flatten_config(part, f"{prefix}{key}.").items()
        }
    return {prefix.removesuffix("."): value} if prefix else {}


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a nest of mappings; None where there is none."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def diff_runs(*runs: SavedRun) -> list[tuple[Any, ...]]:
    """(name, value in each run) of the config, the code, the environment and the results, where they differ. Values of
    different types differ, as they do for a run's id: 1 is not 1.0, and not true."""
    rows: list[tuple[Any, ...]] = []
    for part, read in DIFF_PARTS.items():
        values = [flatten_config(read(run)) for run in runs]
        for name in dict.fromkeys(name for one in values for name in one):
            row = [one.get(name) for one in values]
            if len(set(map(repr, row))) > 1:
                rows.append((f"{part}{name}", *row))
    return rows


def environment_facts(run: SavedRun) -> dict[str, Any]:
    """The facts of the manifest that are compared: commit, size of the diff, code, data, machine and packages."""
    manifest = run.manifest
    git = manifest.get("git") or {}
    return {
        "commit": git.get("commit"),
        "uncommitted changes": len(git.get("diff") or "") or None,
        **{name: manifest.get(name) for name in ("code", "data", "host", "python", "packages")},
        **{name: manifest.get(name) for name in ("device", "processes", "threads")},
    }


DIFF_PARTS = {"": lambda run: run.config, "env: ": environment_facts, "result: ": lambda run: run.results}
