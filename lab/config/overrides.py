"""Reading and writing of overrides in Hydra's syntax.

String functions split an override into its key and the text of its value; Hydra's own parser reads the value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

# words that need no quotes, because Hydra reads them as strings
PLAIN_WORD = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)


def split_override(override: str) -> tuple[str, str]:
    """`optimizer.lr` and `0.1` of optimizer.lr=0.1 or ++optimizer.lr=0.1; an override without a value gives ''."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def override_key(override: str) -> str:
    """The key of an override, without + and ~."""
    return split_override(override)[0]


def root_key(override: str) -> str:
    """The top-level key of the config that an override changes: `search` of search/sampler=random."""
    return re.split("[./@]", override_key(override))[0]


@cache
def override_value(override: str) -> Any:
    """The value of a plain override, as Hydra parses it."""
    return hydra_parser().parse_override(override).value()


def swept_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys, without + and ~, whose values differ between jobs, in order of first appearance."""
    values = [dict(split_override(override) for override in job) for job in jobs]
    keys = dict.fromkeys(key for job in values for key in job)
    return [key for key in keys if len({job.get(key) for job in values}) > 1]


def write_value(value: Any) -> str:
    """The text that Hydra parses to `value`, with quotes around strings that need them."""
    from hydra.core.override_parser.types import Transformer

    return Transformer.str(quote_strings(value))


def quote_strings(value: Any) -> Any:
    """A value as Hydra's parser holds it, with quotes around every string in it that needs them."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, str):
        return value if PLAIN_WORD.fullmatch(value) else QuotedString(value, Quote.single)
    if isinstance(value, list):
        return [quote_strings(part) for part in value]
    if isinstance(value, dict):
        return {key: quote_strings(part) for key, part in value.items()}
    return value


def write_override(key: str, value: Any) -> str:
    """The override that Hydra parses to the same value. Raises ConfigError where there is none."""
    from hydra.errors import HydraException

    try:
        override = f"{key}={write_value(value)}"
        if repr(override_value(override)) == repr(value):
            return override
    except (HydraException, AssertionError):  # AssertionError: Hydra cannot write values of this type
        pass
    raise ConfigError(
        f"there is no override for {key}: {value!r} of sweep; write it to a YAML file in conf/<group>/ and sweep that"
    )


def quote_path(argument: str) -> str:
    """The argument, with quotes around its value if that is an existing path with `=` or `,` in it.

    The directory of a run may be such a path. With quotes, Hydra takes it for one value.
    """
    key, _, value = argument.partition("=")
    is_special = re.search("[=,]", value) and not re.search("[\"'\\\\]", value)
    return f"{key}={write_value(value)}" if is_special and Path(value).exists() else argument


def wrap_in_choices(arguments: Sequence[str]) -> list[str]:
    """The same sweep, with each plain override of a key below a swept group written as a choice of one value.

    Hydra composes a sweep's first config without the swept overrides, so with the default option of a swept group,
    which need not have the key of a plain override. A choice counts as swept.
    """
    overrides = hydra_parser().parse_overrides(list(arguments))
    groups = tuple(f"{dotted_key(o)}." for o in overrides if o.is_sweep_override() and o.package is None)
    return [
        text if override.is_sweep_override() or not dotted_key(override).startswith(groups) else write_choice(override)
        for text, override in zip(arguments, overrides, strict=True)
    ]


def write_choice(plain: Override) -> str:
    """`key=choice(value)` of a plain override; the override itself where no choice gives the same value."""
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, text, typed = plain.get_key_element(), plain.get_value_element_as_str(), plain.input_line or ""
    # choice() does not accept null, and removes the quotes of a string, so that '1' becomes a number. A second pair of
    # quotes prevents that, except around '1 2', where Hydra escapes the first pair
    for option in (split_override(typed)[1], QuotedString(text, Quote.double).with_quotes()):
        wrapped = f"{key}=choice({option})"
        try:
            (value,) = hydra_parser().parse_override(wrapped).sweep_string_iterator()
            if repr(override_value(f"{key}={value}")) == repr(override_value(f"{key}={text}")):
                return wrapped
        except HydraException:
            continue
    return typed


def dotted_key(override: Override) -> str:
    return override.key_or_group.replace("/", ".")


@cache
def hydra_parser() -> OverridesParser:
    """Hydra's parser of overrides, without a config loader, which only glob(...) needs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()
