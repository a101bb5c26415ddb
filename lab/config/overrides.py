"""Overrides in Hydra's syntax: the one place where they are read and written.

A key and the text of its value are cut out by hand; what the text means, Hydra's own parser says.
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

# words that need no quotes: Hydra reads no other type, and no syntax, in them
PLAIN_WORD = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)


def split_override(override: str) -> tuple[str, str]:
    """`optimizer.lr` and `0.1` of optimizer.lr=0.1, ++optimizer.lr=0.1 and the like; no value where there is none."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def override_key(override: str) -> str:
    """The key of an override, without + and ~."""
    return split_override(override)[0]


def root_key(override: str) -> str:
    """The top-level key of the config below which an override changes something: `search` of search/sampler=random."""
    return re.split("[./@]", override_key(override))[0]


@cache
def override_value(override: str) -> Any:
    """The value that Hydra reads in a plain override."""
    return hydra_parser().parse_override(override).value()


def swept_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys, without + and ~, whose value is not the same in all jobs, in order of first appearance."""
    values = [dict(split_override(override) for override in job) for job in jobs]
    keys = dict.fromkeys(key for job in values for key in job)
    return [key for key in keys if len({job.get(key) for job in values}) > 1]


def write_value(value: Any) -> str:
    """The text that Hydra reads as `value`: strings that would read as something else are quoted."""
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
    """The override that Hydra reads back as the same value. Raises ConfigError where there is none."""
    from hydra.errors import HydraException

    try:
        override = f"{key}={write_value(value)}"
        if repr(override_value(override)) == repr(value):
            return override
    except (HydraException, AssertionError):  # AssertionError: Hydra has no text for values of this type
        pass
    raise ConfigError(
        f"Hydra has no override for {key}: {value!r} of sweep; name it by a YAML file of a group in conf/"
    )


def quote_path(argument: str) -> str:
    """The argument with quotes around its value where that is an existing path with `=` or `,`, as a run's may have.

    Hydra takes it for one value then.
    """
    key, _, value = argument.partition("=")
    is_special = re.search("[=,]", value) and not re.search("[\"'\\\\]", value)
    return f"{key}={write_value(value)}" if is_special and Path(value).exists() else argument


def wrap_in_choices(arguments: Sequence[str]) -> list[str]:
    """The same sweep, with each plain override below a swept group written as a choice of one value.

    Hydra composes a sweep's first config without what is swept, and there the group's default option need not have the
    key of a plain override.
    """
    overrides = hydra_parser().parse_overrides(list(arguments))
    groups = tuple(f"{dotted_key(o)}." for o in overrides if o.is_sweep_override() and o.package is None)
    return [
        text if override.is_sweep_override() or not dotted_key(override).startswith(groups) else write_choice(override)
        for text, override in zip(arguments, overrides, strict=True)
    ]


def write_choice(plain: Override) -> str:
    """`key=choice(value)` of a plain override, or the override itself where no choice gives its value back."""
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, text, typed = plain.get_key_element(), plain.get_value_element_as_str(), plain.input_line or ""
    # choice() takes no null, and removes the quotes of a string, so that '1' comes back as a number. A second pair of
    # quotes helps, except around '1 2', where Hydra escapes the first pair
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
    """Hydra's parser of overrides, without the options of groups, which only glob(...) needs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()
