"""Redaction of secrets in the files that a run writes."""

import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

SECRET_WORDS = (
    r"api_?keys?|access_?keys?|private_?keys?|secrets?|tokens?|passwords?|passwd|credentials?|auth|authorization"
)
SECRET = re.compile(rf"(^|[_.])({SECRET_WORDS})($|[_.])", re.IGNORECASE)

# secrets that tell by themselves: keys of well-known services, tokens, private keys, and the password in a URL
SECRET_TEXT = re.compile(
    r"\b(?:sk-[\w-]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|hf_\w{20,}|xox[abprs]-[\w-]{10,}"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
    r"|(?<=Bearer )[\w.~+/-]{8,}=*|(?<=Basic )[\w+/]{8,}=*|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
SHORTEST_SECRET = 6  # characters of an environment variable's value; a shorter one may be part of any word


def redact(value: Any, secret: bool = False) -> Any:
    """The nest, with values below keys that name a secret replaced.  secret: whether all of `value` is secret."""
    if isinstance(value, Mapping):
        return {key: redact(part, secret or names_secret(str(key), part)) for key, part in value.items()}
    if isinstance(value, list):
        # an element may be an override, as in Hydra's own node
        return [redact(redact_text(part) if isinstance(part, str) else part, secret) for part in value]
    if secret and value is not None:
        return "<redacted>"
    return redact_values(value) if isinstance(value, str) else value


def redact_values(text: str) -> str:
    """The text without secrets that tell by themselves, and without the values of environment variables whose names
    name a secret, wherever they come from."""
    if len(text) < SHORTEST_SECRET:
        return text
    for secret in secret_variables():
        text = text.replace(secret, "<redacted>")
    return SECRET_TEXT.sub("<redacted>", text)


@cache
def secret_variables() -> tuple[str, ...]:
    """The values of this process's environment variables whose names name a secret."""
    return tuple(value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST_SECRET)


def names_secret(key: str, value: Any) -> bool:
    """Whether the value of this key is a secret."""
    # a number of tokens, such as max_tokens, is not a secret
    return find_secret_word(key) and not ("token" in key.lower() and isinstance(value, int | float))


@lru_cache(10_000)
def find_secret_word(key: str) -> bool:
    return bool(SECRET.search(key))


def redact_text(text: str) -> str:
    """The text, such as an override or a diff, with the rest of each line after the name of a secret replaced."""
    return redact_values(re.sub(rf"(?im)([\w.]*(?:{SECRET_WORDS})[\"']?\s*[=:]\s*).+$", r"\1<redacted>", text))
