"""Reads YAML, except where its aliases would grow into more than any config holds, such as ten lists of ten aliases
each."""

from pathlib import Path
from typing import Any

import yaml

from lab.errors import ConfigError

MOST_NODES = 200_000  # of a config, with every alias written out
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # with libyaml: ten times as fast


def load_yaml(path: Path) -> Any:
    """The content of a file. Raises ConfigError as `check_aliases`, UnicodeDecodeError, yaml.YAMLError, and
    RecursionError for one that is nested too deeply."""
    text = path.read_text(encoding="utf-8")
    check_aliases(text, path)
    return yaml.load(text, LOADER)


def check_yaml_aliases(path: Path) -> None:
    """As `check_aliases`, for a file that another library will read."""
    check_aliases(path.read_text(encoding="utf-8", errors="replace"), path)


def check_aliases(text: str, path: Path) -> None:
    """Raises ConfigError where the text of the file `path`, with every alias written out, has more nodes than
    MOST_NODES. A text without aliases, or one that is no YAML, is left to whoever reads it."""
    if "*" not in text or "&" not in text:
        return
    try:
        root = yaml.compose(text, LOADER)
    except (yaml.YAMLError, RecursionError):
        return
    if root is not None and count_nodes(root, {}, ()) > MOST_NODES:
        raise ConfigError(f"{path}: its aliases stand for more than {MOST_NODES:,} values; write out what is meant")


def count_nodes(node: Any, counts: dict[int, float], above: tuple[int, ...]) -> float:
    """The number of nodes with every alias written out; infinite where a node holds itself.

    counts: those of the nodes that were counted, by their ids.  above: ids of the nodes on the way.
    """
    if id(node) in above:
        return float("inf")
    if id(node) not in counts:
        children = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        counts[id(node)] = 1 + sum(count_nodes(child, counts, (*above, id(node))) for child in children)
    return counts[id(node)]
