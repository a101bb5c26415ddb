"""What differs between two runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lab.record.files import read_json


def flatten_config(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted path; lists are leaves."""
    if isinstance(value, Mapping) and value:
        return {k: v for key, part in value.items() for k, v in flatten_config(part, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value}


def read_config(directory: Path) -> dict[str, Any]:
    try:
        return yaml.load((directory / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except FileNotFoundError:
        return {}


def diff_runs(a: Path, b: Path) -> list[tuple[str, Any, Any]]:
    """(name, value in a, value in b) of the config, the code, the environment and the results, where they differ."""
    found = []
    for part, read in DIFF_PARTS.items():
        left, right = flatten_config(read(a)), flatten_config(read(b))
        names = dict.fromkeys([*left, *right])
        found += [
            (f"{part}{name}", left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)
        ]
    return found


def environment_facts(directory: Path) -> dict[str, Any]:
    manifest = read_json(directory / "manifest.json", {})
    git = manifest.get("git") or {}
    return {
        "commit": git.get("commit"),
        "uncommitted changes": len(git.get("diff") or "") or None,
        **{name: manifest.get(name) for name in ("code", "data", "host", "python", "packages", "device")},
    }


DIFF_PARTS = {
    "": read_config,
    "env: ": environment_facts,
    "result: ": lambda directory: read_json(directory / "results.json", {}),
}
