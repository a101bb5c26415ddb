"""Overrides in Hydra's syntax, read and written."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Transformer
from hydra.errors import HydraException

from lab.errors import ConfigError

UNQUOTED = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)


def swept_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys, without + and ~, whose value is not the same in all jobs, in order of first appearance."""
    values = [dict(split_override(override) for override in job) for job in jobs]
    keys = dict.fromkeys(key for job in values for key in job)
    return [key for key in keys if len({job.get(key) for job in values}) > 1]


def override_path(override: Override) -> str:
    return override.key_or_group.replace("/", ".")


@cache
def override_value(override: str) -> Any:
    """What Hydra reads of a plain override."""
    return OverridesParser.create().parse_override(override).value()


def override_key(override: str) -> str:
    return split_override(override)[0]


def write_override(key: str, given: Any) -> str:
    """The override that Hydra reads back as the same value."""
    try:
        override = f"{key}={Transformer.str(quoted_element(given))}"
        if repr(override_value(override)) == repr(given):
            return override
    except (HydraException, AssertionError):  # the latter is Hydra's for a type that it has no text for
        pass
    raise ConfigError(
        f"Hydra has no override for {key}: {given!r} of sweep; name it by a YAML file of a group in conf/"
    )


def quoted_element(given: Any) -> Any:
    """A value as Hydra's parser would hold it: strings quoted that would read as something else."""
    if isinstance(given, str):
        return given if UNQUOTED.fullmatch(given) else QuotedString(given, Quote.single)
    if isinstance(given, list):
        return [quoted_element(one) for one in given]
    if isinstance(given, dict):
        return {key: quoted_element(one) for key, one in given.items()}
    return given


WORD = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


RESERVED = ("true", "false", "null", "inf", "nan")  # words that Hydra reads as something else


def choice_text(value: Any) -> str:
    """As an override gives the same value. choice('0','x y') has lost its quotes, of which the first makes a string."""
    from hydra.core.override_parser.types import Quote, QuotedString, Transformer

    quoted = isinstance(value, str) and (not WORD.fullmatch(value) or value.lower() in RESERVED)
    return Transformer.str(QuotedString(value, Quote.single) if quoted else value)


def split_override(override: str) -> tuple[str, str]:
    """`optimizer.lr` and `0.1` of optimizer.lr=0.1, ++optimizer.lr=0.1 and the like; no value where there is none."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
