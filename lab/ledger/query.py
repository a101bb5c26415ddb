"""Conditions on runs, such as `test/accuracy>0.9` and `tag=paper`, and the values of runs by name."""

import operator
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lab.errors import ConfigError, DamagedRun
from lab.ledger.diff import value_at
from lab.ledger.saved_run import SavedRun
from lab.text import as_number

CONDITION = re.compile(r"^(?P<name>[^=!<>~]+?)\s*(?P<sign><=|>=|!=|=|<|>|~)\s*(?P<value>.*)$")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


class RunFilter(NamedTuple):
    """sign: =, != (equal as numbers or texts), <, <=, >, >= (of numbers), or ~ (the value is a part of the text)."""

    name: str
    sign: str
    value: str

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a run's row meets the condition; a run without such a value only meets `!=`."""
        found = run_value(row, self.name)
        values = found if isinstance(found, list) else [found]
        if self.sign == "!=":
            return not any(same(value, self.value) for value in values)
        if self.sign == "=":
            return any(same(value, self.value) for value in values)
        if self.sign == "~":
            return any(value is not None and self.value in str(value) for value in values)
        pairs = [(as_number(str(value)), as_number(self.value)) for value in values]
        return any(a is not None and b is not None and COMPARE[self.sign](a, b) for a, b in pairs)


def parse_condition(text: str) -> RunFilter:
    match = CONDITION.match(text)
    if match is None:
        raise ConfigError(f"--where {text!r} is no condition; write 'test/accuracy>0.9', state=failed or tag=paper")
    if match["sign"] in COMPARE and as_number(match["value"]) is None:
        raise ConfigError(f"--where {text!r}: {match['value']!r} is not a number")
    return RunFilter(match["name"].strip(), match["sign"], match["value"].strip())


def run_value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a run that a name stands for: a field of its row, a metric, an override, an option of a group, or a
    key of its config. None where the run has none."""
    if name in ("tag", "tags"):
        return list(row.get("tags", []))
    if name in row and name not in ("overrides", "choices", "metrics"):
        return row[name]
    if name in row["metrics"]:
        return row["metrics"][name]
    for override in reversed(row["overrides"]):
        key, _, value = override.lstrip("+").partition("=")
        if key == name:
            return value
    if name in row["choices"]:
        return row["choices"][name]
    return value_at(read_config(row["dir"]), name) if "." in name else None


@cache
def read_config(directory: str) -> Mapping[str, Any]:
    try:
        return SavedRun(Path(directory)).config
    except (DamagedRun, OSError):
        return {}


def known_names(rows: list[dict[str, Any]]) -> list[str]:
    """Names that stand for a value in some of the rows."""
    fields = ["id", "state", "experiment", "seed", "started", "ended", "dir", "tag", "note", "error"]
    keys = [override.lstrip("+").partition("=")[0] for row in rows for override in row["overrides"]]
    return list(dict.fromkeys([*fields, *(name for row in rows for name in (*row["metrics"], *row["choices"])), *keys]))


def sort_key(row: Mapping[str, Any], name: str) -> tuple[bool, float, str]:
    """Where a run stands in an ascending order; runs without the value come first, as before every value."""
    value = run_value(row, name)
    number = as_number(str(value))
    return value is not None, number if number is not None else 0.0, "" if number is not None else str(value)


def same(value: Any, text: str) -> bool:
    if str(value) == text or (value is None and text in ("", "null", "none")):
        return True
    first, second = as_number(str(value)), as_number(text)
    return first is not None and first == second
