"""The differences between two runs."""

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


def diff_runs(first: SavedRun, second: SavedRun) -> list[tuple[str, Any, Any]]:
    """(name, value in the first, value in the second) of the config, the code, the environment and the results, where
    they differ."""
    rows = []
    for part, read in DIFF_PARTS.items():
        before, after = flatten_config(read(first)), flatten_config(read(second))
        names = dict.fromkeys([*before, *after])
        rows += [
            (f"{part}{name}", before.get(name), after.get(name))
            for name in names
            if before.get(name) != after.get(name)
        ]
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
