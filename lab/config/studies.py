"""The files of a study that are no experiments: its ablations and its paper's claims."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lab.config.overrides import override_key
from lab.errors import ConfigError
from lab.record.files import check_size
from lab.text import suggest
from lab.yaml_aliases import load_yaml

STUDY_KEY = re.compile(r"^(factors|claims):", re.MULTILINE)  # a key that tells such a file from an experiment


def find_study_files() -> dict[str, Path]:
    """Every YAML in experiments/ by its name, `<study>/<name>`. The working directory's files override lab's own."""
    experiments: dict[str, Path] = {}
    for folder in (resources.files("lab.experiments"), Path.cwd() / "experiments"):
        root = Path(str(folder))
        names = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.glob("**/*.yaml"))}
        # hidden files are drafts of editors and notebooks
        experiments |= {name: path for name, path in names.items() if not f"/{name}".count("/.")}
    return experiments


def is_study_file(path: Path) -> bool:
    """Whether a YAML in experiments/ is an ablation or a paper's claims."""
    return bool(study_keys(path))


def study_keys(path: Path) -> set[str]:
    """Which of `factors` and `claims` a file has, found without parsing it."""
    try:
        check_size(path)
        return set(STUDY_KEY.findall(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return set()


def read_study_file(files: Mapping[str, Path], name: str, key: str) -> tuple[Path, dict[str, Any]]:
    """The path and the content of the file `name` that has `key`. Raises ConfigError where there is none.

    files: the YAMLs in experiments/ by their names.
    """
    path = files.get(name)
    if path is None or not study_keys(path):
        known = [other for other, file in files.items() if key in study_keys(file)]
        raise ConfigError(f"no file experiments/{name}.yaml with {key}:; {suggest(name, known)}")
    content = parse_yaml(path)
    if key not in content:
        raise ConfigError(f"{path} has no {key}:")
    return path, content


def parse_yaml(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not a mapping")
    return content


def parse_override_list(value: Any, place: str) -> list[str]:
    """The overrides of a list, or of a text with spaces between them. Raises ConfigError for anything else."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and override_key(word) for word in words):
        raise ConfigError(f"{place} is {value!r}; it takes overrides, such as [schedule=constant, optimizer.lr=0.01]")
    if wrong := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise ConfigError(f"{place}: {wrong[0]!r} is no override; it takes key=value")
    return words


def parse_seeds(value: Any, place: str) -> list[int]:
    """The seeds of a list, or the first n."""
    if isinstance(value, bool) or (isinstance(value, int) and value < 1):
        raise ConfigError(f"{place}={value} is not a number of seeds")
    seeds = list(range(value)) if isinstance(value, int) else value
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{place} is {value!r}; it takes a number of seeds, or a list of them")
    return seeds


def merge_overrides(*parts: Iterable[str]) -> list[str]:
    """The overrides of all parts; of those with one key only the last, in the place of the first."""
    merged: dict[str, str] = {}
    for part in parts:
        for override in part:
            merged[override_key(override)] = override
    return list(merged.values())


def check_keys(content: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    """Raises ConfigError for a key that is not known."""
    names = list(known)
    for key in content:
        if key not in names:
            raise ConfigError(f"{place} has no {key!r}; {suggest(str(key), names)}")
