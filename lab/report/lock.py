"""The lock of a paper's claims: the configs that they stood for, with their data files and packages, so that a change
is reported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.composed import ComposedConfig
from lab.errors import ConfigError
from lab.identity.identity import Identity, is_bookkeeping
from lab.ledger.diff import flatten_config
from lab.record.files import read_json, write_atomically
from lab.redact import redact

LOCK_FILE = "paper.lock.json"
LOCKED_PACKAGES = ("torch", "torchvision", "numpy", "timm", "transformers", "tokenizers")


def locked_arm(composed: ComposedConfig, identity: Identity) -> dict[str, Any]:
    """What is locked of one arm: its config before interpolation, without bookkeeping and the seed, and its data files'
    hashes by their names. No path of a machine is in it."""
    flat = flatten_config(redact(dict(composed.unresolved)))
    config = {key: value for key, value in flat.items() if key != "seed" and not is_bookkeeping(key)}
    return {"config": config, "files": {Path(path).name: value for path, value in identity.files.items()}}


def locked_packages(packages: Mapping[str, str]) -> dict[str, str]:
    return {name: packages[name] for name in LOCKED_PACKAGES if name in packages}


def lock_differences(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed since the claims were locked, a line each: the value then, and the value now."""
    lines = []
    for arm, content in now["arms"].items():
        before = locked.get("arms", {}).get(arm)
        if before is None:
            lines.append(f"{arm}: not locked yet")
            continue
        for part in ("config", "files"):
            lines += [f"{arm}: {line}" for line in changed_values(before.get(part, {}), content[part])]
    lines += [f"package {line}" for line in changed_values(locked.get("packages", {}), now["packages"])]
    return lines


def changed_values(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {show_value(then, key)} then, {show_value(now, key)} now"
        for key in dict.fromkeys([*then, *now])
        if then.get(key) != now.get(key)
    ]


def show_value(values: Mapping[str, Any], key: str) -> str:
    return str(values[key])[:60] if key in values else "absent"


def read_lock(folder: Path) -> dict[str, Any] | None:
    """The lock of a study; None where there is none."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return None
    content = read_json(path, None)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no lock of claims; --lock writes a new one")
    return content


def write_lock(folder: Path, content: Mapping[str, Any]) -> None:
    plain = json.dumps(content, indent=1, sort_keys=True, default=str)
    write_atomically(folder / LOCK_FILE, f"{plain}\n".encode())
